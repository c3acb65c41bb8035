package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// api is what the driver uses of the Docker API; *client.Client has it all.
// What it returns is right for API 1.41 (Docker 20.10, Podman 4) and later.
type api interface {
	Info(context.Context) (system.Info, error)
	ServerVersion(context.Context) (types.Version, error)
	Events(context.Context, events.ListOptions) (<-chan events.Message, <-chan error)

	ImageInspect(context.Context, string, ...client.ImageInspectOption) (image.InspectResponse, error)
	ImagePull(context.Context, string, image.PullOptions) (io.ReadCloser, error)
	DistributionInspect(context.Context, string, string) (registry.DistributionInspect, error)

	ContainerCreate(context.Context, *container.Config, *container.HostConfig, *network.NetworkingConfig, *ocispec.Platform, string) (container.CreateResponse, error)
	ContainerInspect(context.Context, string) (container.InspectResponse, error)
	ContainerAttach(context.Context, string, container.AttachOptions) (types.HijackedResponse, error)
	ContainerWait(context.Context, string, container.WaitCondition) (<-chan container.WaitResponse, <-chan error)
	ContainerStart(context.Context, string, container.StartOptions) error
	ContainerRemove(context.Context, string, container.RemoveOptions) error
	ContainerList(context.Context, container.ListOptions) ([]container.Summary, error)
	CopyToContainer(context.Context, string, string, io.Reader, container.CopyToContainerOptions) error
	CopyFromContainer(context.Context, string, string) (io.ReadCloser, container.PathStat, error)

	VolumeList(context.Context, volume.ListOptions) (volume.ListResponse, error)
	VolumeRemove(context.Context, string, bool) error
}

var _ api = (*client.Client)(nil)

// An engine is one Docker or Podman. It is reached when it is first needed.
type engine struct {
	api
	at    func() string     // its address, for messages
	is    func(string) bool // whether that is an address of it
	close func() error

	mu      sync.Mutex
	live    int       // sandboxes there, also those in the making
	down    time.Time // it could not be reached; the others go first until then
	kind    *kind     // nil = not asked yet
	pulling *pull     // under way

	agentMu sync.Mutex // held while the agent is brought in
	agentOK bool       // the agent was seen in its volume
}

// connect returns the engines that a profile names. It does no I/O.
func connect(o *Options) ([]*engine, error) {
	var list []*engine
	for _, addrs := range o.addresses() {
		d := newDialer(addrs, o.Engine)
		tr := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.dial(ctx) },
			// The client's own default; a sandbox holds one more connection.
			MaxIdleConns:        6,
			MaxIdleConnsPerHost: 6,
			IdleConnTimeout:     30 * time.Second,
			DisableCompression:  true,
		}
		// The dialer does TLS too, so that attached streams take the same way
		// as everything else; hence plain HTTP here.
		hc := &http.Client{Transport: tr, CheckRedirect: client.CheckRedirect}
		c, err := client.NewClientWithOpts(client.WithHTTPClient(hc), withDialer(tr, d), client.WithAPIVersionNegotiation())
		if err != nil {
			return nil, fmt.Errorf("set up the client of %s: %w", addrs[0], err)
		}
		list = append(list, &engine{api: c, at: d.addr, is: d.has, close: func() error {
			return errors.Join(c.Close(), d.close())
		}})
	}
	return list, nil
}

// withDialer names a host that is never looked up, and puts back the dialer
// that naming it replaced.
func withDialer(tr *http.Transport, d *dialer) client.Opt {
	return func(c *client.Client) error {
		ours := tr.DialContext
		err := client.WithHost("tcp://" + client.DummyHost)(c)
		tr.DialContext, tr.Proxy = ours, nil
		return err
	}
}

// addresses lists the engines of a profile. Each is a list of addresses, of
// which the first that answers is the engine.
func (o *Options) addresses() (list [][]string) {
	for _, h := range o.DockerHost {
		list = append(list, []string{h})
	}
	if len(list) > 0 {
		return list
	}
	variable, socket, user := "DOCKER_HOST", "/var/run/docker.sock", "docker.sock"
	if o.Engine == "podman" {
		variable, socket, user = "CONTAINER_HOST", "/run/podman/podman.sock", "podman/podman.sock"
	}
	if h := os.Getenv(variable); h != "" {
		return [][]string{{h}}
	}
	addrs := []string{"unix://" + socket}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		addrs = append(addrs, "unix://"+filepath.Join(dir, user))
	}
	return [][]string{addrs}
}

