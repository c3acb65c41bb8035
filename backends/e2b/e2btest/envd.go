package e2btest

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// envdVersion is the one that the fake is modelled on.
const envdVersion = "0.6.13"

// A box is a sandbox: its record, and its envd.
type box struct {
	service *Service
	number  int
	id      string
	in      newSandbox
	born    time.Time
	dir     string
	holder  *exec.Cmd // keeps the process group that commands are started in
	hold    io.Closer

	// With Service.mu.
	timer  *time.Timer
	token  string
	endAt  time.Time
	paused bool
	ended  bool // as far as clients can see

	cut  chan struct{} // closed when its streams are to be cut
	once sync.Once     // removes it

	starting sync.RWMutex // held while a process starts, so that the end misses none
	gone     bool
	readers  sync.WaitGroup

	mu        sync.Mutex
	processes map[int]*process
	pipes     map[*os.File]bool // that somebody may still write to
}

// A process is a command's first.
type process struct {
	cmd      *exec.Cmd
	config   map[string]any
	signaled chan struct{} // closed by the first signal
	waited   chan struct{} // closed when it has ended
	once     sync.Once
	mu       sync.Mutex
	stdin    *os.File
}

func (s *Service) newBox(number int, in newSandbox, secure bool, timeout time.Duration) (*box, error) {
	b := &box{
		service: s, number: number, id: fmt.Sprintf("i%019d", number), in: in, born: time.Now(),
		cut: make(chan struct{}), processes: map[int]*process{}, pipes: map[*os.File]bool{},
	}
	if secure {
		b.token = "ec_" + rand.Text()
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "kilntainers-e2b-"); err != nil {
		return nil, err
	}
	b.holder = exec.Command("cat")
	b.holder.Env = []string{markName + "=" + b.mark()}
	b.holder.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if b.hold, err = b.holder.StdinPipe(); err == nil {
		err = b.holder.Start()
	}
	if err != nil {
		os.RemoveAll(b.dir)
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boxes[b.id] = b
	b.endAt = b.born.Add(timeout)
	b.timer = time.AfterFunc(timeout, func() { s.remove(b) })
	return b, nil
}

// mark is in the environment of all processes of the box. The dot keeps box 1
// apart from box 10.
func (b *box) mark() string { return b.service.mark + "." + b.id + "." }

// remove ends a sandbox, and returns when nothing is left of it.
func (s *Service) remove(b *box) {
	b.once.Do(func() {
		s.mu.Lock()
		b.timer.Stop()
		b.ended = true
		if !b.paused {
			close(b.cut)
		}
		s.mu.Unlock()
		b.starting.Lock()
		b.gone = true
		b.starting.Unlock()
		killMarked(b.mark())
		b.hold.Close()
		b.holder.Wait()
		b.mu.Lock()
		for f := range b.pipes {
			f.SetReadDeadline(time.Now()) // whoever escaped
		}
		b.mu.Unlock()
		b.readers.Wait()
		os.RemoveAll(b.dir)
		s.mu.Lock()
		delete(s.boxes, b.id)
		s.mu.Unlock()
	})
}

// envd serves the envd of one sandbox. One that is not there is answered by
// the edge.
func (s *Service) envd(w http.ResponseWriter, r *http.Request, id string) {
	s.mu.Lock()
	b := s.boxes[id]
	missing := b == nil || b.paused || b.ended
	token := ""
	if b != nil {
		token = b.token
	}
	s.mu.Unlock()
	if missing {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadGateway)
		fmt.Fprintf(w, `{"sandboxId":%q,"message":"The sandbox was not found","code":502}`, id)
		return
	}
	if r.URL.Path == "/health" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if r.Header.Get("X-Access-Token") != token {
		refuse(w, http.StatusUnauthorized, "unauthorized access, please provide a valid access token or method signing if supported")
		return
	}
	if user, _, _ := r.BasicAuth(); user != "" && user != "root" && user != "user" {
		refuseRPC(w, http.StatusUnauthorized, "unauthenticated", fmt.Sprintf("invalid username: '%s'", user))
		return
	}
	switch method := strings.TrimPrefix(r.URL.Path, "/process.Process/"); method {
	case "Start":
		b.start(w, r)
	case "List":
		b.list(w)
	case "SendSignal", "SendInput", "CloseStdin":
		b.act(w, r, method)
	default:
		refuseRPC(w, http.StatusNotFound, "unimplemented", r.URL.Path)
	}
}

