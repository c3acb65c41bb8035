package docker

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/agent"
)

// A fakeEngine has containers that only say hello, and fails on demand.
type fakeEngine struct {
	// fail is called at the start of each call, with its name. What it returns
	// is the call's error, and the call does nothing.
	fail func(ctx context.Context, call string) error

	// lose makes a create do its work, that much later, and not answer.
	lose func() (late time.Duration, lost bool)

	mute    bool                             // containers say nothing
	says    string                           // and this on stderr
	tell    func(*container.InspectResponse) // changes what inspect says
	pullLog string                           // events of a pull
	pulling func(ctx context.Context)        // called in a pull before its events

	mu         sync.Mutex
	noImage    bool
	agent      []byte // in the volume
	containers map[string]*fakeContainer
	events     []events.Message
	calls      []string
	volumes    []*volume.Volume
	users      map[string]int // containers that use a volume
}

type fakeContainer struct {
	id, name  string
	config    container.Config
	host      container.HostConfig
	fill      bool // the agent's volume can be written to
	here      net.Conn
	there     net.Conn
	gone      chan struct{}
	conflicts int
}

func newFake() *fakeEngine {
	return &fakeEngine{containers: map[string]*fakeContainer{}, users: map[string]int{}}
}

// call notes a call, and fails it when the test says so.
func (f *fakeEngine) call(ctx context.Context, name string) error {
	f.mu.Lock()
	f.calls = append(f.calls, name)
	fail := f.fail
	f.mu.Unlock()
	if fail != nil {
		if err := fail(ctx, name); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (f *fakeEngine) find(id string) *fakeContainer {
	for _, c := range f.containers {
		if c.id == id || c.name == id {
			return c
		}
	}
	return nil
}

// daemonSays is an error as the client makes it of an engine's answer.
func daemonSays(kind error, text string) error {
	return &fakeError{fmt.Errorf("Error response from daemon: %s", text), kind}
}

type fakeError struct {
	error
	kind error
}

func (e *fakeError) Is(target error) bool { return target == e.kind }

func (f *fakeEngine) Info(ctx context.Context) (system.Info, error) {
	return system.Info{OSType: "linux", MemoryLimit: true, SwapLimit: true, CPUCfsQuota: true, PidsLimit: true,
		Runtimes: map[string]system.RuntimeWithStatus{"runc": {}}}, f.call(ctx, "Info")
}

func (f *fakeEngine) ServerVersion(ctx context.Context) (types.Version, error) {
	return types.Version{Os: "linux", Arch: "amd64"}, f.call(ctx, "ServerVersion")
}

func (f *fakeEngine) Events(ctx context.Context, o events.ListOptions) (<-chan events.Message, <-chan error) {
	msgs, errs := make(chan events.Message), make(chan error, 1)
	if err := f.call(ctx, "Events"); err != nil {
		errs <- err
		return msgs, errs
	}
	f.mu.Lock()
	list := slices.Clone(f.events)
	f.mu.Unlock()
	go func() {
		for _, m := range list {
			select {
			case msgs <- m:
			case <-ctx.Done():
			}
		}
		<-ctx.Done()
		errs <- ctx.Err()
	}()
	return msgs, errs
}

func (f *fakeEngine) ImageInspect(ctx context.Context, name string, _ ...client.ImageInspectOption) (image.InspectResponse, error) {
	if err := f.call(ctx, "ImageInspect"); err != nil {
		return image.InspectResponse{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noImage {
		return image.InspectResponse{}, daemonSays(errdefs.ErrNotFound, "No such image: "+name)
	}
	return image.InspectResponse{Os: "linux", Architecture: "amd64"}, nil
}

func (f *fakeEngine) ImagePull(ctx context.Context, _ string, _ image.PullOptions) (io.ReadCloser, error) {
	if err := f.call(ctx, "ImagePull"); err != nil {
		return nil, err
	}
	if f.pulling != nil {
		f.pulling(ctx)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !strings.Contains(f.pullLog, "error") {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.noImage = false
	}
	return io.NopCloser(strings.NewReader(f.pullLog)), nil
}

func (f *fakeEngine) DistributionInspect(ctx context.Context, _, _ string) (registry.DistributionInspect, error) {
	return registry.DistributionInspect{}, f.call(ctx, "DistributionInspect")
}

func (f *fakeEngine) ContainerCreate(ctx context.Context, c *container.Config, h *container.HostConfig, _ *network.NetworkingConfig, _ *ocispec.Platform, name string) (container.CreateResponse, error) {
	if err := f.call(ctx, "ContainerCreate"); err != nil {
		return container.CreateResponse{}, err
	}
	made := &fakeContainer{id: "id-of-" + name, name: name, config: *c, host: *h, gone: make(chan struct{})}
	made.fill = slices.ContainsFunc(h.Mounts, func(m mount.Mount) bool { return m.Target == agentDir && !m.ReadOnly })
	if f.lose != nil {
		if late, lost := f.lose(); lost {
			go func() {
				time.Sleep(late)
				f.mu.Lock()
				defer f.mu.Unlock()
				f.containers[made.id] = made
			}()
			return container.CreateResponse{}, io.ErrUnexpectedEOF
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.containers[made.id] = made
	return container.CreateResponse{ID: made.id}, nil
}

func (f *fakeEngine) ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error) {
	if err := f.call(ctx, "ContainerInspect"); err != nil {
		return container.InspectResponse{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.find(id)
	if c == nil {
		return container.InspectResponse{}, daemonSays(errdefs.ErrNotFound, "No such container: "+id)
	}
	host := c.host
	r := container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: c.id, HostConfig: &host, State: &container.State{Running: true}},
		Config:            &c.config,
	}
	if f.tell != nil {
		f.tell(&r)
	}
	return r, nil
}

func (f *fakeEngine) ContainerAttach(ctx context.Context, id string, _ container.AttachOptions) (types.HijackedResponse, error) {
	if err := f.call(ctx, "ContainerAttach"); err != nil {
		return types.HijackedResponse{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.find(id)
	c.here, c.there = net.Pipe()
	return types.HijackedResponse{Conn: c.here, Reader: bufio.NewReader(c.here)}, nil
}

func (f *fakeEngine) ContainerWait(ctx context.Context, id string, _ container.WaitCondition) (<-chan container.WaitResponse, <-chan error) {
	done, failed := make(chan container.WaitResponse, 1), make(chan error, 1)
	if err := f.call(ctx, "ContainerWait"); err != nil {
		failed <- err
		return done, failed
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.find(id)
	go func() {
		select {
		case <-c.gone:
			done <- container.WaitResponse{StatusCode: 137}
		case <-ctx.Done():
			failed <- ctx.Err()
		}
	}()
	return done, failed
}

func (f *fakeEngine) ContainerStart(ctx context.Context, id string, _ container.StartOptions) error {
	if err := f.call(ctx, "ContainerStart"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.find(id)
	if c.there == nil {
		return daemonSays(errdefs.ErrInternal, "started without a stream")
	}
	if f.agent == nil {
		return daemonSays(errdefs.ErrInternal, "exec: /.kilntainers/kilntainers-init: no such file or directory")
	}
	go io.Copy(io.Discard, c.there)
	if f.says != "" {
		go c.there.Write(block(2, []byte(f.says)))
	}
	if !f.mute {
		go c.there.Write(block(1, hello))
	}
	return nil
}

// hello is the agent's first frame (agent/frame.go): version 2, user 0, both
// shells.
var hello = []byte{12, 0, 0, 0, 0x81, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0}

// block is output as engines send it over an attached stream.
func block(stream byte, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{stream, 0, 0, 0}, uint32(len(data))), data...)
}

func (f *fakeEngine) ContainerRemove(ctx context.Context, id string, _ container.RemoveOptions) error {
	if err := f.call(ctx, "ContainerRemove"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.find(id)
	if c == nil {
		return daemonSays(errdefs.ErrNotFound, "No such container: "+id)
	}
	if c.conflicts > 0 {
		c.conflicts--
		return daemonSays(errdefs.ErrConflict, "removal of container "+id+" is already in progress")
	}
	f.end(c)
	return nil
}

// end is the death of a container. f.mu is held.
func (f *fakeEngine) end(c *fakeContainer) {
	delete(f.containers, c.id)
	close(c.gone)
	if c.there != nil {
		c.there.Close()
	}
}

func (f *fakeEngine) ContainerList(ctx context.Context, o container.ListOptions) (list []container.Summary, err error) {
	if err := f.call(ctx, "ContainerList"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := o.Filters.Get("volume"); len(v) > 0 {
		return make([]container.Summary, f.users[v[0]]), nil
	}
	for _, c := range f.containers { // a filter that matches everything, to see that nobody relies on it
		list = append(list, container.Summary{ID: c.id, Labels: c.config.Labels})
	}
	return list, nil
}

func (f *fakeEngine) CopyToContainer(ctx context.Context, id, dir string, archive io.Reader, _ container.CopyToContainerOptions) error {
	if err := f.call(ctx, "CopyToContainer"); err != nil {
		return err
	}
	r := tar.NewReader(archive)
	head, err := r.Next()
	if err != nil {
		return err
	}
	data, err := io.ReadAll(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.find(id); c == nil || !c.fill || dir != agentDir || head.Name != agent.Name || head.Mode != 0o755 {
		return daemonSays(errdefs.ErrInternal, "cannot copy")
	}
	f.agent = data
	return err
}

func (f *fakeEngine) CopyFromContainer(ctx context.Context, _, path string) (io.ReadCloser, container.PathStat, error) {
	if err := f.call(ctx, "CopyFromContainer"); err != nil {
		return nil, container.PathStat{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.agent == nil {
		return nil, container.PathStat{}, daemonSays(errdefs.ErrNotFound, "Could not find the file "+path)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	w.WriteHeader(&tar.Header{Name: agent.Name, Mode: 0o755, Size: int64(len(f.agent))})
	w.Write(f.agent)
	w.Close()
	return io.NopCloser(&archive), container.PathStat{}, nil
}

func (f *fakeEngine) VolumeList(ctx context.Context, _ volume.ListOptions) (volume.ListResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return volume.ListResponse{Volumes: slices.Clone(f.volumes)}, nil
}

func (f *fakeEngine) VolumeRemove(ctx context.Context, name string, force bool) error {
	if err := f.call(ctx, "VolumeRemove"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.volumes = slices.DeleteFunc(f.volumes, func(v *volume.Volume) bool { return v.Name == name })
	return nil
}

// names lists the fake's containers.
func (f *fakeEngine) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.containers))
}

func (f *fakeEngine) count(call string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c == call {
			n++
		}
	}
	return n
}

var discard = slog.New(slog.DiscardHandler)

// fakeBackend is a Backend on fake engines.
func fakeBackend(t *testing.T, edit func(*Options), fakes ...*fakeEngine) *Backend {
	t.Helper()
	o := defaults()
	if edit != nil {
		edit(o)
	}
	s := backends.Spec{Profile: "p", Owner: backends.Owner{Instance: "i", Boot: "b"}}
	b, err := open(s, o, discard, func(*Options) (list []*engine, err error) {
		for i, f := range fakes {
			list = append(list, &engine{api: f, at: func() string { return fmt.Sprintf("fake %d", i) }, is: func(a string) bool { return a == fmt.Sprintf("fake %d", i) }, close: func() error { return nil }})
		}
		return list, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nothingLeft checks that an engine has no container and counts none.
func nothingLeft(t *testing.T, b *Backend, fakes ...*fakeEngine) {
	t.Helper()
	for i, f := range fakes {
		if n := f.names(); len(n) > 0 {
			t.Errorf("left behind: %q", n)
		}
		if n := b.engines[i].live; n != 0 {
			t.Errorf("the engine counts %d sandboxes, want 0", n)
		}
	}
}

// TestFakeSandbox: the way of a sandbox whose engine does everything right.
func TestFakeSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		b := fakeBackend(t, nil, f)
		s, err := b.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"ImageInspect", "ServerVersion", "ContainerCreate", "ContainerInspect",
			"CopyFromContainer", "ContainerCreate", "CopyToContainer", "ContainerRemove", // once for the engine
			"ContainerAttach", "ContainerWait", "ContainerStart"}
		if !slices.Equal(f.calls, want) {
			t.Errorf("got the calls %q, want %q", f.calls, want)
		}
		second, err := b.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, "ImageInspect", "ContainerCreate", "ContainerInspect", "ContainerAttach", "ContainerWait", "ContainerStart")
		if !slices.Equal(f.calls, want) {
			t.Errorf("got the calls %q, want %q", f.calls, want)
		}
		for _, s := range []backends.Sandbox{s, second, s} {
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			<-s.Done()
			if s.Err() != backends.ErrClosed {
				t.Errorf("got %v, want ErrClosed", s.Err())
			}
		}
		nothingLeft(t, b, f)
	})
}

// TestCreateFails: whichever call fails, and whenever ctx ends, Create says
// what failed and leaves nothing.
func TestCreateFails(t *testing.T) {
	broken := errors.New("Error response from daemon: it is broken")
	for _, c := range []struct{ call, want string }{
		{"ImageInspect", "look for the image debian:bookworm-slim: it is broken"},
		{"ServerVersion", "it is broken"},
		{"ContainerCreate", "create container: it is broken"},
		{"ContainerInspect", "inspect container: it is broken"},
		{"CopyFromContainer", "look for the agent: it is broken"},
		{"CopyToContainer", "bring the agent in: it is broken"},
		{"ContainerAttach", "attach to container: it is broken"},
		{"ContainerStart", "start container: it is broken"},
	} {
		t.Run(c.call, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.fail = func(_ context.Context, call string) error {
					if call == c.call || c.call == "ContainerAttach" && call == "ContainerStart" {
						return broken
					}
					return nil
				}
				b := fakeBackend(t, nil, f)
				s, err := b.Create(t.Context())
				if err == nil || err.Error() != c.want {
					t.Errorf("got %v, %v, want %q", s, err, c.want)
				}
				nothingLeft(t, b, f)
			})
		})
		t.Run(c.call+"Cancelled", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				cause := errors.New("the client went away")
				ctx, cancel := context.WithCancelCause(t.Context())
				f.fail = func(_ context.Context, call string) error {
					if call == c.call {
						cancel(cause)
						synctest.Wait()
					}
					return nil
				}
				b := fakeBackend(t, nil, f)
				if s, err := b.Create(ctx); !errors.Is(err, cause) {
					t.Errorf("got %v, %v, want the cause", s, err)
				}
				nothingLeft(t, b, f)
			})
		})
	}
}

// TestAttachLosesTheReason: Podman answers an attach with 409 and no text; the
// start tells.
func TestAttachLosesTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.fail = func(_ context.Context, call string) error {
			switch call {
			case "ContainerAttach":
				return errors.New("unable to upgrade to tcp, received 409")
			case "ContainerStart":
				return daemonSays(errdefs.ErrInternal, "runc: unable to find user x")
			}
			return nil
		}
		b := fakeBackend(t, nil, f)
		if _, err := b.Create(t.Context()); err == nil || err.Error() != "attach to container: runc: unable to find user x" {
			t.Errorf("got %v", err)
		}
		nothingLeft(t, b, f)
	})
}

