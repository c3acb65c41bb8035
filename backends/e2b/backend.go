package e2b

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A Backend makes the sandboxes of one profile.
type Backend struct {
	spec    backends.Spec
	options *Options
	log     *slog.Logger
	client  *client
	running sync.WaitGroup // what goes on beside sandboxes: renewals, removals
}

var _ backends.Backend = (*Backend)(nil)

// Metadata of every sandbox.
const (
	metaMark     = reserved               // "true"
	metaInstance = reserved + ".instance" // who made it …
	metaBoot     = reserved + ".boot"     // … and when
	metaProfile  = reserved + ".profile"  //
	metaSandbox  = reserved + ".sandbox"  // a word of our own, to find it by when the answer is lost
)

// firstTimeout is how long a sandbox lives before it is first renewed, which
// is at once: so much a sandbox costs that was made, but of which the answer
// never came.
const firstTimeout = 2 * time.Minute

// readyTimeout is how long a new sandbox may take to run its first command.
const readyTimeout = 30 * time.Second

// open binds the driver to a profile. It does no I/O.
func open(s backends.Spec, o *Options, log *slog.Logger) (*Backend, error) {
	if !s.Network {
		for key, list := range map[string][]string{"e2b_allow_out": o.AllowOut, "e2b_deny_out": o.DenyOut} {
			if len(list) > 0 {
				return nil, &backends.OptionError{Key: key, Problem: "it needs a network; set network = true, or leave it out"}
			}
		}
	}
	if a := o.plaintext(); a != "" {
		log.Warn("the API key or what runs in sandboxes goes over the network unencrypted", "address", a)
	}
	return &Backend{spec: s, options: o, log: log, client: newClient(o)}, nil
}

// Check asks the control plane for one sandbox of the account, which shows
// that it is there and takes the key. It does not know whether there is such a
// template: E2B has no call for that which every service has.
func (b *Backend) Check(ctx context.Context) error {
	_, err := b.client.idempotent(ctx, http.MethodGet, "/v2/sandboxes?limit=1", nil, nil)
	if unknownCall(err) {
		_, err = b.client.idempotent(ctx, http.MethodGet, "/sandboxes", nil, nil)
	}
	if err != nil {
		return explain(err)
	}
	return nil
}

// request is the creation of a sandbox.
func (b *Backend) request() newSandbox {
	meta := map[string]string{
		metaMark:     "true",
		metaInstance: b.spec.Owner.Instance,
		metaBoot:     b.spec.Owner.Boot,
		metaProfile:  b.spec.Profile,
		metaSandbox:  strings.ToLower(rand.Text()),
	}
	maps.Copy(meta, b.options.Metadata)
	r := newSandbox{
		Template: b.options.Template,
		Timeout:  int(min(firstTimeout, b.options.SandboxTimeout.D()) / time.Second),
		Metadata: meta,
		Internet: b.spec.Network,
		Network:  network{AllowOut: b.options.AllowOut, DenyOut: b.options.DenyOut},
	}
	if len(r.Network.AllowOut) > 0 {
		// Otherwise what is not allowed is allowed too.
		r.Network.DenyOut = append([]string{"0.0.0.0/0"}, r.Network.DenyOut...)
	}
	return r
}

// Create makes a sandbox.
func (b *Backend) Create(ctx context.Context) (backends.Sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	began := time.Now()
	backends.Report(ctx, backends.Progress{Message: "starting a sandbox of the template " + b.options.Template})
	req := b.request()
	c, err := b.client.create(ctx, req, b.log)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("create sandbox: %w", b.createError(err))
	}
	s, err := b.begin(ctx, c, req)
	if err == nil && ctx.Err() != nil {
		s.end(backends.ErrClosed)
		err = context.Cause(ctx)
	}
	if err != nil {
		b.removeFailed(ctx, c.ID)
		return nil, err
	}
	s.log.Debug("sandbox created", "template", b.options.Template, "envd", c.Version, "took", time.Since(began))
	return s, nil
}

// begin makes a sandbox of what the service has made, once it runs commands.
func (b *Backend) begin(ctx context.Context, c created, req newSandbox) (*sandbox, error) {
	s := newSandboxOf(b, c, req.Metadata[metaSandbox], time.Duration(req.Timeout)*time.Second)
	if c.Token == "" {
		s.log.Warn("the service gave no access token for a sandbox: whoever knows its id can run commands in it")
	}
	ready, cancel := readySoon(ctx)
	defer cancel()
	if err := s.look(ready); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("run a first command in the new sandbox: %w", err)
	}
	s.startKeeping()
	return s, nil
}

// readySoon is ctx with an end for a sandbox that does not come.
func readySoon(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("it took longer than %v", readyTimeout))
}

// startKeeping has the sandbox renewed until it ends.
func (s *sandbox) startKeeping() {
	life, stop := context.WithCancel(context.Background())
	s.mu.Lock()
	s.stopKeeping = stop
	s.mu.Unlock()
	s.backend.running.Go(func() { s.keep(life) })
}

// removeFailed ends a sandbox whose Create failed.
func (b *Backend) removeFailed(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	if err := b.client.kill(ctx, id); err != nil {
		b.log.Error("a sandbox is left over; the service ends it by itself", "sandbox", id, "error", err)
	}
}

// createError adds what to do about the refusals that a profile can cause.
func (b *Backend) createError(err error) error {
	var e *apiError
	if errors.As(err, &e) && (e.Status == http.StatusNotFound || e.Status == http.StatusBadRequest) &&
		strings.Contains(strings.ToLower(e.Message), "template") {
		return fmt.Errorf("the account has no template %s that can be used; build it, or change e2b_template: %w", b.options.Template, err)
	}
	if errors.As(err, &e) && e.Status == http.StatusNotFound {
		return fmt.Errorf("the control plane at %s does not make sandboxes; check api_url and domain: %w", hostOf(b.client.api), err)
	}
	return explain(err)
}

func hostOf(address string) string {
	if u, err := url.Parse(address); err == nil {
		return u.Host
	}
	return address
}

// Close waits for what goes on beside sandboxes that are closed, and lets go
// of the service.
func (b *Backend) Close() error {
	b.running.Wait()
	b.client.close()
	return nil
}
