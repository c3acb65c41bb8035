package backendtest

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A census is the goroutines and open files of this process.
type census struct {
	goroutines map[string]string // first line of the trace → the trace
	files      map[string]int    // what a descriptor points to → how many do
}

func takeCensus() census {
	buf := make([]byte, 8<<20)
	buf = buf[:runtime.Stack(buf, true)]
	c := census{map[string]string{}, map[string]int{}}
	for _, trace := range strings.Split(strings.TrimSpace(string(buf)), "\n\n") {
		id, _, _ := strings.Cut(trace, " [")
		c.goroutines[id] = trace
	}
	fds, _ := filepath.Glob("/proc/self/fd/*") // none where there is no /proc
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil || strings.Contains(to, "[event") || strings.HasPrefix(to, "/proc/") {
			continue // gone, the runtime's own poller, or this very look
		}
		to = strings.TrimRight(to, "[]0123456789") // pipe:[4711]: one is as good as another
		c.files[to]++
	}
	return c
}

// compare fails t when there is more now than there was, once it had time to
// go: what outlives its backend piles up in a daemon that runs for months.
func (before census) compare(t testing.TB, allowed []string, patience time.Duration) {
	t.Helper()
	var extra []string
	for deadline := time.Now().Add(min(patience, 10*time.Second)); ; time.Sleep(20 * time.Millisecond) {
		if extra = takeCensus().since(before, allowed); len(extra) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, e := range extra {
		t.Errorf("left in this process: %s", e)
	}
}

// since lists what is in now but not in before.
func (now census) since(before census, allowed []string) (extra []string) {
	// Goroutines of package testing come and go.
	allowed = append([]string{"testing.tRunner(", "os/signal."}, allowed...)
trace:
	for id, trace := range now.goroutines {
		if before.goroutines[id] != "" {
			continue
		}
		for _, f := range allowed {
			if strings.Contains(trace, f) {
				continue trace
			}
		}
		extra = append(extra, trace)
	}
	for kind, n := range now.files {
		if n > before.files[kind] {
			extra = append(extra, "an open "+kind)
		}
	}
	return extra
}
