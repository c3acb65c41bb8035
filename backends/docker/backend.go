package docker

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/system"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/agent"
)

// A Backend makes the sandboxes of one profile.
type Backend struct {
	spec    backends.Spec
	options *Options
	flags   *runFlags
	log     *slog.Logger

	engines []*engine
	picking sync.Mutex
}

var _ backends.Backend = (*Backend)(nil)

// Time limits. An engine under load takes seconds for what it does in
// milliseconds otherwise; without a limit a hung one would hang its callers.
const (
	callTimeout   = 30 * time.Second // of one call of the API
	helloTimeout  = 10 * time.Second // from start to the agent's first word
	removeTimeout = 30 * time.Second // to take back what failed
)

// agree reports flags about the network that contradict the profile's network
// key.
func agree(s backends.Spec, o *Options) error {
	f, problems := parseFlags(o.DockerRunFlags)
	if len(problems) > 0 {
		return nil // Validate reports them
	}
	problem := ""
	switch none := f.host.NetworkMode.IsNone(); {
	case s.Network && none:
		problem = "--network=none contradicts network = true; leave one of them out"
	case !s.Network && (f.given["network"] || f.given["net"]) && !none:
		problem = "--network contradicts network = false; set network = true"
	case !s.Network && len(f.wantNetwork) > 0:
		problem = f.wantNetwork[0] + " needs a network; set network = true"
	default:
		return nil
	}
	return &backends.OptionError{Key: "docker_run_flags", Problem: problem}
}

// open binds the driver to a profile. It does no I/O.
func open(s backends.Spec, o *Options, log *slog.Logger, connect func(*Options) ([]*engine, error)) (*Backend, error) {
	f, problems := parseFlags(o.DockerRunFlags)
	if len(problems) > 0 {
		return nil, &backends.OptionError{Key: "docker_run_flags", Problem: problems[0]}
	}
	if err := agree(s, o); err != nil {
		return nil, err
	}
	engines, err := connect(o)
	if err != nil {
		return nil, err
	}
	for _, w := range o.weaknesses(f) {
		log.Warn("the profile weakens its isolation", "key", w.key, "how", w.how)
	}
	for _, h := range o.DockerHost {
		if addr, ok := strings.CutPrefix(h, "tcp://"); ok && certDir() == "" && !loopback(addr) {
			log.Warn("the engine is controlled without TLS, as anyone on its network can", "docker_host", h)
		}
	}
	return &Backend{spec: s, options: o, flags: f, log: log, engines: engines}, nil
}

// Create makes a sandbox on the engine with the fewest of them. Engines that
// cannot be reached are passed over while there are others.
func (b *Backend) Create(ctx context.Context) (backends.Sandbox, error) {
	var tried []*engine
	var errs []error
	for {
		e := b.pick(tried)
		if e == nil {
			return nil, errors.Join(errs...)
		}
		s, err := b.createOn(ctx, e)
		if err == nil {
			e.reached(true)
			return s, nil
		}
		e.count(-1)
		tried = append(tried, e)
		errs = append(errs, err)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !unreachable(err) {
			return nil, err
		}
		e.reached(false)
	}
}

// createOn makes a sandbox on e. A start that fails is tried once more, after
// another look at the agent: somebody may have removed its volume, or another
// daemon been about to fill it.
func (b *Backend) createOn(ctx context.Context, e *engine) (*sandbox, error) {
	user, err := b.ensureImage(ctx, e)
	if err != nil {
		return nil, err
	}
	s, err := b.launch(ctx, e, user)
	if errors.As(err, new(*startError)) && ctx.Err() == nil {
		e.forgetAgent()
		return b.launch(ctx, e, user)
	}
	return s, err
}

// A startError is the failure of a container that was made as asked, and did
// not take long.
type startError struct {
	doing string
	err   error
}

