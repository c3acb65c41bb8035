package backendtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A context that has ended ends the Exec: "returns context.Cause(ctx)".
func ctxEndedBefore(c *probe) {
	ctx, cancel := context.WithCancelCause(c.Context())
	cancel(errStop)
	for _, e := range []backends.Exec{c.verb(Echo, "x"), c.verb(Sleep, "3600")} {
		if r := c.exec(ctx, c.sandbox, e); !errors.Is(r.err, errStop) {
			c.Errorf("%q: got %v", e.Args, r)
		}
	}
	c.usable(c.sandbox)
}

// A deadline ends the command, and "the sandbox stays usable".
func timeout(c *probe) {
	ctx, cancel := context.WithTimeout(c.Context(), 100*time.Millisecond)
	defer cancel()
	if r := c.exec(ctx, c.sandbox, c.verb(Sleep, "3600")); !errors.Is(r.err, context.DeadlineExceeded) {
		c.Errorf("got %v", r)
	}
	c.usable(c.sandbox)
}

// The cause comes back, so that a caller can tell why it had cancelled. The
// command is one that writes without end.
func cancelCause(c *probe) {
	w := newCountingWriter()
	ctx, cancel := context.WithCancelCause(c.Context())
	defer cancel(nil)
	w.each = sync.OnceFunc(func() { cancel(errStop) })
	e := c.verb(Yes)
	e.Stdout = w
	if r := c.exec(ctx, c.sandbox, e); !errors.Is(r.err, errStop) {
		c.Errorf("got %v", r)
	}
	c.usable(c.sandbox)
}

// "a write to Stdout or Stderr fails": the output limit. In the original one
// such command in ten wedged its session for ever, and yes went on burning a
// processor.
func writeError(c *probe) {
	full := errors.New("the writer is full")
	e := c.verb(Yes)
	e.Stdout = &failingWriter{room: 100_000, err: full}
	for range 5 {
		if r := c.exec(c.Context(), c.sandbox, e); !errors.Is(r.err, full) {
			c.Fatalf("got %v", r)
		}
		c.usable(c.sandbox)
	}
	if c.lacks(Shell) == "" {
		r := c.exec(c.Context(), c.sandbox, backends.Exec{Command: "yes >&2", Stderr: &failingWriter{room: 100_000, err: full}})
		if !errors.Is(r.err, full) {
			c.Errorf("on stderr: got %v", r)
		}
		c.usable(c.sandbox)
	}
}

// Also when the command is over by the time its output is written.
func writeErrorAtTheEnd(c *probe) {
	full := errors.New("the writer is full")
	e := c.verb(Echo, "x")
	e.Stdout = &failingWriter{err: full}
	if r := c.exec(c.Context(), c.sandbox, e); !errors.Is(r.err, full) {
		c.Errorf("got %v", r)
	}
	c.usable(c.sandbox)
}

// Neither end of a full stdin pipe holds up a cancel.
func cancelDuringStdin(c *probe) {
	ctx, cancel := context.WithTimeoutCause(c.Context(), 200*time.Millisecond, errStop)
	defer cancel()
	e := c.verb(Sleep, "3600")
	e.Stdin = strings.NewReader(randomText(stdinSize))
	if r := c.exec(ctx, c.sandbox, e); !errors.Is(r.err, errStop) {
		c.Errorf("got %v", r)
	}
	c.usable(c.sandbox)
}

// A cancel at any moment gives the cause, or a command that came to its end.
func cancelRace(c *probe) {
	e := c.verb(Echo, "whole")
	took := time.Hour // when all is well; half of the cancels shall come sooner
	for range 5 {
		start := time.Now()
		c.exec(c.Context(), c.sandbox, e)
		took = min(took, time.Since(start))
	}
	for i := range 50 {
		ctx, cancel := context.WithTimeoutCause(c.Context(), rand.N(2*took), errStop)
		r := c.exec(ctx, c.sandbox, e)
		cancel()
		if whole := r.ok(0) && r.stdout == "whole\n"; !whole && !errors.Is(r.err, errStop) {
			c.Fatalf("%d: got %v", i, r)
		}
	}
	c.usable(c.sandbox)
}