// TestCreateNotAnswered: a container whose create was not answered is found by
// its name, also when it comes into being later.
func TestCreateNotAnswered(t *testing.T) {
	for _, late := range []time.Duration{0, 2 * time.Second} {
		t.Run(late.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.lose = func() (time.Duration, bool) { return late, true }
				b := fakeBackend(t, nil, f)
				if _, err := b.Create(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("got %v, want the lost connection", err)
				}
				nothingLeft(t, b, f)
			})
		})
	}
}

// TestAgentSilent: a container that does not say hello is removed, and its
// words on stderr are passed on.
func TestAgentSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.mute, f.says = true, "cannot do it\n"
		b := fakeBackend(t, nil, f)
		_, err := b.Create(t.Context())
		if err == nil || !strings.Contains(err.Error(), "no word of it in 10s (it said: cannot do it)") {
			t.Errorf("got %v", err)
		}
		nothingLeft(t, b, f)
	})
}

// TestLimitsDropped: an engine that says it did not keep a limit gets no
// sandbox, unless the profile says that this is fine.
func TestLimitsDropped(t *testing.T) {
	for what, tell := range map[string]func(h *container.HostConfig){
		"memory":            func(h *container.HostConfig) { h.Memory = 0 },
		"swap":              func(h *container.HostConfig) { h.MemorySwap = -1 },
		"cpu":               func(h *container.HostConfig) { h.NanoCPUs = 0 },
		"pids_limit":        func(h *container.HostConfig) { h.PidsLimit = nil },
		"read_only":         func(h *container.HostConfig) { h.ReadonlyRootfs = false },
		"network = false":   func(h *container.HostConfig) { h.NetworkMode = "bridge" },
		"no privileges":     func(h *container.HostConfig) { h.Privileged = true },
		"no capabilities":   func(h *container.HostConfig) { h.CapDrop = []string{"CHOWN"} },
		"no-new-privileges": func(h *container.HostConfig) { h.SecurityOpt = nil },
		"runtime":           func(h *container.HostConfig) { h.Runtime = "oci" },
		"log-driver = none": func(h *container.HostConfig) { h.LogConfig.Type = "json-file" },
		"removal":           func(h *container.HostConfig) { h.AutoRemove = false },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.tell = func(r *container.InspectResponse) { tell(r.HostConfig) }
				b := fakeBackend(t, func(o *Options) { o.ReadOnly, o.Runtime = true, "runsc" }, f)
				_, err := b.Create(t.Context())
				if err == nil || !strings.Contains(err.Error(), "does not keep what the profile asks for: "+what) {
					t.Errorf("got %v", err)
				}
				nothingLeft(t, b, f)

				b = fakeBackend(t, func(o *Options) { o.ReadOnly, o.Runtime, o.AllowUnsafe = true, "runsc", true }, f)
				s, err := b.Create(t.Context())
				if err != nil {
					t.Fatalf("with allow_unsafe: %v", err)
				}
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
	// A quota tells the same as a number of CPUs; Podman spells out what ALL is.
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.tell = func(r *container.InspectResponse) {
			r.HostConfig.NanoCPUs, r.HostConfig.CPUQuota, r.HostConfig.CPUPeriod = 0, 100_000, 100_000
			r.HostConfig.CapDrop = nil
			for _, c := range defaultCaps {
				r.HostConfig.CapDrop = append(r.HostConfig.CapDrop, strings.TrimPrefix(c, "CAP_"))
			}
		}
		s, err := fakeBackend(t, nil, f).Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Close(t.Context())
	})
}

