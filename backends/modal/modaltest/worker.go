//go:build linux

package modaltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// worker is the machine that sandboxes run on: it takes commands.
type worker struct {
	pb.UnimplementedTaskCommandRouterServer
	s *Server
}

// rate is how fast output is sent, in bytes a second: as over a good network.
// The SDK takes in up to 64 MiB that nobody has read yet.
const rate = 100 << 20

// A process is one command.
type process struct {
	cmd    *exec.Cmd
	output [2]*stream // stdout, stderr
	ended  chan struct{}
	status syscall.WaitStatus // once ended

	inMu   sync.Mutex // held while stdin is written
	stdin  *os.File
	offset uint64 // what was written of it
}

func (w *worker) box(task string) (*box, error) { return w.s.box(strings.TrimPrefix(task, "ta-")) }

func (w *worker) TaskExecStart(_ context.Context, r *pb.TaskExecStartRequest) (*pb.TaskExecStartResponse, error) {
	b, err := w.box(r.GetTaskId())
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.result != nil {
		return nil, status.Error(codes.FailedPrecondition, "the sandbox has ended")
	}
	if b.processes[r.GetExecId()] != nil {
		return &pb.TaskExecStartResponse{}, nil // asked again
	}
	p, err := b.start(r)
	if err != nil {
		code := codes.InvalidArgument
		if errors.Is(err, fs.ErrNotExist) {
			code = codes.NotFound
		}
		return nil, status.Error(code, err.Error())
	}
	b.processes[r.GetExecId()] = p
	return &pb.TaskExecStartResponse{}, nil
}

func (b *box) start(r *pb.TaskExecStartRequest) (*process, error) {
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": b.dir}
	maps.Copy(env, b.env)
	for _, source := range r.GetSecretSources() {
		maps.Copy(env, source.GetEnv().GetContents())
	}
	env[markName] = b.word() + word()
	args := r.GetCommandArgs()
	program := args[0]
	b.s.mu.Lock()
	if program == "/bin/sh" && b.s.shell != "" {
		program = b.s.shell
	}
	b.s.mu.Unlock()
	p := &process{cmd: exec.Command(program, args[1:]...), ended: make(chan struct{})}
	p.cmd.Dir = b.dir
	if r.HasWorkdir() {
		p.cmd.Dir = r.GetWorkdir()
	}
	for k, v := range env {
		p.cmd.Env = append(p.cmd.Env, k+"="+v)
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}

	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	p.cmd.Stdin = in
	theirs = append(theirs, in)
	stdouts := []*io.Writer{&p.cmd.Stdout, &p.cmd.Stderr}
	piped := []bool{
		r.GetStdoutConfig() == pb.TaskExecStdoutConfig_TASK_EXEC_STDOUT_CONFIG_PIPE,
		r.GetStderrConfig() == pb.TaskExecStderrConfig_TASK_EXEC_STDERR_CONFIG_PIPE,
	}
	for i := range p.output {
		p.output[i] = newStream()
		if !piped[i] {
			p.output[i].finish()
			continue
		}
		from, to, err := os.Pipe()
		if err != nil {
			p.abandon()
			return nil, err
		}
		*stdouts[i] = to
		theirs = append(theirs, to)
		p.output[i].from = from
	}
	if err := p.cmd.Start(); err != nil {
		p.abandon()
		return nil, err
	}
	for _, o := range p.output {
		if o.from != nil {
			go o.fill()
		}
	}
	go func() {
		p.cmd.Wait()
		p.status = p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		close(p.ended)
		p.stdin.Close() // whoever still writes to it is told
		for _, o := range p.output {
			o.unread()
		}
	}()
	if r.HasTimeoutSecs() {
		timeout := time.AfterFunc(time.Duration(r.GetTimeoutSecs())*time.Second, func() { p.cmd.Process.Kill() })
		go func() { <-p.ended; timeout.Stop() }()
	}
	return p, nil
}

// abandon lets go of a process's pipes.
func (p *process) abandon() {
	p.stdin.Close()
	for _, o := range p.output {
		if o != nil && o.from != nil {
			o.from.SetReadDeadline(time.Now())
		}
	}
}

func (w *worker) process(task, id string) (*process, error) {
	b, err := w.box(task)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.processes[id]; p != nil {
		return p, nil
	}
	return nil, status.Errorf(codes.NotFound, "no command %s", id)
}

