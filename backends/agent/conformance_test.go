package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/agent"
	"github.com/kilntainers/kilntainers/backends/backendtest"
)

// The least backend that the agent makes possible: a sandbox is a PID
// namespace, a directory and no network.
type namespaces struct {
	spec backends.Spec
	log  *slog.Logger
}

type namespace struct {
	*agent.Client
	conn *net.UnixConn
	left bool
	*process
}

// A process is the agent's, and outlives the backend of its namespace.
type process struct {
	proc  *exec.Cmd
	ended chan struct{}
}

type noOptions struct{}

func (*noOptions) Validate() error { return nil }

var driver = backends.Driver{
	Name:     "namespaces",
	Features: backends.Features{Background: true, Signals: true, Shell: true, Adopt: true},
	Options:  func() backends.Options { return &noOptions{} },
	Describe: func(backends.Spec, backends.Options) string {
		return "A PID namespace of this machine, without network."
	},
	Open: func(s backends.Spec, _ backends.Options, log *slog.Logger) (backends.Backend, error) {
		return &namespaces{spec: s, log: log}, nil
	},
}

func (n *namespaces) Check(ctx context.Context) error {
	return exec.CommandContext(ctx, "unshare", "--pid", "--net", "--fork", "--mount-proc", "true").Run()
}

func (n *namespaces) Create(ctx context.Context) (_ backends.Sandbox, err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	dir, err := os.MkdirTemp("", "namespace")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	binary, err := agent.Binary(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, agent.Name)
	work := filepath.Join(dir, "work")
	if err := errors.Join(os.Mkdir(work, 0o755), os.WriteFile(file, binary, 0o755)); err != nil {
		return nil, err
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "agent")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close() // conn is another descriptor of it
	if err != nil {
		return nil, err
	}

	s := &process{ended: make(chan struct{})}
	s.proc = exec.Command("unshare", "--pid", "--net", "--fork", "--mount-proc", "--kill-child=KILL", "--", file)
	s.proc.Stdin, s.proc.Stdout = theirs, theirs
	s.proc.Dir = work
	if n.spec.Dir != "" {
		s.proc.Dir = n.spec.Dir
	}
	s.proc.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/"}
	for k, v := range n.spec.Env {
		s.proc.Env = append(s.proc.Env, k+"="+v)
	}
	if err := s.proc.Start(); err != nil {
		conn.Close()
		return nil, err
	}
	living.Store(s.ID(), s)
	go func() {
		s.proc.Wait()
		os.RemoveAll(dir)
		living.Delete(s.ID())
		close(s.ended)
	}()
	c, err := agent.New(ctx, conn, n.options(s))
	if err != nil {
		<-s.ended
		return nil, err
	}
	return &execs{&namespace{Client: c, conn: conn.(*net.UnixConn), process: s}, n.spec.Shell}, nil
}

func (n *namespaces) options(s *process) agent.Options {
	return agent.Options{Log: n.log, Kill: func(context.Context) error { return s.proc.Process.Kill() }}
}

func (n *namespaces) Adopt(ctx context.Context, t backends.Ticket) (backends.Sandbox, error) {
	if t.File == nil {
		return nil, errors.New("a ticket without a file")
	}
	defer t.File.Close()
	p, ok := living.Load(t.ID)
	if !ok {
		return nil, &backends.GoneError{Reason: "it ended"}
	}
	s := p.(*process)
	var state agent.State
	conn, err := net.FileConn(t.File)
	if err == nil {
		err = json.Unmarshal(t.Data, &state)
	}
	if err != nil {
		s.proc.Process.Kill()
		return nil, err
	}
	c, err := agent.Adopt(ctx, conn, agent.FindMark(conn), state, n.options(s))
	if err != nil {
		s.proc.Process.Kill()
		return nil, err
	}
	return &execs{&namespace{Client: c, conn: conn.(*net.UnixConn), process: s}, n.spec.Shell}, nil
}

func (n *namespaces) Close() error { return nil }

// living are the namespaces that are there.
var living sync.Map

func (s *process) ID() string { return strconv.Itoa(s.proc.Process.Pid) }

func (s *namespace) Ticket() (t backends.Ticket, err error) {
	state, err := s.State()
	if err != nil {
		return t, err
	}
	t.ID = s.ID()
	if t.Data, err = json.Marshal(state); err != nil {
		return t, err
	}
	// Not conn.File and net.FileConn: see box.leave.
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return t, err
	}
	fd := -1
	if err2 := raw.Control(func(f uintptr) { fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) }); err == nil {
		err = err2
	}
	if err == nil {
		t.File = os.NewFile(uintptr(fd), "channel")
	}
	return t, err
}

func (s *namespace) Leave() {
	if s.Err() == nil {
		s.left = true
	}
	s.Client.Leave()
}

func (s *namespace) Close(ctx context.Context) error {
	if s.left {
		return nil
	}
	s.Client.Close()
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type execs struct {
	*namespace
	shell string
}

func (s *execs) Exec(ctx context.Context, e backends.Exec) (backends.Exit, error) {
	return s.Client.Exec(ctx, agent.Command{Exec: e, Shell: s.shell})
}

func target(t testing.TB) backendtest.Target {
	if err := (&namespaces{}).Check(t.Context()); err != nil {
		agent.Need(t, "unshare", err)
	}
	return backendtest.Target{
		Driver: driver,
		Leftovers: func(t testing.TB, o backends.Owner) (left []string) {
			living.Range(func(id, _ any) bool {
				left = append(left, fmt.Sprint("namespace ", id))
				return true
			})
			return left
		},
		Destroy: func(t testing.TB, o backends.Owner, id string) {
			s, ok := living.Load(id)
			if !ok {
				t.Fatalf("no namespace %s", id)
			}
			s.(*process).proc.Process.Kill()
		},
		Lacks:    map[backendtest.Need]string{backendtest.OwnRoot: "a namespace has the files of this machine"},
		Patience: 2 * time.Minute,
	}
}

func TestConformance(t *testing.T) { backendtest.Run(t, target(t)) }

func Benchmark(b *testing.B) { backendtest.Bench(b, target(b)) }