// TestCloseRaces: a container that the engine is removing already counts as
// removed when it is gone, not before.
func TestCloseRaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		b := fakeBackend(t, nil, f)
		s, err := b.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.find(s.ID()).conflicts = 3
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		nothingLeft(t, b, f)
	})
	// One that cannot be removed in time is an error, and Close may be tried
	// again.
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		b := fakeBackend(t, nil, f)
		s, err := b.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.find(s.ID()).conflicts = 1e6
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Close(ctx); err == nil || !strings.Contains(err.Error(), "already in progress") {
			t.Errorf("got %v", err)
		}
		f.find(s.ID()).conflicts = 0
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		nothingLeft(t, b, f)
	})
}

// TestGoneReasons: what an engine remembers becomes the reason.
func TestGoneReasons(t *testing.T) {
	event := func(action events.Action, code string) events.Message {
		return events.Message{Action: action, Actor: events.Actor{Attributes: map[string]string{"exitCode": code}}, TimeNano: int64(time.Hour)}
	}
	before := func(d time.Duration, m events.Message) events.Message {
		m.TimeNano -= int64(d)
		return m
	}
	for _, c := range []struct {
		name   string
		events []events.Message
		want   string
	}{
		{"OutOfMemory", []events.Message{event("oom", ""), event("die", "137"), event("destroy", "")}, "it ran out of memory (limit 1g)"},
		{"OutOfMemoryAtLast", []events.Message{before(time.Minute, event("kill", "")), event("oom", ""), event("die", "137"), event("destroy", "")}, "it ran out of memory (limit 1g)"}, // a kill may be a SIGHUP
		{"OutOfMemoryLate", []events.Message{event("die", "137"), before(-time.Second, event("oom", "")), event("destroy", "")}, "it ran out of memory (limit 1g)"},
		{"Outside", []events.Message{event("kill", ""), event("die", "137"), event("destroy", "")}, "it was stopped or removed from outside"},
		{"OutsideAfterOOM", []events.Message{event("oom", ""), event("kill", ""), event("die", "137"), event("destroy", "")}, "it was stopped or removed from outside"},
		{"OutsideBeforeOOM", []events.Message{event("kill", ""), event("oom", ""), event("die", "137"), event("destroy", "")}, "it was stopped or removed from outside"},
		{"KilledAfterOOM", []events.Message{before(time.Minute, event("oom", "")), event("die", "137"), event("destroy", "")}, "it was killed from outside or for memory (limit 1g)"},
		{"EndedAfterOOM", []events.Message{before(time.Minute, event("oom", "")), event("die", "0"), event("destroy", "")}, "its first process ended"},
		{"Killed", []events.Message{event("die", "137"), event("remove", "")}, "it was killed from outside or for memory (limit 1g)"},
		{"Ended", []events.Message{event("die", "0"), event("remove", "")}, "its first process ended"},
		{"Failed", []events.Message{event("die", "70"), event("destroy", "")}, "its first process ended with status 70"},
		{"Forgotten", nil, "it was killed from outside or for memory (limit 1g)"}, // the wait says 137
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				b := fakeBackend(t, nil, f)
				s, err := b.Create(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				f.mu.Lock()
				other := event("oom", "")
				other.Actor.ID = "another container"
				f.events = append(f.events, other)
				for _, m := range c.events {
					m.Actor.ID = s.(*sandbox).id
					f.events = append(f.events, m)
				}
				f.end(f.find(s.ID()))
				f.mu.Unlock()
				<-s.Done()
				var g *backends.GoneError
				if !errors.As(s.Err(), &g) || g.Reason != c.want {
					t.Errorf("got %v, want %q", s.Err(), c.want)
				}
				nothingLeft(t, b, f)
			})
		})
	}
	// Where the engine does not tell of memory, what the last command ended of
	// counts, if that was just now.
	for ago, want := range map[time.Duration]string{
		time.Second: "it ran out of memory (limit 1g)",
		time.Minute: "it was killed from outside or for memory (limit 1g)",
	} {
		t.Run("Starved"+ago.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				b := fakeBackend(t, nil, f)
				s, err := b.Create(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				s.(*sandbox).starved.Store(time.Now().UnixNano())
				time.Sleep(ago)
				f.mu.Lock()
				f.end(f.find(s.ID()))
				f.mu.Unlock()
				<-s.Done()
				var g *backends.GoneError
				if !errors.As(s.Err(), &g) || g.Reason != want {
					t.Errorf("got %v, want %q", s.Err(), want)
				}
				nothingLeft(t, b, f)
			})
		})
	}
	t.Run("EngineGone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			b := fakeBackend(t, nil, f)
			s, err := b.Create(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f.mu.Lock()
			f.fail = func(context.Context, string) error { return &unreachableError{text: "nothing listens"} }
			f.end(f.find(s.ID()))
			f.mu.Unlock()
			<-s.Done()
			if got := s.Err().Error(); got != "sandbox is gone: its engine went away" {
				t.Errorf("got %q", got)
			}
			nothingLeft(t, b, f)
		})
	})
	// Without a wait, the engine is asked what became of the container.
	t.Run("WaitFails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.fail = func(_ context.Context, call string) error {
				if call == "ContainerWait" {
					return errors.New("no such call")
				}
				return nil
			}
			b := fakeBackend(t, nil, f)
			s, err := b.Create(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f.mu.Lock()
			f.end(f.find(s.ID()))
			f.mu.Unlock()
			<-s.Done()
			if got := s.Err().Error(); got != "sandbox is gone: its engine stopped or lost it" {
				t.Errorf("got %q", got)
			}
			nothingLeft(t, b, f)
		})
	})
	// The stream breaks and the container runs on: it is ended.
	t.Run("StreamBroken", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			b := fakeBackend(t, nil, f)
			s, err := b.Create(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f.find(s.ID()).there.Close()
			<-s.Done()
			if !errors.Is(s.Err(), backends.ErrGone) {
				t.Errorf("got %v, want ErrGone", s.Err())
			}
			nothingLeft(t, b, f)
		})
	})
}