// downtime is how long an engine that could not be reached comes last.
const downtime = 30 * time.Second

// pick takes the engine with the fewest sandboxes that is not in tried, and
// counts one more there. It returns nil when all were tried.
func (b *Backend) pick(tried []*engine) *engine {
	b.picking.Lock()
	defer b.picking.Unlock()
	best := slices.MinFunc(b.engines, func(x, y *engine) int {
		key := func(e *engine) (last, live int) {
			e.mu.Lock()
			defer e.mu.Unlock()
			switch {
			case slices.Contains(tried, e):
				last = 2
			case time.Now().Before(e.down):
				last = 1
			}
			return last, e.live
		}
		xl, xn := key(x)
		yl, yn := key(y)
		return cmp.Or(cmp.Compare(xl, yl), cmp.Compare(xn, yn))
	})
	if slices.Contains(tried, best) {
		return nil
	}
	best.count(+1)
	return best
}

func (e *engine) count(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.live += n
}

// reached notes whether the engine answered.
func (e *engine) reached(yes bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = time.Time{}
	if !yes {
		e.down = time.Now().Add(downtime)
	}
}

// A kind is what an engine is.
type kind struct {
	arch   string // as Go names it
	podman bool
}

// what asks the engine what it is, once.
func (e *engine) what(ctx context.Context) (kind, error) {
	e.mu.Lock()
	known := e.kind
	e.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	v, err := e.ServerVersion(ctx)
	if err != nil {
		return kind{}, explain(err)
	}
	if v.Os != "linux" {
		return kind{}, fmt.Errorf("the engine at %s runs %s containers; sandboxes need Linux", e.at(), cmp.Or(v.Os, "unknown"))
	}
	k := kind{
		arch: goArch(v.Arch),
		podman: slices.ContainsFunc(v.Components, func(c types.ComponentVersion) bool {
			return strings.HasPrefix(c.Name, "Podman")
		}),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kind = &k
	return k, nil
}

// goArch turns the kernel's name of an architecture, as Docker tells it, into
// Go's, as images have it.
func goArch(s string) string {
	switch s {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return s
}

// attach opens the stream of a container that is not started yet. The client
// heeds ctx only until it is connected, but engines may not answer (Podman,
// for a dead container), so the connection is closed when ctx ends.
func (e *engine) attach(ctx context.Context, id string) (*stream, error) {
	stop := func() bool { return true }
	var raw net.Conn // the client wraps it
	var mu sync.Mutex
	dialled := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		raw = c
		stop = context.AfterFunc(ctx, func() { c.Close() })
	}
	h, err := e.ContainerAttach(context.WithValue(ctx, dialledKey{}, dialled), id,
		container.AttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	mu.Lock()
	defer mu.Unlock()
	switch inTime := stop(); {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, err
	case !inTime:
		h.Close()
		return nil, context.Cause(ctx)
	}
	return newStream(h, raw), nil
}

// dialledKey is the key of a func(net.Conn) in a context, which the dialer
// calls with the connection it made.
type dialledKey struct{}

// explain turns an error of the client into words for an operator.
func explain(err error) error {
	if err == nil {
		return nil
	}
	var down *unreachableError
	if errors.As(err, &down) {
		return down
	}
	msg := err.Error()
	if strings.Contains(msg, "Client sent an HTTP request to an HTTPS server") {
		return &unreachableError{"the engine wants TLS; set DOCKER_CERT_PATH for the daemon to a folder with ca.pem, cert.pem and key.pem", err}
	}
	var request *url.Error
	if client.IsErrConnectionFailed(err) && errors.As(err, &request) {
		return &plainError{fmt.Sprintf("the engine broke the connection off: %v", request.Err), err}
	}
	if short := strings.TrimPrefix(msg, "Error response from daemon: "); short != msg {
		return &plainError{short, err}
	}
	return err
}

// A plainError is an error of the client in fewer words.
type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }

// unreachable tells whether the engine did not answer at all.
func unreachable(err error) bool {
	return err != nil && (errors.As(err, new(*unreachableError)) || client.IsErrConnectionFailed(err))
}

// unanswered tells whether the engine may have done what it was asked for
// although the call failed: the connection was lost, or the time was up. The
// error has been explained.
func unanswered(err error) bool {
	switch {
	case errors.As(err, new(*unreachableError)): // it was not even asked
		return false
	case client.IsErrConnectionFailed(err):
		return true
	}
	return !errors.As(err, new(*plainError))
}
