package e2btest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// markName is the variable by which the processes of a sandbox are found.
const markName = "E2BTEST_MARK"

// usable reports why the fake cannot run here.
func usable() error {
	if self, _ := os.Readlink("/proc/self"); self != strconv.Itoa(os.Getpid()) {
		return errors.New("it needs the /proc of its own PID namespace")
	}
	return nil
}

// killMarked kills the processes of which the mark begins so, and those of
// their process groups and sessions, until twice in a row there are none.
func killMarked(mark string) {
	for clean := 0; clean < 2; time.Sleep(time.Millisecond) {
		procs := marked(mark)
		if clean++; len(procs) > 0 {
			clean = 0
		}
		for _, p := range procs {
			if p.group != unix.Getpgrp() && p.group > 1 {
				syscall.Kill(-p.group, syscall.SIGKILL)
			}
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
}

// A proc is a line of the process table.
type proc struct {
	pid, parent, group, session int
	state                       byte
	name, mark                  string
	found                       bool
}

func (p *proc) String() string { return fmt.Sprintf("process %d (%s)", p.pid, p.name) }

// marked returns the living processes of which the mark begins so, and their
// descendants and those of their groups and sessions. A process of this test
// is never among them, nor one of its group, nor any because of the session
// that it has in common with this test.
func marked(mark string) []*proc {
	procs := readProcs()
	own, _ := unix.Getsid(0)
	sessions, groups := map[int]bool{}, map[int]bool{}
	for grew := true; grew; {
		grew = false
		for _, p := range procs {
			parent := procs[p.parent]
			if p.found || !strings.HasPrefix(p.mark, mark) && !sessions[p.session] && !groups[p.group] && (parent == nil || !parent.found) {
				continue
			}
			p.found, grew = true, true
			groups[p.group] = true
			if p.session != own {
				sessions[p.session] = true
			}
		}
	}
	var found []*proc
	for _, p := range procs {
		if p.found && p.state != 'Z' && p.state != 'X' {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b *proc) int { return a.pid - b.pid })
	return found
}

// ownStart is when this process was started, in clock ticks since boot.
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

// readProcs reads /proc: see proc(5) for stat and environ. What is older than
// this process, or of its group, cannot be of a sandbox, whatever it says.
func readProcs() map[int]*proc {
	procs := map[int]*proc{}
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid <= 1 {
			continue
		}
		stat, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
		if err != nil || open < 0 || end < open {
			continue // it has just ended
		}
		p := &proc{pid: pid, name: string(stat[open+1 : end])}
		if n, _ := fmt.Sscanf(string(stat[end+1:]), " %c %d %d %d", &p.state, &p.parent, &p.group, &p.session); n < 4 {
			continue
		}
		if startTime(stat[end+1:]) < ownStart() || p.group == unix.Getpgrp() || p.group <= 1 || p.session <= 0 {
			continue
		}
		environ, _ := os.ReadFile("/proc/" + d.Name() + "/environ")
		for v := range bytes.SplitSeq(environ, []byte{0}) {
			if m, ok := bytes.CutPrefix(v, []byte(markName+"=")); ok {
				p.mark = string(m)
			}
		}
		procs[pid] = p
	}
	return procs
}
