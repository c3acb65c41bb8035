//go:build linux

package modaltest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// markName is the variable with the word that all processes of a server have
// in their environment. Others have it by chance never.
const markName = "MODALTEST_MARK"

// word makes a word of 26 letters and digits that nobody has.
func word() string { return rand.Text() }

// A process table entry.
type entry struct {
	pid, group, session int
	name                string
}

func names(list []entry) (names []string) {
	for _, e := range list {
		names = append(names, fmt.Sprintf("process %d (%s)", e.pid, e.name))
	}
	return names
}

// killMarked kills the processes whose mark begins so, with the groups that
// they are in, until none is left.
func killMarked(mark string) {
	for clean := 0; clean < 2; time.Sleep(time.Millisecond) {
		list := marked(mark)
		if clean++; len(list) > 0 {
			clean = 0
		}
		for _, e := range list {
			syscall.Kill(-e.group, syscall.SIGKILL)
			syscall.Kill(e.pid, syscall.SIGKILL)
		}
	}
}

// marked finds the living processes whose mark begins so, and those of their
// sessions, since one may have dropped its environment. What is older than
// this process, or of its session or group, cannot be a sandbox's, whatever its
// environment says, and is left out.
func marked(mark string) (found []entry) {
	want := []byte(markName + "=" + mark)
	ours := map[int]bool{}
	var all []entry
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		e, start, ok := lookAt(pid)
		if !ok || start < ownStart() || e.session == ownSession() || e.group == unix.Getpgrp() || e.group <= 1 {
			continue
		}
		all = append(all, e)
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // not ours to read: not ours
		if bytes.HasPrefix(environ, want) || bytes.Contains(environ, append([]byte{0}, want...)) {
			ours[e.session] = true
		}
	}
	for _, e := range all {
		if ours[e.session] {
			found = append(found, e)
		}
	}
	return found
}

// lookAt reads /proc/PID/stat (proc(5)). It does not know the dead.
func lookAt(pid int) (e entry, start uint64, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return e, 0, false
	}
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	f := bytes.Fields(stat[end+1:])
	if len(f) < 20 || f[0][0] == 'Z' || f[0][0] == 'X' {
		return e, 0, false
	}
	e = entry{pid: pid, name: string(stat[open+1 : end])}
	e.group, _ = strconv.Atoi(string(f[2]))
	e.session, _ = strconv.Atoi(string(f[3]))
	start, _ = strconv.ParseUint(string(f[19]), 10, 64)
	return e, start, true
}

var ownSession = sync.OnceValue(func() int { sid, _ := unix.Getsid(0); return sid })

var ownStart = sync.OnceValue(func() uint64 {
	_, start, _ := lookAt(os.Getpid())
	return start
})
