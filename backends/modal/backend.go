package modal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kilntainers/kilntainers/backends"
)

// Tags of a sandbox. The last is its own name, by which it is found when the
// answer to its creation was lost.
const (
	tagMark     = "kilntainers" // "true"
	tagInstance = "kilntainers.instance"
	tagBoot     = "kilntainers.boot"
	tagProfile  = "kilntainers.profile"
	tagSandbox  = "kilntainers.sandbox"
)

// Time limits. Those of the second group are shorter in tests.
const (
	callTimeout   = 30 * time.Second // of one call of the API
	createTimeout = 2 * time.Minute  // of a creation
	readyTimeout  = 2 * time.Minute  // from creation to the first command's end
	removeTimeout = time.Minute      // to terminate a sandbox

	// orphanLife is how long Modal keeps a sandbox in which nothing runs: what
	// a daemon that died costs. A daemon that lives renews it.
	orphanLife = 10 * time.Minute
)

var (
	gpuTimeout   = 15 * time.Minute // of a creation that has to wait for a GPU
	lateTimeout  = 10 * time.Second // for the answer to a creation that nobody waits for any more
	startTimeout = 30 * time.Second // for Modal to take a command
	renewEvery   = 4 * time.Minute  // well within orphanLife, so that one failure does no harm
)

// creations spreads out what this process creates. Modal's own limit, which it
// does not publish, is heeded too: it tells how long to wait, and the SDK does.
var creations = rate.NewLimiter(5, 10)

// A Backend makes the sandboxes of one profile.
type Backend struct {
	spec    backends.Spec
	options *Options
	log     *slog.Logger

	mu      sync.Mutex
	current *client
	clients []*client // all, to be closed

	turn  chan struct{} // held while ready is used; a channel, to wait for it with a ctx
	ready *place

	beside sync.WaitGroup // what goes on after a call has returned
}

var _ backends.Backend = (*Backend)(nil)

// A place is where sandboxes are made, and what they are made of.
type place struct {
	client  *client
	app     *sdk.App
	image   *sdk.Image
	secrets []*sdk.Secret
}

// open binds the driver to a profile. It does no I/O.
func open(s backends.Spec, o *Options, log *slog.Logger) *Backend {
	return &Backend{
		spec:    s,
		options: o,
		log:     log,
		turn:    make(chan struct{}, 1),
	}
}

// Check asks Modal whether it takes the token, and makes the app if it is
// missing. It does not build the image.
func (b *Backend) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := retry(b, func(c *client) (*sdk.App, error) {
		p := &place{client: c}
		err := b.findApp(ctx, p)
		return p.app, err
	})
	return err
}

// retry calls f with the backend's connection, and once more when Modal does
// not know the token but there is another one by now.
func retry[T any](b *Backend, f func(*client) (T, error)) (v T, err error) {
	c, err := b.client(nil)
	if err != nil {
		return v, err
	}
	v, err = f(c)
	if refused(err) {
		other, cerr := b.client(c)
		if cerr != nil {
			return v, cerr
		}
		if other != c {
			c = other
			v, err = f(c)
		}
	}
	return v, explain(c.token, err)
}

// Create makes a sandbox.
func (b *Backend) Create(ctx context.Context) (backends.Sandbox, error) {
	if err := creations.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	s, err := retry(b, func(c *client) (*sandbox, error) { return b.createWith(ctx, c) })
	switch {
	case err == nil:
		return s, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, err
}

// createWith makes a sandbox in the place that is ready, or in a new one when
// something of the old is no more there.
func (b *Backend) createWith(ctx context.Context, c *client) (*sandbox, error) {
	p, fresh, err := b.place(ctx, c)
	if err != nil {
		return nil, err
	}
	s, err := b.launch(ctx, p)
	if !notFound(err) || fresh {
		return s, err
	}
	b.forget(ctx, p)
	if p, _, err = b.place(ctx, c); err != nil {
		return nil, err
	}
	return b.launch(ctx, p)
}

// place returns where sandboxes are made, and whether it was found just now.
// Only one caller looks, and so builds the image, at a time: the SDK is not
// made for several at once.
func (b *Backend) place(ctx context.Context, c *client) (_ *place, fresh bool, err error) {
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	defer func() { <-b.turn }()
	if b.ready != nil && b.ready.client == c {
		return b.ready, false, nil
	}
	p := &place{client: c}
	for _, find := range []func(context.Context, *place) error{b.findApp, b.findSecrets, b.buildImage} {
		if err := find(ctx, p); err != nil {
			return nil, false, err
		}
	}
	b.ready = p
	return p, true, nil
}

// forget lets the next caller of place look again.
func (b *Backend) forget(ctx context.Context, p *place) {
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-b.turn }()
	if b.ready == p {
		b.ready = nil
	}
}

func (b *Backend) findApp(ctx context.Context, p *place) (err error) {
	p.app, err = p.client.Apps.FromName(ctx, b.options.AppName, &sdk.AppFromNameParams{CreateIfMissing: true})
	if err != nil {
		return fmt.Errorf("look for the app %s: %w", b.options.AppName, err)
	}
	return nil
}

func (b *Backend) findSecrets(ctx context.Context, p *place) error {
	for _, name := range b.options.Secrets {
		s, err := p.client.Secrets.FromName(ctx, name, nil)
		if err != nil {
			return fmt.Errorf("look for the Modal Secret %s: %w", name, err)
		}
		p.secrets = append(p.secrets, s)
	}
	return nil
}