// TestLeastLoaded: of several engines the one with the fewest sandboxes is
// taken, one that cannot be reached is passed over, and comes last for a while.
func TestLeastLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newFake(), newFake()
		b := fakeBackend(t, func(o *Options) { o.DockerHost = Hosts{"unix:///1", "unix:///2"} }, one, two)
		var all []backends.Sandbox
		more := func() error {
			s, err := b.Create(t.Context())
			if err == nil {
				all = append(all, s)
			}
			return err
		}
		var wg sync.WaitGroup
		for range 4 {
			if err := more(); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
		if n, m := len(one.names()), len(two.names()); n != 2 || m != 2 {
			t.Errorf("got %d and %d sandboxes, want 2 and 2", n, m)
		}

		one.fail = func(context.Context, string) error { return &unreachableError{text: "one is down"} }
		for range 3 {
			if err := more(); err != nil {
				t.Fatal(err)
			}
		}
		if m := len(two.names()); m != 5 {
			t.Errorf("got %d sandboxes on the second engine, want 5", m)
		}
		if n := one.count("ImageInspect"); n != 3 {
			t.Errorf("the first engine was asked %d times, want 3: twice when it was up, once when it was not", n)
		}
		if err := b.Check(t.Context()); err != nil {
			t.Errorf("Check with one engine up: %v", err)
		}
		two.fail = func(context.Context, string) error { return &unreachableError{text: "two is down"} }
		if err := more(); err == nil || !strings.Contains(err.Error(), "one is down") || !strings.Contains(err.Error(), "two is down") {
			t.Errorf("got %v, want both reasons", err)
		}
		if err := b.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "one is down") {
			t.Errorf("Check with no engine up: %v", err)
		}
		one.fail, two.fail = nil, nil
		time.Sleep(downtime)
		if err := more(); err != nil {
			t.Fatal(err)
		}
		if n := len(one.names()); n != 3 {
			t.Errorf("got %d sandboxes on the first engine, want 3", n)
		}
		for _, s := range all {
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		nothingLeft(t, b, one, two)
	})
}

