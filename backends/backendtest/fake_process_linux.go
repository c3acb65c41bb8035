package backendtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"golang.org/x/sys/unix"
)

// The kill of this file, without privileges and without an agent:
//
//	environment   KILNTAINERS_MARK=<fake>.<sandbox>.<exec>, inherited by all
//	that a command starts, is looked for in /proc/*/environ. To what has the
//	mark are added its sessions, its process groups and its descendants, since
//	some process may have changed its environment. All get SIGKILL, groups as
//	a whole so that none can outrun it; then again, until twice in a row
//	nothing is found.
//
// Only a process that dropped its environment, its session and its parents
// escapes (see Need CleanKill).
const markName = "KILNTAINERS_MARK"

// A processMachine is a directory and the processes that were started in it.
type processMachine struct {
	fake *Fake
	id   string
	spec backends.Spec
	dir  string

	mu       sync.RWMutex // held while a process starts, so that destroy misses none
	gone     bool
	draining map[*os.File]bool // pipes that background processes hold
	drains   sync.WaitGroup
}

func newProcessMachine(f *Fake, id string, spec backends.Spec) (machine, error) {
	if self, _ := os.Readlink("/proc/self"); self != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("the fake needs the /proc of its own PID namespace")
	}
	dir, err := os.MkdirTemp("", "kilntainers-fake-")
	if err != nil {
		return nil, err
	}
	return &processMachine{fake: f, id: id, spec: spec, dir: dir, draining: map[*os.File]bool{}}, nil
}

func (m *processMachine) run(ctx context.Context, e backends.Exec) (backends.Exit, error) {
	execID := rand.Text()
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": m.dir}
	maps.Copy(env, e.Env)
	env[markName] = m.mark(execID)

	args := e.Args
	if len(args) == 0 {
		args = []string{m.shell(), "-c", e.Command}
	}
	dir := e.Dir
	if dir == "" {
		dir = m.dir
	}
	file, err := lookPath(args[0], dir, env["PATH"])
	if info, statErr := os.Stat(dir); statErr != nil {
		err = fmt.Errorf("working directory: %w", statErr)
	} else if !info.IsDir() {
		err = fmt.Errorf("working directory %s: %w", dir, syscall.ENOTDIR)
	}
	if err != nil {
		return notStarted(e.Stderr, err), nil
	}
	cmd := &exec.Cmd{Path: file, Args: args, Dir: dir, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}

	var theirs, ours pipes // ends
	defer theirs.close()
	var input sync.WaitGroup
	if e.Stdin != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return backends.Exit{}, fmt.Errorf("exec: %w", err)
		}
		cmd.Stdin = theirs.add(r)
		input.Go(func() { io.Copy(w, e.Stdin); w.Close() })
		defer input.Wait()
		defer w.Close() // ends the copy when the command has ended and does not read
	}
	var outputs []*output
	for _, o := range []struct {
		file *io.Writer
		to   io.Writer
	}{{&cmd.Stdout, e.Stdout}, {&cmd.Stderr, e.Stderr}} {
		r, w, err := os.Pipe()
		if err != nil {
			ours.close()
			return backends.Exit{}, fmt.Errorf("exec: %w", err)
		}
		*o.file = theirs.add(w)
		outputs = append(outputs, &output{from: ours.add(r), to: o.to, done: make(chan struct{})})
	}

	if err := m.start(cmd); err != nil {
		ours.close()
		if errors.Is(err, backends.ErrGone) {
			return backends.Exit{}, context.Cause(ctx)
		}
		return notStarted(e.Stderr, err), nil
	}
	theirs.close()
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	for _, o := range outputs {
		go o.copy()
	}

	killed := false
	select {
	case <-ended:
	case <-ctx.Done():
		killed = true
		m.kill(execID)
		<-ended
	}
	for _, o := range outputs {
		o.finish()
		m.drain(o)
	}
	if err := context.Cause(ctx); err != nil {
		if !killed { // the last write failed, or ctx ended just now
			m.kill(execID)
		}
		return backends.Exit{}, err
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return backends.Exit{Code: 128 + int(status.Signal())}, nil
	}
	return backends.Exit{Code: status.ExitStatus()}, nil
}

// start starts cmd unless the machine is gone.
func (m *processMachine) start(cmd *exec.Cmd) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.gone {
		return backends.ErrGone
	}
	return cmd.Start()
}

// mark is the mark of one exec, or how those of all execs begin.
func (m *processMachine) mark(execID string) string {
	return m.fake.mark + "." + m.id + "." + execID
}

// shell is the Spec's, else bash if there is one, else sh.
func (m *processMachine) shell() string {
	if m.spec.Shell != "" {
		return m.spec.Shell
	}
	if _, err := os.Stat("/bin/bash"); err == nil {
		return "/bin/bash"
	}
	return "/bin/sh"
}

// lookPath finds the file for a command name, as execvp does.
func lookPath(name, dir, path string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, nil
	}
	err := fmt.Errorf("exec %s: %w in PATH", name, fs.ErrNotExist)
	for _, d := range filepath.SplitList(path) {
		file := filepath.Join(d, name)
		info, statErr := os.Stat(file)
		if statErr != nil || info.IsDir() {
			continue
		}
		if info.Mode()&0o111 != 0 {
			return file, nil
		}
		err = fmt.Errorf("exec %s: %w", file, fs.ErrPermission)
	}
	return "", err
}

// notStarted is the Exit of a command that could not be started.
func notStarted(stderr io.Writer, reason error) backends.Exit {
	fmt.Fprintln(stderr, reason)
	if errors.Is(reason, fs.ErrNotExist) {
		return backends.Exit{Code: 127}
	}
	return backends.Exit{Code: 126}
}