// killForms are ways to outlive one's shell. Each process appends its id to
// the file pids; ready N waits until there are N and says so.
var killForms = []struct {
	name   string
	needs  []Need
	script string
}{
	{name: "exec", script: `(ready 1) & exec sleep 3600`},
	{name: "child", script: `(ready 2) & sh worker; true`},
	{name: "background", script: `sh worker & sh worker & ready 3; wait`},
	{name: "orphans", script: `(sh worker &); (sh worker &); ready 3; sleep 3600`},
	{name: "deep orphan", script: `sh -c 'sh -c "sh -c \"sh worker &\" &" &'; ready 2; sleep 3600`},
	{name: "pipeline", script: `sh worker | sh worker | cat & ready 3; wait`},
	{name: "streams closed", script: `sh worker < /dev/null > /dev/null 2>&1 & ready 2; wait`},
	{name: "signals ignored", script: `trap "" TERM HUP INT QUIT; sh worker & ready 2; while :; do sleep 1; done`},
	{name: "signals caught", script: `trap 'echo caught; sleep 3600' TERM HUP INT QUIT EXIT; sh worker & ready 2; while :; do sleep 1; done`},
	{name: "stopped", script: `sh worker & until [ $(wc -l < pids) -ge 2 ]; do sleep 0.02; done; kill -STOP $!; ready 2; wait`},
	{name: "environment dropped", script: `env -i PATH="$PATH" sh worker & ready 2; wait`},
	{name: "nohup", needs: []Need{Setsid}, script: `nohup sh worker > /dev/null 2>&1 & ready 2; sleep 3600`},
	{name: "setsid", needs: []Need{Setsid}, script: `setsid sh worker & ready 2; sleep 3600`},
	{name: "daemon", needs: []Need{Setsid}, script: `(setsid sh worker < /dev/null > /dev/null 2>&1 &); ready 2; sleep 3600`},
	{name: "two sessions away", needs: []Need{Setsid}, script: `(setsid sh -c '(setsid sh worker &)' &); ready 2; sleep 3600`},
	{name: "daemon without environment", needs: []Need{Setsid, CleanKill}, script: `(env -i PATH="$PATH" setsid sh worker < /dev/null > /dev/null 2>&1 &); ready 2; sleep 3600`},
}

const killPrelude = `rm -f pids; echo $$ > pids
	printf 'echo $$ >> pids\nexec sleep 3600\n' > worker
	ready() { until [ $(wc -l < pids) -ge $1 ]; do sleep 0.02; done; echo ready; }
	`

// killEach runs each form with kill, which gets a writer that tells when the
// processes are there, and then looks for them from another command. With
// only it takes those forms.
func killEach(c *probe, kill func(script string, out *waitWriter) (got result, want error), only ...string) {
	for _, f := range killForms {
		if len(only) > 0 && !slices.Contains(only, f.name) {
			continue
		}
		if missing := c.missing(f.needs); missing != "" {
			c.Logf("%s left out, it needs %s", f.name, missing)
			continue
		}
		out := newWaitWriter("ready\n")
		if r, want := kill(killPrelude+f.script, out); !errors.Is(r.err, want) {
			c.Errorf("%s: got %v, want error %v", f.name, r, want)
		}
		if alive := c.alive("pids"); len(alive) > 0 {
			c.Errorf("%s: still alive: %s", f.name, strings.Join(alive, " "))
		}
	}
	c.usable(c.sandbox)
}

// alive returns those of the processes listed in a file that live. A zombie
// does not; where there is no /proc to tell, it gets time to be reaped.
func (c *probe) alive(file string) (pids []string) {
	look := func() bool {
		pids = strings.Fields(c.output(c.sandbox, `
			for p in $(cat `+file+`); do
				kill -0 $p 2>/dev/null || continue
				if [ -r /proc/$p/stat ]; then
					read -r line < /proc/$p/stat || continue
					case "${line##*) }" in [ZX]*) continue ;; esac
				fi
				echo $p
			done`))
		return len(pids) == 0
	}
	if !look() && c.lacks(Proc) != "" {
		for range 20 {
			time.Sleep(100 * time.Millisecond)
			if look() {
				break
			}
		}
	}
	return pids
}

// "Exec kills the command and everything it started": whatever it did to get
// away, and before Exec returns. In the original, as in docker exec, a cancel
// left all of it running.
func killByCancel(c *probe) {
	killEach(c, func(script string, out *waitWriter) (result, error) {
		cmd := c.start(c.sandbox, backends.Exec{Command: script, Stdout: out})
		c.await("the start of the processes", out.seen)
		return cmd.stop(), errStop
	})
}