func (w *worker) TaskExecStdioRead(r *pb.TaskExecStdioReadRequest, st grpc.ServerStreamingServer[pb.TaskExecStdioReadResponse]) error {
	p, err := w.process(r.GetTaskId(), r.GetExecId())
	if err != nil {
		return err
	}
	o := p.output[0]
	if r.GetFileDescriptor() == pb.TaskExecStdioFileDescriptor_TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDERR {
		o = p.output[1]
	}
	o.attach(1)
	defer o.attach(-1)
	w.s.mu.Lock()
	cut := w.s.cut
	w.s.mu.Unlock()
	sent := 0
	for offset := r.GetOffset(); ; {
		data, err := o.read(st.Context(), offset)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return status.FromContextError(err).Err()
		}
		if cut > 0 && sent+len(data) > cut {
			data = data[:cut-sent]
		}
		if err := st.Send(pb.TaskExecStdioReadResponse_builder{Data: data}.Build()); err != nil {
			return err
		}
		offset += uint64(len(data))
		if sent += len(data); cut > 0 && sent >= cut {
			return status.Error(codes.Unavailable, "connection reset in the middle")
		}
		time.Sleep(time.Duration(len(data)) * time.Second / rate)
	}
}

func (w *worker) TaskExecStdinWrite(_ context.Context, r *pb.TaskExecStdinWriteRequest) (*pb.TaskExecStdinWriteResponse, error) {
	p, err := w.process(r.GetTaskId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	p.inMu.Lock()
	defer p.inMu.Unlock()
	data := r.GetData()
	switch {
	case r.GetOffset() > p.offset:
		return nil, status.Errorf(codes.OutOfRange, "stdin stands at %d, not at %d", p.offset, r.GetOffset())
	case p.offset > r.GetOffset(): // asked again
		data = data[min(p.offset-r.GetOffset(), uint64(len(data))):]
	}
	n, err := p.stdin.Write(data)
	p.offset += uint64(n)
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "stdin: %v", err)
	}
	if r.GetEof() {
		p.stdin.Close()
	}
	return &pb.TaskExecStdinWriteResponse{}, nil
}

func (w *worker) TaskExecWait(ctx context.Context, r *pb.TaskExecWaitRequest) (*pb.TaskExecWaitResponse, error) {
	p, err := w.process(r.GetTaskId(), r.GetExecId())
	if err != nil {
		return nil, err
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if p.status.Signaled() {
		return pb.TaskExecWaitResponse_builder{Signal: proto.Int32(int32(p.status.Signal()))}.Build(), nil
	}
	return pb.TaskExecWaitResponse_builder{Code: proto.Int32(int32(p.status.ExitStatus()))}.Build(), nil
}

// A stream is what a process wrote, as far as it may have to be sent (again).
// When it holds maxHeld bytes, the process has to wait; not so when it has
// ended and nobody came to read for a while, for then it is only for what it
// left behind.
type stream struct {
	from *os.File

	mu      sync.Mutex
	data    []byte
	start   uint64 // offset of data
	acked   uint64 // offset that a reader has come to
	readers int
	orphan  bool          // the process has ended
	done    bool          // there is no more
	changed chan struct{} // closed at the next change
}

const (
	maxHeld = 1 << 20
	again   = maxHeld / 2 // how far back a reader may resume
)

func newStream() *stream { return &stream{changed: make(chan struct{})} }

// change tells everybody who waits; mu is held.
func (o *stream) change() {
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *stream) with(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
	o.change()
}

func (o *stream) attach(n int) { o.with(func() { o.readers += n }) }
func (o *stream) unread()      { o.with(func() { o.orphan = true }) }
func (o *stream) finish()      { o.with(func() { o.done = true }) }

// fill reads what the process writes, to its end.
func (o *stream) fill() {
	defer o.from.Close()
	defer o.finish()
	buf := make([]byte, 64<<10)
	for {
		n, err := o.from.Read(buf)
		if err != nil {
			return
		}
		o.mu.Lock()
		for len(o.data) >= maxHeld {
			if keep := o.acked - o.start; keep > again {
				o.drop(keep - again)
				continue
			}
			changed := o.changed
			o.mu.Unlock()
			late := false
			select {
			case <-changed:
			case <-time.After(3 * time.Second):
				late = true
			}
			o.mu.Lock()
			if late && o.orphan && o.readers == 0 {
				o.drop(uint64(len(o.data)))
			}
		}
		o.data = append(o.data, buf[:n]...)
		o.change()
		o.mu.Unlock()
	}
}

func (o *stream) drop(n uint64) {
	o.data = bytes.Clone(o.data[n:])
	o.start += n
}

// read returns what there is from offset on, as soon as there is something.
func (o *stream) read(ctx context.Context, offset uint64) ([]byte, error) {
	o.with(func() { o.acked = max(o.acked, offset) })
	for {
		o.mu.Lock()
		start, data, done, changed := o.start, o.data, o.done, o.changed
		o.mu.Unlock()
		switch {
		case offset < start:
			return nil, fmt.Errorf("offset %d is no more there", offset)
		case offset < start+uint64(len(data)):
			data = data[offset-start:]
			return bytes.Clone(data[:min(len(data), 64<<10)]), nil
		case done:
			return nil, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
