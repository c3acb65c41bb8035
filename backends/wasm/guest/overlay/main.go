// Command overlay writes the changes to Go's standard library with which
// package os has pipes and processes in the sandbox, so that os/exec works for
// libraries that use it (goawk's system and pipes):
//
//	go run ./overlay DIR && go build -overlay=DIR/overlay.json …
//
// The files are made from those of the Go that runs it, by replacing pieces of
// text that must be there exactly once; if one is not, it fails, and someone
// has to look at what changed. The shell and our own tools use package sys and
// need none of this.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: overlay DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "overlay:", err)
		os.Exit(1)
	}
}

// edit replaces old by new in a file below GOROOT/src.
type edit struct{ file, old, new string }

func run(dir string) error {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	src := filepath.Join(strings.TrimSpace(string(out)), "src")
	texts := map[string]string{}
	for _, e := range edits {
		text, ok := texts[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(src, e.file))
			if err != nil {
				return err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return fmt.Errorf("%s: %q is there %d times, not once: the overlay does not fit this Go", e.file, e.old, n)
		}
		texts[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	replace := map[string]string{}
	for file, text := range texts {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			return err
		}
		abs, err := filepath.Abs(to)
		if err != nil {
			return err
		}
		replace[filepath.Join(src, file)] = abs
	}
	b, err := json.MarshalIndent(map[string]any{"Replace": replace}, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "overlay.json"), b, 0o644)
}

var edits = []edit{
	{"os/pipe_wasm.go", "//go:build wasm", "//go:build wasip1"},
	{"os/pipe_wasm.go", `	// Neither GOOS=js nor GOOS=wasip1 have pipes.
	return nil, nil, NewSyscallError("pipe", syscall.ENOSYS)
`, `	var fds [2]int32
	if errno := kilnPipe(&fds[0], &fds[1]); errno != 0 {
		return nil, nil, NewSyscallError("pipe", syscall.Errno(errno))
	}
	return newFile(int(fds[0]), "|0", kindPipe, true), newFile(int(fds[1]), "|1", kindPipe, true), nil
`},
	{"os/pipe_wasm.go", `import "syscall"
`, `import "syscall"

//go:wasmimport kiln_v1 pipe
//go:noescape
func kilnPipe(r, w *int32) uint32
`},
	// The end of a process is read from its pidfd, in the poller.
	{"os/wait_unimp.go", `	return false, nil
`, `	fd := syscall.KilnPidfd(p.Pid)
	if fd < 0 {
		return false, nil
	}
	syscall.SetNonblock(fd, true)
	f := newFile(fd, "pidfd", kindSock, true)
	var b [8]byte
	for n := 0; n < len(b); {
		k, err := f.Read(b[n:])
		if err != nil {
			f.Close()
			return false, err
		}
		n += k
	}
	syscall.KilnEnded(p.Pid, b[0], b[4])
	f.Close()
	return true, nil
`},
	{"os/wait_unimp.go", `package os
`, `package os

import "syscall"
`},
	{"syscall/syscall_wasip1.go", `	// WASI does not have the notion of processes nor signal handlers.
	//
	// Any signal that the application raises to the process itself will
	// be interpreted as being cause for termination.
	if pid > 0 && pid != Getpid() {
		return ESRCH
	}
	ProcExit(128 + int32(signum))
	return nil
`, `	return errnoErr(Errno(kilnKill(int32(pid), int32(signum))))
`},
	{"syscall/syscall_wasip1.go", `func StartProcess(argv0 string, argv []string, attr *ProcAttr) (pid int, handle uintptr, err error) {
	return 0, 0, ENOSYS
}
`, `//go:wasmimport kiln_v1 spawn
//go:noescape
func kilnSpawn(req unsafe.Pointer, n uint32, pid, pidfd *int32) uint32

//go:wasmimport kiln_v1 kill
func kilnKill(pid, sig int32) uint32

// kilnProcs has the pidfd, then the status, of each process that was started.
var kilnProcs map[int]int

// KilnPidfd returns the pidfd of a process that was started, or -1.
func KilnPidfd(pid int) int {
	if fd, ok := kilnProcs[pid]; ok {
		return fd
	}
	return -1
}

// KilnEnded records how a process ended, for Wait4.
func KilnEnded(pid int, status, signal byte) {
	st := int(status) << 8
	if signal != 0 {
		st = int(signal)
	}
	kilnProcs[pid] = st
}

func StartProcess(argv0 string, argv []string, attr *ProcAttr) (pid int, handle uintptr, err error) {
	var b []byte
	u32 := func(n uint32) { b = append(b, byte(n), byte(n>>8), byte(n>>16), byte(n>>24)) }
	str := func(s string) { u32(uint32(len(s))); b = append(b, s...) }
	list := func(l []string) {
		u32(uint32(len(l)))
		for _, s := range l {
			str(s)
		}
	}
	dir := attr.Dir
	if dir == "" {
		dir, _ = Getwd()
	}
	u32(0)
	str(argv0)
	str(dir)
	list(argv)
	list(attr.Env)
	u32(uint32(len(attr.Files)))
	for _, fd := range attr.Files {
		u32(uint32(fd))
	}
	var p, fd int32
	if errno := kilnSpawn(unsafe.Pointer(&b[0]), uint32(len(b)), &p, &fd); errno != 0 {
		return 0, 0, Errno(errno)
	}
	if kilnProcs == nil {
		kilnProcs = map[int]int{}
	}
	kilnProcs[int(p)] = int(fd)
	return int(p), 0, nil
}
`},
	{"syscall/syscall_wasip1.go", `func Wait4(pid int, wstatus *WaitStatus, options int, rusage *Rusage) (wpid int, err error) {
	return 0, ENOSYS
}
`, `func Wait4(pid int, wstatus *WaitStatus, options int, rusage *Rusage) (wpid int, err error) {
	st, ok := kilnProcs[pid]
	if !ok {
		return 0, ECHILD
	}
	*wstatus = WaitStatus(st)
	delete(kilnProcs, pid)
	return pid, nil
}
`},
	{"syscall/syscall_wasip1.go", "func (w WaitStatus) Exited() bool       { return false }", "func (w WaitStatus) Exited() bool       { return w&0x7f == 0 }"},
	{"syscall/syscall_wasip1.go", "func (w WaitStatus) ExitStatus() int    { return 0 }", "func (w WaitStatus) ExitStatus() int    { return int(w >> 8) }"},
	{"syscall/syscall_wasip1.go", "func (w WaitStatus) Signaled() bool     { return false }", "func (w WaitStatus) Signaled() bool     { return w&0x7f != 0 }"},
	{"syscall/syscall_wasip1.go", "func (w WaitStatus) Signal() Signal     { return 0 }", "func (w WaitStatus) Signal() Signal     { return Signal(w & 0x7f) }"},
}