// TestPullOnce: Creates that need a missing image wait for one pull, hear how
// far it is at most four times a second, and may leave it; when all have left
// it is broken off.
func TestPullOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.noImage = true
		f.pulling = func(ctx context.Context) {
			select {
			case <-time.After(10 * time.Second):
			case <-ctx.Done():
			}
		}
		b := fakeBackend(t, nil, f)
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				var n int
				ctx := backends.WithProgress(t.Context(), func(p backends.Progress) {
					if n++; p.Message != "pulling debian:bookworm-slim" {
						t.Errorf("got %+v", p)
					}
				})
				if i == 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				s, err := b.Create(ctx)
				if i == 0 {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("got %v, want the deadline", err)
					}
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n < 30 || n > 42 {
					t.Errorf("got %d reports in ten seconds, want about 40", n)
				}
				s.Close(t.Context())
			})
		}
		wg.Wait()
		if n := f.count("ImagePull"); n != 1 {
			t.Errorf("got %d pulls, want 1", n)
		}
		nothingLeft(t, b, f)

		f.noImage = true
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Create(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline", err)
		}
		if b.engines[0].pulling != nil || !f.noImage {
			t.Error("the pull goes on although nobody waits for it")
		}
	})
}

// TestPullPolicy: "never" pulls nothing, "always" pulls what is there.
func TestPullPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.noImage = true
		b := fakeBackend(t, func(o *Options) { o.Pull = "never" }, f)
		for _, err := range []error{b.Check(t.Context()), func() error { _, err := b.Create(t.Context()); return err }()} {
			if err == nil || !strings.Contains(err.Error(), `pull is "never"; pull it there`) {
				t.Errorf("got %v", err)
			}
		}
		f.noImage = false
		b = fakeBackend(t, func(o *Options) { o.Pull = "always" }, f)
		s, err := b.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Close(t.Context())
		if n := f.count("ImagePull"); n != 1 {
			t.Errorf("got %d pulls, want 1", n)
		}
	})
}