func (e *startError) Error() string { return e.doing + ": " + e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// launch makes and starts one container of an image that sets this user.
// Whatever fails, the container is gone when launch returns.
func (b *Backend) launch(ctx context.Context, e *engine, user string) (_ *sandbox, err error) {
	flags, err := b.flags.resolve()
	if err != nil {
		return nil, err
	}
	k, err := e.what(ctx)
	if err != nil {
		return nil, err
	}
	name := b.newName()
	req := buildRequest(b.spec, b.options, flags, name)
	if k.podman {
		req.forPodman(flags, user)
	} else {
		req.forDocker()
	}

	id, err := e.create(ctx, req, name)
	if err != nil {
		return nil, fmt.Errorf("create container: %w", b.createError(err))
	}
	s := &sandbox{
		engine: e,
		log:    b.log.With("sandbox", name),
		id:     id,
		name:   name,
		shell:  b.spec.Shell,
		env:    b.spec.Env,
		memory: backends.Size(req.host.Memory),
		made:   time.Now(),
	}
	defer func() {
		if err != nil {
			s.takeBack(ctx)
		}
	}()

	if err := b.verify(ctx, e, id, req); err != nil {
		return nil, err
	}
	if err := b.bringAgent(ctx, e, id); err != nil {
		return nil, err
	}

	// The stream and the wait come before the start: nothing the agent says is
	// missed, and the exit code of a container that removes itself is known.
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stream, err := e.attach(call, id)
	if err != nil {
		// Podman starts half of the container here, and loses the reason.
		if serr := e.ContainerStart(call, id, container.StartOptions{}); serr != nil {
			err = serr
		}
		return nil, &startError{"attach to container", explain(err)}
	}
	s.await(ctx)
	if err := e.ContainerStart(call, id, container.StartOptions{}); err != nil {
		stream.Close()
		return nil, &startError{"start container", explain(err)}
	}
	s.stream = stream
	hello, cancel := context.WithTimeoutCause(ctx, helloTimeout, fmt.Errorf("no word of it in %v", helloTimeout))
	defer cancel()
	s.client, err = agent.New(hello, stream, agent.Options{Log: s.log, Kill: s.ended})
	if err != nil {
		if said := stream.stderr.String(); said != "" {
			err = fmt.Errorf("%w (it said: %s)", err, said)
		}
		if hello.Err() != nil {
			return nil, fmt.Errorf("start the agent: %w", err)
		}
		return nil, &startError{"start the agent", err}
	}
	s.log.Debug("sandbox created", "engine", e.at(), "container", id, "took", time.Since(s.made))
	return s, nil
}

// newName is the name of a container. With a name of ours, a container can be
// removed whose create was never answered.
func (b *Backend) newName() string {
	var r [6]byte
	rand.Read(r[:])
	return "kilntainers-" + b.spec.Profile + "-" + hex.EncodeToString(r[:])
}

// create makes a container. It does not heed the end of ctx, or nobody would
// know whether there is one: the call takes milliseconds.
func (e *engine) create(ctx context.Context, r request, name string) (id string, err error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	res, err := e.ContainerCreate(call, r.config, r.host, r.networking, nil, name)
	if err == nil {
		return res.ID, nil
	}
	err = explain(err)
	if unanswered(err) {
		err = errors.Join(err, e.removeUnanswered(ctx, name))
	}
	return "", err
}

// diskHelp is what to do about an engine that cannot limit disk space.
const diskHelp = "(Docker can with overlay2 on xfs mounted with pquota, btrfs or zfs); leave out disk, or set read_only = true with a sized tmpfs"

// createError adds what to do about the refusals that a profile can cause.
func (b *Backend) createError(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "storage-opt"):
		return fmt.Errorf("this engine cannot limit disk space %s: %w", diskHelp, err)
	case strings.Contains(strings.ToLower(text), "unknown or invalid runtime"), strings.Contains(text, "Unknown runtime"):
		return fmt.Errorf("the engine has no runtime %q; set it up there, or leave out runtime: %w", b.options.Runtime, err)
	}
	return err
}

// verify compares what the engine made with what was asked for.
func (b *Backend) verify(ctx context.Context, e *engine, id string, r request) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	got, err := e.ContainerInspect(call, id)
	if err != nil {
		return fmt.Errorf("inspect container: %w", explain(err))
	}
	lost := r.missing(got)
	if len(lost) == 0 {
		return nil
	}
	what := strings.Join(lost, ", ")
	if b.options.AllowUnsafe {
		b.log.Warn("the engine dropped limits of a sandbox", "engine", e.at(), "limits", lost)
		return nil
	}
	return fmt.Errorf("the engine at %s does not keep what the profile asks for: %s. "+
		"Rootless Podman needs cgroup v2 to limit, and swap needs the kernel's swap accounting (swapaccount=1); "+
		"use another engine, or set allow_unsafe = true to do without", e.at(), what)
}

// Check asks every engine whether it is there and has, or can get, the image.
// One that can is enough.
func (b *Backend) Check(ctx context.Context) error {
	var errs []error
	for _, e := range b.engines {
		err := b.checkOn(ctx, e)
		e.reached(!unreachable(err))
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) < len(b.engines) {
		for _, err := range errs {
			b.log.Warn("an engine cannot be used", "error", err)
		}
		return nil
	}
	return errors.Join(errs...)
}

