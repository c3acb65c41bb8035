package backendtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// Bench measures what a target costs, in the same words for every backend:
//
//	Create      a sandbox that is ready; close-ms is its end
//	FirstExec   the first command of a fresh sandbox, without its creation
//	Exec        sh -c 'echo hi' in a sandbox that has run some
//	Spawn       true, without a shell
//	Parallel8   eight Execs at once; the time is one of them, wall clock
//	Output      100 MiB of output
//
// p50-ms and p99-ms are percentiles. x-host is the median divided by that of
// the same command run by fork and exec on this machine, turn about in the
// same run: machines are noisy, ratios less so.
func Bench(b *testing.B, tg Target) {
	c := newSuite(tg).probe(b)
	c.backend = c.open(nil)

	b.Run("Create", func(b *testing.B) {
		var create, close times
		for b.Loop() {
			var sb backends.Sandbox
			create.time(func() { sb = c.benchCreate(b) })
			close.time(func() { c.close(sb) })
		}
		create.report(b, nil)
		b.ReportMetric(ms(close.percentile(50)), "close-ms")
	})
	b.Run("FirstExec", func(b *testing.B) {
		e, host := c.benchEcho()
		var target, local times
		for b.Loop() {
			sb := c.benchCreate(b)
			target.time(func() { c.benchExec(b, sb, e) })
			local.time(func() { runHost(b, host, io.Discard) })
			c.close(sb)
		}
		target.report(b, local)
	})

	c.sandbox = c.create(c.backend)
	pair := func(b *testing.B, e backends.Exec, host []string, atOnce int) {
		var target, local times
		for b.Loop() {
			target.time(func() { together(atOnce, func() { c.benchExec(b, c.sandbox, e) }) })
			local.time(func() { together(atOnce, func() { runHost(b, host, io.Discard) }) })
		}
		for i := range target {
			target[i] /= time.Duration(atOnce)
			local[i] /= time.Duration(atOnce)
		}
		target.report(b, local)
	}
	b.Run("Exec", func(b *testing.B) {
		e, host := c.benchEcho()
		pair(b, e, host, 1)
	})
	b.Run("Spawn", func(b *testing.B) {
		e := backends.Exec{Args: []string{"true"}}
		if tg.Argv != nil {
			e = c.verb(Exit, "0")
		}
		pair(b, e, []string{"true"}, 1)
	})
	b.Run("Parallel8", func(b *testing.B) {
		e, host := c.benchEcho()
		pair(b, e, host, 8)
	})
	b.Run("Output", func(b *testing.B) {
		if why := c.lacks(Shell); why != "" {
			b.Skipf("needs %s: %s", Shell, why)
		}
		const size = 100 << 20
		script := fmt.Sprintf("head -c %d /dev/zero", size)
		var target, local times
		for b.Loop() {
			w := newCountingWriter()
			target.time(func() { c.benchExec(b, c.sandbox, backends.Exec{Command: script, Stdout: w}) })
			if w.n.Load() != size {
				b.Fatalf("got %d bytes of %d", w.n.Load(), size)
			}
			local.time(func() { runHost(b, []string{hostShell(), "-c", script}, newCountingWriter()) })
		}
		target.report(b, local)
		b.ReportMetric(size/1e6/target.percentile(50).Seconds(), "MB/s")
	})
}

// benchEcho is the command of most benchmarks, in there and out here.
func (c *probe) benchEcho() (e backends.Exec, host []string) {
	if c.lacks(Shell) != "" {
		return c.verb(Echo, "hi"), []string{"echo", "hi"}
	}
	return backends.Exec{Command: "echo hi"}, []string{hostShell(), "-c", "echo hi"}
}

func (c *probe) benchCreate(b *testing.B) backends.Sandbox {
	sb, err := c.backend.Create(context.Background())
	if err != nil {
		b.Fatalf("create: %v", err)
	}
	return sb
}

// benchExec runs e with nothing of the suite in between.
func (c *probe) benchExec(b *testing.B, sb backends.Sandbox, e backends.Exec) {
	if exit, err := sb.Exec(context.Background(), e); err != nil || exit.Code != 0 {
		b.Errorf("got %+v, %v", exit, err)
	}
}

// runHost runs a command on this machine.
func runHost(b *testing.B, args []string, stdout io.Writer) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout = stdout
	if err := cmd.Run(); err != nil {
		b.Errorf("on this machine: %v", err)
	}
}

// hostShell is what an empty Spec.Shell means on this machine.
func hostShell() string {
	if _, err := os.Stat("/bin/bash"); err == nil {
		return "/bin/bash"
	}
	return "/bin/sh"
}

// together calls f n times at once.
func together(n int, f func()) {
	var all sync.WaitGroup
	for range n - 1 {
		all.Go(f)
	}
	f()
	all.Wait()
}

// times are measurements of one thing.
type times []time.Duration

func (t *times) time(f func()) {
	start := time.Now()
	f()
	*t = append(*t, time.Since(start))
}

func (t times) percentile(p int) time.Duration {
	sorted := slices.Sorted(slices.Values(t))
	return sorted[(len(sorted)-1)*p/100]
}

// report says what t shows. Its mean replaces b's own ns/op, in which the
// host's turns are included.
func (t times) report(b *testing.B, host times) {
	var sum time.Duration
	for _, d := range t {
		sum += d
	}
	mean := sum / time.Duration(len(t))
	b.ReportMetric(float64(mean), "ns/op")
	b.ReportMetric(ms(t.percentile(50)), "p50-ms")
	b.ReportMetric(ms(t.percentile(99)), "p99-ms")
	if host != nil {
		b.ReportMetric(float64(t.percentile(50))/float64(host.percentile(50)), "x-host")
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