// buildImage has Modal pull the image, unless it has it. The image's entrypoint
// is taken away: it would run in place of the sandbox's own, and end it.
func (b *Backend) buildImage(ctx context.Context, p *place) (err error) {
	name := b.options.image()
	backends.Report(ctx, backends.Progress{Message: "building " + name})
	image := p.client.Images.FromRegistry(name, nil).DockerfileCommands([]string{"ENTRYPOINT []"}, nil)
	p.image, err = image.Build(ctx, p.app, nil)
	if errors.As(err, new(sdk.RemoteError)) {
		return fmt.Errorf("the image %s cannot be had; check that its name is right and that Modal can pull it: %w", name, err)
	}
	if err != nil {
		return fmt.Errorf("build the image %s: %w", name, err)
	}
	return nil
}

// launch makes one sandbox and waits until it runs commands. Whatever fails,
// it is gone when launch returns, or will be soon.
func (b *Backend) launch(ctx context.Context, p *place) (*sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	name := b.newName()
	call, cancel := b.untilLate(ctx)
	defer cancel()
	box, err := p.client.Sandboxes.Create(call, p.app, p.image, b.params(p, name))
	if err != nil {
		if !unmade(err) {
			b.takeBackUnknown(ctx, p, name)
		}
		return nil, b.createError(err)
	}
	s := newSandbox(b, p.client, box, name)
	if err := s.look(ctx); err != nil {
		s.takeBack()
		return nil, err
	}
	s.attend()
	s.log.Debug("sandbox created", "modal", s.id, "took", time.Since(s.made))
	return s, nil
}

// params is what a sandbox is to be.
func (b *Backend) params(p *place, name string) *sdk.SandboxCreateParams {
	o := b.options
	params := &sdk.SandboxCreateParams{
		CPU:            o.CPU,
		CPULimit:       o.CPU,
		MemoryMiB:      int(o.Memory),
		MemoryLimitMiB: int(o.Memory),
		GPU:            o.GPU,
		Timeout:        o.SandboxTimeout.D(),
		BlockNetwork:   !b.spec.Network,
		Secrets:        p.secrets,
		Tags: map[string]string{
			tagMark:     "true",
			tagInstance: b.spec.Owner.Instance,
			tagBoot:     b.spec.Owner.Boot,
			tagProfile:  b.spec.Profile,
			tagSandbox:  name,
		},
	}
	if o.Region != "" {
		params.Regions = []string{o.Region}
	}
	if o.SandboxTimeout.D() > orphanLife {
		params.IdleTimeout = orphanLife
	}
	return params
}

// newName makes the name of a sandbox.
func (b *Backend) newName() string {
	return "kilntainers-" + b.spec.Profile + "-" + strings.ToLower(newWord()[:12])
}

// untilLate returns the ctx of a creation. It outlives the caller's by a
// little, because a creation that is broken off may have made a sandbox. One
// that waits for a GPU is broken off at once: then the SDK takes it back.
func (b *Backend) untilLate(ctx context.Context) (context.Context, context.CancelFunc) {
	limit, late := createTimeout, lateTimeout
	if b.options.GPU != "" {
		limit, late = gpuTimeout, 0
	}
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(late):
			cancel()
		case <-call.Done():
		}
	})
	return call, func() { stop(); cancel() }
}

// createError adds what to do about the refusals that a profile can cause.
func (b *Backend) createError(err error) error {
	full := errors.As(err, new(sdk.ResourceExhaustedError)) || errors.Is(err, context.DeadlineExceeded) ||
		status.Code(err) == codes.ResourceExhausted
	if o := b.options; o.GPU != "" && full {
		return fmt.Errorf("no GPU %s is free at Modal now%s; try again later, or another gpu or region: %w", o.GPU, in(o.Region), err)
	}
	return fmt.Errorf("create sandbox: %w", err)
}

func in(region string) string {
	if region == "" {
		return ""
	}
	return " in " + region
}

// takeBackUnknown looks for a sandbox whose creation was not answered, and
// terminates it. It looks more than once: it may only just be coming.
func (b *Backend) takeBackUnknown(ctx context.Context, p *place, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	for range 3 {
		n, err := terminateAll(ctx, p, map[string]string{tagSandbox: name})
		if err != nil {
			b.log.Error("a sandbox may be left over; it ends by itself, or at the next start", "sandbox", name, "error", explain(p.client.token, err))
			return
		}
		if n > 0 {
			return
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// terminateAll terminates the sandboxes with these tags.
func terminateAll(ctx context.Context, p *place, tags map[string]string) (n int, err error) {
	list, err := p.client.Sandboxes.List(ctx, &sdk.SandboxListParams{AppID: p.app.AppID, Tags: tags})
	if err != nil {
		return 0, err
	}
	for box, err := range list {
		if err != nil {
			return n, err
		}
		n++
		if err := terminate(ctx, box); err != nil {
			return n, err
		}
	}
	return n, nil
}

// terminate ends a sandbox and waits until it has ended.
func terminate(ctx context.Context, box *sdk.Sandbox) error {
	_, err := box.Terminate(ctx, &sdk.SandboxTerminateParams{Wait: true})
	if notFound(err) {
		return nil
	}
	return err
}

// Close closes the connections. It waits for what still goes on.
func (b *Backend) Close() error {
	b.beside.Wait()
	for _, c := range b.clients {
		c.Close()
	}
	return nil
}