// pipes are ends of pipes, to be closed together.
type pipes []*os.File

func (p *pipes) add(f *os.File) *os.File {
	*p = append(*p, f)
	return f
}

func (p *pipes) close() {
	for _, f := range *p {
		f.Close()
	}
	*p = nil
}

// An output copies one stream of a command to its writer.
type output struct {
	from *os.File
	to   io.Writer
	done chan struct{}
	held bool // a background process still has the other end
}

// copy ends at the end of the stream, or when finish says so.
func (o *output) copy() {
	defer close(o.done)
	_, err := io.Copy(discardErrors{o.to}, o.from)
	o.held = errors.Is(err, os.ErrDeadlineExceeded)
}

// finish is called when the command has ended. All that it wrote is in the
// pipe by now, so that much is copied; it does not wait for what background
// processes may yet write.
func (o *output) finish() {
	o.from.SetReadDeadline(time.Now())
	<-o.done
	if !o.held {
		return
	}
	o.from.SetReadDeadline(time.Time{})
	n := 0
	if c, err := o.from.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	io.CopyN(discardErrors{o.to}, o.from, int64(n))
}

// drain reads on for background processes that hold the pipe: a server that
// logs must not die of SIGPIPE because the command that started it has ended.
func (m *processMachine) drain(o *output) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !o.held || m.gone {
		o.from.Close()
		return
	}
	m.draining[o.from] = true
	m.drains.Go(func() {
		io.Copy(io.Discard, o.from)
		o.from.Close()
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.draining, o.from)
	})
}

// discardErrors lets a copy go on after a failed write, to the end of the
// stream: the gate has told of the failure, and the kill ends the stream.
type discardErrors struct{ w io.Writer }

func (d discardErrors) Write(p []byte) (int, error) {
	d.w.Write(p)
	return len(p), nil
}

func (m *processMachine) running() []string {
	var names []string
	for _, p := range marked(m.mark("")) {
		names = append(names, p.String())
	}
	return names
}

// kill kills what one exec started.
func (m *processMachine) kill(execID string) {
	if m.fake.wrongKill != nil {
		m.fake.wrongKill(m, execID)
		return
	}
	killMarked(m.mark(execID))
}

func (m *processMachine) destroy() {
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
	killMarked(m.mark(""))
	m.mu.RLock()
	for f := range m.draining {
		f.SetReadDeadline(time.Now())
	}
	m.mu.RUnlock()
	m.drains.Wait()
	os.RemoveAll(m.dir)
}

// killMarked kills all processes with a mark that begins so, until none is
// left.
func killMarked(mark string) {
	for clean := 0; clean < 2; time.Sleep(time.Millisecond) {
		procs := marked(mark)
		if clean++; len(procs) > 0 {
			clean = 0
		}
		for _, p := range procs {
			syscall.Kill(-p.group, syscall.SIGKILL)
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
}

// leftProcesses names the living processes whose mark begins so.
func leftProcesses(mark string) []string {
	var left []string
	for _, p := range marked(mark) {
		left = append(left, p.String())
	}
	return left
}

// A process is a line of the process table.
type process struct {
	pid, parent, group, session int
	state                       byte
	name                        string
	marked                      bool
}

func (p process) String() string { return fmt.Sprintf("process %d (%s)", p.pid, p.name) }

// marked returns the living processes whose mark begins so, and those of
// their sessions, groups and descendants.
func marked(mark string) []*process {
	procs := processes(mark)
	sessions := map[int]bool{}
	groups := map[int]bool{}
	for grew := true; grew; {
		grew = false
		for _, p := range procs {
			parent := procs[p.parent]
			related := sessions[p.session] || groups[p.group] || parent != nil && parent.marked
			if p.marked && !(sessions[p.session] && groups[p.group]) || related && !p.marked {
				p.marked, sessions[p.session], groups[p.group], grew = true, true, true, true
			}
		}
	}
	var found []*process
	for _, p := range procs {
		if p.marked && p.state != 'Z' && p.state != 'X' {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b *process) int { return a.pid - b.pid })
	return found
}

// ownSession and ownStart tell this process apart from what it started.
var ownSession = sync.OnceValue(func() int { sid, _ := unix.Getsid(0); return sid })

var ownStart = sync.OnceValue(func() uint64 {
	stat, _ := os.ReadFile("/proc/self/stat")
	return startTime(stat[bytes.LastIndexByte(stat, ')')+1:])
})

// startTime is field 22 of proc(5)'s stat, of which the first two are cut off.
func startTime(stat []byte) uint64 {
	fields := bytes.Fields(stat)
	if len(fields) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(string(fields[19]), 10, 64)
	return n
}

// processes reads /proc (see proc(5) for stat and environ). What is older than
// this process, or of its session or group, cannot be ours whatever it says,
// and is left out; so are kernel threads, and groups 0 and 1, which kill(2)
// takes for something else.
func processes(mark string) map[int]*process {
	entry := []byte(markName + "=" + mark)
	procs := map[int]*process{}
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil {
			continue // it has just ended
		}
		open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
		p := &process{pid: pid, name: string(stat[open+1 : end])}
		if n, _ := fmt.Sscanf(string(stat[end+1:]), " %c %d %d %d", &p.state, &p.parent, &p.group, &p.session); n < 4 {
			continue
		}
		if startTime(stat[end+1:]) < ownStart() || p.session == ownSession() || p.group == unix.Getpgrp() || p.group <= 1 {
			continue
		}
		environ, _ := os.ReadFile("/proc/" + d.Name() + "/environ") // not ours to read: not ours
		p.marked = bytes.HasPrefix(environ, entry) || bytes.Contains(environ, append([]byte{0}, entry...))
		procs[pid] = p
	}
	return procs
}