// TestPullErrors: what registries say, in words an operator can act on.
func TestPullErrors(t *testing.T) {
	for _, c := range []struct{ says, want string }{
		{"manifest for x:1 not found: manifest unknown: manifest unknown", "the registry has no such image; check its name and tag"},
		{"pull access denied for x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied", "there is no such image, or it needs a login"},
		{`Head "http://127.0.0.1:1/v2/x/manifests/1": no basic auth credentials`, "the registry wants a login; run docker login as the daemon's user"},
		{"initializing source docker://x: reading manifest: unauthorized: authentication required", "the registry wants a login"},
		{`Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: no such host`, "the engine cannot reach the registry"},
		{`Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused`, "the engine cannot reach the registry"},
		{`Get "https://x/v2/": tls: failed to verify certificate: x509: certificate signed by unknown authority`, "the engine cannot reach the registry"},
		{"no space left on device", "pull debian:bookworm-slim: no space left on device"},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.noImage = true
			f.pullLog = fmt.Sprintf(`{"status":"Pulling from x"}`+"\n"+`{"errorDetail":{"message":%q},"error":%q}`+"\n", c.says, c.says)
			b := fakeBackend(t, nil, f)
			_, err := b.Create(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			nothingLeft(t, b, f)
		})
	}
}

// TestSweepFake: of all that is on an engine, a sweep takes what other boots
// of the same instance left and agents of other versions that nobody uses.
func TestSweepFake(t *testing.T) {
	f := newFake()
	for _, c := range []struct{ name, mark, instance, boot string }{
		{"mine-old", "true", "i", "old"},
		{"mine-older", "true", "i", "older"},
		{"mine-now", "true", "i", "now"},
		{"other", "true", "else", "old"},
		{"unmarked", "", "i", "old"},
		{"foreign", "", "", ""},
	} {
		l := map[string]string{labelMark: c.mark, labelInstance: c.instance, labelBoot: c.boot, labelSandbox: c.name, labelProfile: "p"}
		f.containers[c.name] = &fakeContainer{id: c.name, name: c.name, config: container.Config{Labels: l}, gone: make(chan struct{})}
	}
	for _, name := range []string{agentVolume(), "kilntainers-agent-used", "kilntainers-agent-unused", "data"} {
		f.volumes = append(f.volumes, &volume.Volume{Name: name, Labels: map[string]string{labelMark: "true"}})
	}
	f.users["kilntainers-agent-used"] = 1
	connect := func(*Options) ([]*engine, error) {
		return []*engine{{api: f, at: func() string { return "fake" }, is: func(a string) bool { return a == "fake" }, close: func() error { return nil }}}, nil
	}
	req := backends.Sweep{Owner: backends.Owner{Instance: "i", Boot: "now"}, Options: []backends.Options{defaults(), defaults()}, DryRun: true}
	want := []string{"container mine-old p", "container mine-older p", "volume kilntainers-agent-unused "}
	for _, dry := range []bool{true, false} {
		req.DryRun = dry
		found, err := sweep(t.Context(), req, connect)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range found {
			got = append(got, l.Kind+" "+l.ID+" "+l.Profile)
			if l.Removed == dry {
				t.Errorf("%+v, with DryRun = %v", l, dry)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got, want := f.names(), []string{"foreign", "mine-now", "other", "unmarked"}; !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
	if len(f.volumes) != 3 {
		t.Errorf("%d volumes are left, want 3", len(f.volumes))
	}
	if _, err := sweep(t.Context(), backends.Sweep{Options: req.Options}, connect); err == nil {
		t.Error("swept for an instance without a name")
	}
}