func (b *Backend) checkOn(ctx context.Context, e *engine) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := e.Info(ctx)
	if err != nil {
		return explain(err)
	}
	k, err := e.what(ctx)
	if err != nil {
		return err
	}
	if err := b.checkInfo(e, k, info); err != nil {
		return err
	}
	img, err := e.ImageInspect(ctx, b.options.Image)
	switch {
	case err == nil:
		return e.runs(ctx, b.options.Image, img)
	case !errdefs.IsNotFound(err):
		return fmt.Errorf("look for the image %s: %w", b.options.Image, explain(err))
	case b.options.Pull == "never":
		return b.absent(e)
	}
	return b.checkPull(ctx, e)
}

// checkInfo compares what the profile needs with what the engine says it has.
func (b *Backend) checkInfo(e *engine, k kind, info system.Info) error {
	h := newRequest(b.spec, b.options, "").host
	if k.podman && h.Runtime != "" {
		return fmt.Errorf("the Podman at %s has one runtime for all containers; start its service with --runtime %s, and leave out runtime", e.at(), h.Runtime)
	}
	if _, ok := info.Runtimes[h.Runtime]; h.Runtime != "" && !ok {
		return fmt.Errorf("the engine at %s has no runtime %q; set it up there, or leave out runtime", e.at(), h.Runtime)
	}
	if store := diskless(info); h.StorageOpt["size"] != "" && store != "" {
		return fmt.Errorf("the engine at %s cannot limit disk space with %s %s", e.at(), store, diskHelp)
	}
	var lost []string
	if h.Memory > 0 && !info.MemoryLimit {
		lost = append(lost, "memory")
	}
	if h.MemorySwap > 0 && !info.SwapLimit {
		lost = append(lost, "swap")
	}
	if h.NanoCPUs > 0 && !info.CPUCfsQuota {
		lost = append(lost, "cpu")
	}
	if h.PidsLimit != nil && *h.PidsLimit > 0 && !info.PidsLimit {
		lost = append(lost, "pids_limit")
	}
	rootless := slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return strings.Contains(o, "rootless") })
	if rootless && cmp.Or(info.CgroupVersion, "1") == "1" {
		lost = []string{"memory", "cpu", "pids_limit"}
	}
	if len(lost) > 0 && !b.options.AllowUnsafe {
		return fmt.Errorf("the engine at %s cannot limit %s; a rootless engine needs cgroup v2, and swap needs the kernel's swap accounting (swapaccount=1)",
			e.at(), strings.Join(lost, ", "))
	}
	return nil
}

// diskless names the storage of an engine that refuses any limit of disk space.
// It returns "" for what can limit, and for what may or may not: whether xfs is
// mounted with pquota, only a container tells.
func diskless(info system.Info) string {
	switch info.Driver {
	case "aufs", "fuse-overlayfs":
		return info.Driver
	case "overlay", "overlay2": // the first is Podman's name
		if fs := backing(info); fs != "" && fs != "<unknown>" && fs != "xfs" {
			return info.Driver + " on " + fs
		}
	}
	return ""
}

// backing is the file system below the engine's storage, as the engine calls
// it, or "".
func backing(info system.Info) string {
	for _, s := range info.DriverStatus {
		if s[0] == "Backing Filesystem" {
			return s[1]
		}
	}
	return ""
}

// checkPull asks the registry for the image, through the engine.
func (b *Backend) checkPull(ctx context.Context, e *engine) error {
	ref, err := reference.ParseAnyReference(b.options.Image)
	if err != nil {
		return err
	}
	named, ok := ref.(reference.Named)
	if !ok {
		return fmt.Errorf("the image %s is not on the engine at %s, and an id cannot be pulled; pull it by its name", b.options.Image, e.at())
	}
	auth, err := registryAuth(named)
	if err != nil {
		return err
	}
	k, err := e.what(ctx)
	if err != nil || k.podman {
		return err // Podman's API has no such call: a pull will tell
	}
	_, err = e.DistributionInspect(ctx, reference.TagNameOnly(named).String(), auth)
	if err == nil {
		return nil
	}
	return pullError(b.options.Image, auth != "", err)
}

// Close lets go of the engines.
func (b *Backend) Close() error {
	var errs []error
	for _, e := range b.engines {
		errs = append(errs, e.close())
	}
	return errors.Join(errs...)
}