// refuseRPC answers as Connect does.
func refuseRPC(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"code": code, "message": message})
}

// list is the call List.
func (b *box) list(w http.ResponseWriter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := []map[string]any{}
	for pid, p := range b.processes {
		all = append(all, map[string]any{"pid": pid, "config": p.config})
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"processes": all})
}

// act is the calls for one process.
func (b *box) act(w http.ResponseWriter, r *http.Request, method string) {
	var in struct {
		Process struct{ PID int }
		Signal  string
		Input   struct{ Stdin []byte }
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		refuseRPC(w, http.StatusBadRequest, "invalid_argument", err.Error())
		return
	}
	b.mu.Lock()
	p := b.processes[in.Process.PID]
	b.mu.Unlock()
	if p == nil {
		refuseRPC(w, http.StatusNotFound, "not_found", fmt.Sprintf("process with pid %d not found", in.Process.PID))
		return
	}
	var err error
	switch method {
	case "SendSignal":
		sig := map[string]syscall.Signal{"SIGNAL_SIGTERM": syscall.SIGTERM, "SIGNAL_SIGKILL": syscall.SIGKILL}[in.Signal]
		if sig == 0 {
			refuseRPC(w, http.StatusNotImplemented, "unimplemented", "invalid signal: "+in.Signal)
			return
		}
		p.cmd.Process.Signal(sig)
		p.once.Do(func() { close(p.signaled) })
	case "SendInput":
		_, err = p.write(in.Input.Stdin)
	case "CloseStdin":
		err = p.closeStdin()
	}
	if err != nil {
		refuseRPC(w, http.StatusInternalServerError, "internal", "error writing to stdin: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, "{}")
}

// write blocks as long as the command does not read, as envd's does.
func (p *process) write(data []byte) (int, error) {
	p.mu.Lock()
	f := p.stdin
	p.mu.Unlock()
	if f == nil {
		return 0, errors.New("stdin not enabled or closed")
	}
	return f.Write(data)
}

func (p *process) closeStdin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stdin == nil {
		return errors.New("stdin not enabled or closed")
	}
	err := p.stdin.Close()
	p.stdin = nil
	return err
}

// start is the call Start: a stream of events, each a frame.
func (b *box) start(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Process struct {
			Cmd  string            `json:"cmd"`
			Args []string          `json:"args"`
			Envs map[string]string `json:"envs"`
			Cwd  *string           `json:"cwd"`
		} `json:"process"`
		Stdin *bool           `json:"stdin"`
		PTY   json.RawMessage `json:"pty"`
	}
	w.Header().Set("Content-Type", "application/connect+json")
	var header [5]byte
	_, err := io.ReadFull(r.Body, header[:])
	if err == nil {
		err = json.NewDecoder(io.LimitReader(r.Body, int64(binary.BigEndian.Uint32(header[1:])))).Decode(&in)
	}
	if err != nil {
		endStream(w, "invalid_argument", err.Error())
		return
	}
	if len(in.PTY) > 0 && string(in.PTY) != "null" {
		endStream(w, "unimplemented", "this fake has no terminals")
		return
	}
	dir := b.dir
	if in.Process.Cwd != nil && *in.Process.Cwd != "" {
		dir = *in.Process.Cwd
	}
	if _, err := os.Stat(dir); err != nil {
		endStream(w, "invalid_argument", fmt.Sprintf("cwd '%s' does not exist", dir))
		return
	}

	// envd makes each command nicer than itself, by way of a shell.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `exec nice -n 0 "$@"`, "sh", in.Process.Cmd}, in.Process.Args...)...)
	cmd.Dir = dir
	user, _, _ := r.BasicAuth()
	if user == "" {
		user = "user"
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir, "USER=" + user, "LOGNAME=" + user}
	for _, env := range []map[string]string{b.in.Env, in.Process.Envs, {markName: b.mark()}} {
		for k, v := range env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	p := &process{cmd: cmd, config: map[string]any{"cmd": in.Process.Cmd, "args": in.Process.Args, "envs": in.Process.Envs, "cwd": dir},
		signaled: make(chan struct{}), waited: make(chan struct{})}
	outputs, err := b.launch(p, in.Stdin == nil || *in.Stdin)
	if err != nil {
		endStream(w, "invalid_argument", "error starting process: "+err.Error())
		return
	}
	defer func() { // also when the connection is cut: the process goes on, unheard
		go func() {
			for range outputs {
			}
		}()
	}()
	event(w, "start", map[string]any{"pid": cmd.Process.Pid})

	beat := 90 * time.Second
	if n, err := strconv.Atoi(r.Header.Get("Keepalive-Ping-Interval")); err == nil && n > 0 {
		beat = time.Duration(n) * time.Second
	}
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	var deadline <-chan time.Time
	if ms, err := strconv.Atoi(r.Header.Get("Connect-Timeout-Ms")); err == nil && ms > 0 {
		t := time.NewTimer(time.Duration(ms) * time.Millisecond)
		defer t.Stop()
		deadline = t.C
	}
	for {
		select {
		case o, more := <-outputs:
			if more {
				event(w, "data", map[string]any{o.stream: o.data})
				ticker.Reset(beat)
				continue
			}
		case <-p.signaled:
			<-p.waited
		case <-ticker.C:
			event(w, "keepalive", struct{}{})
			continue
		case <-deadline:
			cmd.Process.Kill()
			endStream(w, "deadline_exceeded", "context deadline exceeded")
			return
		case <-r.Context().Done():
			return
		case <-b.cut:
			panic(http.ErrAbortHandler)
		}
		state := cmd.ProcessState
		end := map[string]any{"exitCode": state.ExitCode(), "exited": state.Exited(), "status": state.String()}
		if !state.Success() {
			end["error"] = state.String()
		}
		event(w, "end", end)
		endStream(w, "", "")
		return
	}
}

// An output is some bytes of a command.
type output struct {
	stream string
	data   []byte
}

// launch starts the process. Its output comes on the channel, which is closed
// when nobody can write any more and the process has been waited for.
func (b *box) launch(p *process, stdin bool) (<-chan output, error) {
	b.starting.RLock()
	defer b.starting.RUnlock()
	if b.gone {
		return nil, errors.New("the sandbox ends")
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: b.holder.Process.Pid}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	from := map[string]*os.File{}
	for stream, to := range map[string]*io.Writer{"stdout": &p.cmd.Stdout, "stderr": &p.cmd.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		from[stream], *to = r, w
		theirs = append(theirs, w)
	}
	if stdin {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.cmd.Stdin, p.stdin = r, w
		theirs = append(theirs, r)
	}
	if err := p.cmd.Start(); err != nil {
		for _, f := range from {
			f.Close()
		}
		p.closeStdin()
		return nil, err
	}
	b.mu.Lock()
	b.processes[p.cmd.Process.Pid] = p
	for _, f := range from {
		b.pipes[f] = true
	}
	b.mu.Unlock()

	outputs := make(chan output)
	var reading sync.WaitGroup
	for stream, f := range from {
		reading.Go(func() {
			for {
				buf := make([]byte, 32<<10)
				n, err := f.Read(buf)
				if n > 0 {
					outputs <- output{stream, buf[:n]}
				}
				if err != nil {
					return
				}
			}
		})
	}
	read := make(chan struct{})
	go func() { reading.Wait(); close(read) }()
	go func() {
		defer close(p.waited)
		select {
		case <-read:
		case <-p.signaled:
		}
		p.cmd.Wait()
	}()
	b.readers.Go(func() {
		<-read
		<-p.waited
		b.mu.Lock()
		delete(b.processes, p.cmd.Process.Pid)
		for _, f := range from {
			delete(b.pipes, f)
			f.Close()
		}
		b.mu.Unlock()
		p.closeStdin()
		close(outputs)
	})
	return outputs, nil
}

// event writes one frame.
func event(w http.ResponseWriter, kind string, v any) {
	frame(w, 0, map[string]any{"event": map[string]any{kind: v}})
}

// endStream writes the last one.
func endStream(w http.ResponseWriter, code, message string) {
	end := map[string]any{}
	if code != "" {
		end["error"] = map[string]string{"code": code, "message": message}
	}
	frame(w, 2, end)
}

// frame writes flags, length and message in one piece, so that a Cut is where
// it was asked for.
func frame(w http.ResponseWriter, flags byte, v any) {
	msg, _ := json.Marshal(v)
	f := binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(msg)))
	w.Write(slices.Concat(f, msg))
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}