// The same when a deadline does it, which some backends leave to the other
// side. Each form has to wait for it, so these are few.
func killByTimeout(c *probe) {
	killEach(c, func(script string, out *waitWriter) (result, error) {
		ctx, cancel := context.WithTimeout(c.Context(), 500*time.Millisecond)
		defer cancel()
		return c.exec(ctx, c.sandbox, backends.Exec{Command: script, Stdout: out}), context.DeadlineExceeded
	}, "background", "pipeline", "signals ignored", "daemon")
}

// The same when a write fails.
func killByWriteError(c *probe) {
	killEach(c, func(script string, out *waitWriter) (result, error) {
		out.fail = errors.New("the writer is full")
		return c.exec(c.Context(), c.sandbox, backends.Exec{Command: script, Stdout: out}), out.fail
	})
}

// A process that is never the same one for long: each starts the next and
// ends. Who lists first and kills then does not catch it.
func killChain(c *probe) {
	out := newWaitWriter("ready\n")
	cmd := c.start(c.sandbox, backends.Exec{Stdout: out, Command: `rm -f links; : > links
		printf 'echo x >> links\nsh link &\n' > link; sh link
		until [ $(wc -l < links) -ge 5 ]; do sleep 0.02; done; echo ready; sleep 3600`})
	c.await("the start of the processes", out.seen)
	if r := cmd.stop(); !errors.Is(r.err, errStop) {
		c.Errorf("got %v", r)
	}
	before := c.output(c.sandbox, "wc -l < links; sleep 0.3")
	if after := c.output(c.sandbox, "wc -l < links"); after != before {
		c.Errorf("it goes on: %s links, then %s", strings.TrimSpace(before), strings.TrimSpace(after))
	}
	c.usable(c.sandbox)
}

// "the command and everything it started", and nothing else: another command
// of the same sandbox goes on to its own end.
func killSparesOthers(c *probe) {
	c.output(c.sandbox, "rm -f end")
	out := newWaitWriter("begun\n")
	other := c.start(c.sandbox, backends.Exec{Stdout: out, Command: "echo begun; until [ -e end ]; do sleep 0.05; done; echo ended; exit 7"})
	c.await("the start of the other command", out.seen)
	timeout(c)
	c.output(c.sandbox, ": > end")
	if r := other.wait(); !r.ok(7) || out.String() != "begun\nended\n" {
		c.Errorf("got %q, %v", out.String(), r)
	}
}

// Nor is what an earlier command left in the background anyone else's.
func killSparesBackground(c *probe) {
	c.output(c.sandbox, "sleep 3600 & echo $! > pid")
	timeout(c)
	if len(c.alive("pid")) == 0 {
		c.Errorf("an earlier command's background process was killed too")
	}
	c.output(c.sandbox, "kill -KILL $(cat pid)")
}

// A fork bomb ends with its command, however many it became.
func forkBomb(c *probe) {
	if c.target().Limits.Pids == 0 {
		c.Skip("there is no limit on processes")
	}
	sb := c.create(c.backend)
	ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
	defer cancel()
	r := c.exec(ctx, sb, backends.Exec{Command: "f() { f | f & }; f; while :; do :; done"})
	if !errors.Is(r.err, context.DeadlineExceeded) {
		c.Errorf("got %v", r)
	}
	c.usable(sb)
}

// Memory without end is the command's end ("OOM: the kernel killed something
// of this command for memory") or the sandbox's, with the reason; it is not
// silence. Where the program is told that there is no more, it may say so.
func memoryHog(c *probe) {
	if c.target().Limits.Memory == 0 {
		c.Skip("there is no limit on memory")
	}
	sb := c.create(c.backend)
	r := c.exec(c.Context(), sb, backends.Exec{Command: "tail /dev/zero"})
	var gone *backends.GoneError
	switch {
	case errors.As(r.err, &gone):
		if !strings.Contains(gone.Reason, "memory") {
			c.Errorf("the sandbox is gone for the reason %q", gone.Reason)
		}
		c.await("Done", sb.Done())
		c.usable(c.create(c.backend))
	case r.err == nil && r.OOM && r.Code != 0,
		r.err == nil && r.Code != 0 && strings.Contains(r.stderr, "memory"):
		c.usable(sb)
	default:
		c.Errorf("got %v, want OOM or a reason that names the memory", r)
	}
}
