package backendtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// in returns c with another sandbox.
func (c *probe) in(sb backends.Sandbox) *probe {
	d := *c
	d.sandbox = sb
	return &d
}

// leftSince fails the case when there is more of ours in the engine than was
// there before.
func (c *probe) leftSince(before []string) {
	c.Helper()
	left := slices.DeleteFunc(c.leftovers(), func(l string) bool { return slices.Contains(before, l) })
	if len(left) > 0 {
		c.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

// A file in one sandbox is not in another.
func filesApart(c *probe) {
	a, b := c.create(c.backend), c.create(c.backend)
	c.output(a, "echo a > apart")
	if r := c.exec(c.Context(), b, backends.Exec{Command: "[ -e apart ]"}); !r.ok(1) {
		c.Errorf("the other sandbox has it: %v", r)
	}
	c.output(b, "echo b > apart")
	if got := c.output(a, "cat apart"); got != "a\n" {
		c.Errorf("the other sandbox changed it to %q", got)
	}
}

// Also by its absolute path, and neither sees this machine's files. The
// original's WASM sandbox read /etc/passwd of the host.
func fileSystemsApart(c *probe) {
	a, b := c.create(c.backend), c.create(c.backend)
	host := filepath.Join(c.TempDir(), "host")
	if err := os.WriteFile(host, []byte("secret"), 0o644); err != nil {
		c.Fatal(err)
	}
	name := c.in(a).file("apart-" + fmt.Sprint(rand.Uint64()))
	c.output(a, "echo a > "+name)
	for _, file := range []string{name, host} {
		if r := c.exec(c.Context(), b, backends.Exec{Command: "cat " + file}); r.err != nil || r.Code == 0 {
			c.Errorf("a sandbox can read %s, which is not its own: %v", file, r)
		}
	}
	if _, err := os.Stat(name); err == nil {
		c.Errorf("a sandbox wrote %s on this machine", name)
	}
}

// A process of one sandbox, or of this machine, is not seen in another.
func processesApart(c *probe) {
	a, b := c.create(c.backend), c.create(c.backend)
	out := newWaitWriter("begun\n")
	c.start(a, backends.Exec{Command: "echo begun; sleep 36001", Stdout: out})
	c.await("the process", out.seen)
	self := filepath.Base(os.Args[0])
	for _, pattern := range []string{"3600[1]", self[:len(self)-1] + "[" + self[len(self)-1:] + "]"} {
		if got := c.output(b, "grep -l '"+pattern+"' /proc/[0-9]*/cmdline; true"); got != "" {
			c.Errorf("a sandbox sees a process that is not its own: %s", got)
		}
	}
	if got := c.output(a, "grep -l '3600[1]' /proc/[0-9]*/cmdline; true"); got == "" {
		c.Errorf("a sandbox does not see its own process: this case tests nothing")
	}
}

// network = false: there is no way out, nor to what listens on this machine.
func noNetwork(c *probe) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.Fatal(err)
	}
	defer l.Close()
	sb := c.create(c.open(func(s *backends.Spec) { s.Network = false }))
	if got := c.output(sb, "grep -v ^Iface /proc/net/route; true"); got != "" {
		c.Errorf("there are routes:\n%s", got)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	r := c.exec(c.Context(), sb, backends.Exec{Command: "[ -n \"$BASH_VERSION\" ] && exec 3<>/dev/tcp/127.0.0.1/" + port + " && echo connected"})
	if r.err != nil || r.stdout != "" {
		c.Errorf("a sandbox reaches this machine: %v", r)
	}
}

// "ready to run commands"; "Err is nil until Done is closed".
func fresh(c *probe) {
	sb := c.create(c.backend)
	id := sb.ID()
	c.usable(sb)
	select {
	case <-sb.Done():
		c.Errorf("a fresh sandbox is Done: %v", sb.Err())
	default:
	}
	if sb.ID() != id || sb.Err() != nil {
		c.Errorf("got id %q, then %q; error %v", id, sb.ID(), sb.Err())
	}
}

// The ctx of a Create that has returned means nothing to the sandbox.
func createCtxEndsLater(c *probe) {
	ctx, cancel := context.WithCancel(c.Context())
	sb, err := c.tryCreate(ctx, c.backend)
	cancel()
	if err != nil {
		c.Fatalf("create: %v", err)
	}
	defer c.close(sb)
	c.usable(sb)
	time.Sleep(50 * time.Millisecond)
	c.usable(sb)
}

// "When it fails … nothing is left behind. Its error … names the cause", and
// is the same the next time: one failure does not wedge the Backend.
func createFails(c *probe) {
	if c.target().Failing == nil {
		c.Skip("the target has no options that fail")
	}
	before := c.leftovers()
	b := c.openWith(c.spec(nil), c.target().Failing(c))
	for range 2 {
		sb, err := c.tryCreate(c.Context(), b)
		if err == nil {
			c.close(sb)
			c.Fatalf("Create succeeded with options that the target calls failing")
		}
		if len(err.Error()) < 10 {
			c.Errorf("%q does not name the cause", err)
		}
		c.leftSince(before)
	}
}

// "When it fails, or ctx ends first, nothing is left behind", at whatever
// moment. The original's docker run, killed half-way, left a container whose
// name nobody knew.
func createCancelled(c *probe) {
	before := c.leftovers()
	ended, cancel := context.WithCancel(c.Context())
	cancel()
	if sb, err := c.tryCreate(ended, c.backend); err == nil {
		c.close(sb)
		c.Errorf("Create succeeded although ctx had ended")
	}
	for _, ms := range []int{0, 1, 2, 5, 10, 20, 50, 100, 150, 200, 300} {
		ctx, cancel := context.WithTimeout(c.Context(), time.Duration(ms)*time.Millisecond)
		sb, err := c.tryCreate(ctx, c.backend)
		cancel()
		if err == nil {
			c.close(sb)
		}
		c.leftSince(before)
	}
	c.usable(c.create(c.backend))
}

// Backend and Sandbox are "safe for concurrent use".
func createManyAtOnce(c *probe) {
	before := c.leftovers()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			sb, err := c.tryCreate(c.Context(), c.backend)
			if err != nil {
				c.Errorf("create: %v", err)
				return
			}
			defer c.close(sb)
			e := c.verb(Cat)
			e.Stdin = strings.NewReader(sb.ID())
			if r := c.exec(c.Context(), sb, e); !r.ok(0) || r.stdout != sb.ID() {
				c.Errorf("%s: got %v", sb.ID(), r)
			}
		})
	}
	all.Wait()
	c.leftSince(before)
}

// "Close destroys the sandbox and all in it … It returns nil only when nothing
// is left"; then Done is closed, Err is ErrClosed, and Exec an ErrGone.
func closeLeavesNothing(c *probe) {
	before := c.leftovers()
	sb := c.create(c.backend)
	c.usable(sb)
	c.close(sb)
	c.leftSince(before)
	c.closed(sb)
}

func (c *probe) closed(sb backends.Sandbox) {
	c.Helper()
	c.await("Done after Close", sb.Done())
	if err := sb.Err(); !errors.Is(err, backends.ErrClosed) || !errors.Is(err, backends.ErrGone) {
		c.Errorf("Err is %v, want ErrClosed", err)
	}
	if r := c.exec(c.Context(), sb, c.verb(Echo, "x")); !errors.Is(r.err, backends.ErrGone) || r.stdout != "" {
		c.Errorf("Exec after Close: got %v, want ErrGone", r)
	}
}

// "Closing twice is fine, also at once."
func closeTwice(c *probe) {
	sb := c.create(c.backend)
	c.close(sb)
	c.close(sb)
	sb = c.create(c.backend)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { c.close(sb) })
	}
	all.Wait()
	c.closed(sb)
}

// "also when commands are running: they return ErrGone".
func closeWhileRunning(c *probe) {
	before := c.leftovers()
	sb := c.create(c.backend)
	yes, w := c.verb(Yes), newCountingWriter()
	yes.Stdout = w
	commands := []*command{c.start(sb, c.verb(Sleep, "3600")), c.start(sb, c.verb(Sleep, "3600")), c.start(sb, yes)}
	c.await("the first output", w.begun)
	c.close(sb)
	for _, cmd := range commands {
		if r := cmd.wait(); !errors.Is(r.err, backends.ErrGone) {
			c.Errorf("a running command: got %v, want ErrGone", r.err)
		}
	}
	c.closed(sb)
	c.leftSince(before)
}

// "ctx bounds the wait", not the work: what was begun is ended all the same.
func closeCtxEnded(c *probe) {
	before := c.leftovers()
	sb := c.create(c.backend)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var err error
	c.within("Close with a ctx that has ended", func() { err = sb.Close(ctx) })
	if err == nil {
		c.leftSince(before)
	}
	c.await("Done after a Close that did not wait", sb.Done())
	if !c.eventually(func() bool { return len(c.leftovers()) <= len(before) }) {
		c.leftSince(before)
	}
	c.close(sb)
	c.closed(sb)
}

// "Close destroys the sandbox and all in it": background processes too.
func closeEndsBackground(c *probe) {
	before := c.leftovers()
	sb := c.create(c.backend)
	c.output(sb, "sleep 3600 & (trap '' TERM HUP; sleep 3600) & echo")
	c.close(sb)
	c.leftSince(before)
}

// Closing a sandbox, or another Backend of the same driver and owner, leaves
// the others alone.
func closeOnlyOne(c *probe) {
	kept, closed := c.create(c.backend), c.create(c.backend)
	b, err := c.target().Driver.Open(c.spec(nil), c.options(), slog.New(slog.DiscardHandler))
	if err != nil {
		c.Fatalf("open: %v", err)
	}
	other, err := c.tryCreate(c.Context(), b)
	if err != nil {
		c.Fatalf("create: %v", err)
	}
	c.close(closed)
	c.close(other)
	if err := b.Close(); err != nil {
		c.Errorf("Backend.Close: %v", err)
	}
	c.usable(kept)
	c.usable(c.create(c.backend))
}

// "Done is closed when the sandbox is gone, by Close or by itself"; then Err is
// "a *GoneError that tells why", running commands have returned ErrGone, and
// the next Create works. The original answered for ever that the sandbox had
// died.
func goneByItself(c *probe) {
	if c.target().Destroy == nil {
		c.Skip("the target cannot destroy a sandbox from outside")
	}
	before := c.leftovers()
	sb := c.create(c.backend)
	c.usable(sb)
	cmd := c.start(sb, c.verb(Sleep, "3600"))
	c.usable(sb)
	c.target().Destroy(c, c.suite.owner, sb.ID())
	if r := cmd.wait(); !errors.Is(r.err, backends.ErrGone) {
		c.Errorf("a running command: got %v, want ErrGone", r)
	}
	c.await("Done of a sandbox that is gone", sb.Done())
	var gone *backends.GoneError
	if err := sb.Err(); !errors.As(err, &gone) || gone.Reason == "" || errors.Is(err, backends.ErrClosed) {
		c.Errorf("Err is %v, want a GoneError with its reason", err)
	}
	if r := c.exec(c.Context(), sb, c.verb(Echo, "x")); !errors.Is(r.err, backends.ErrGone) {
		c.Errorf("the next command: got %v, want ErrGone", r)
	}
	c.close(sb)
	c.leftSince(before)
	c.usable(c.create(c.backend))
}

// "Sweep removes what earlier boots of the same instance left behind … and
// nothing else."
func sweep(c *probe) {
	d := c.target().Driver
	if d.Sweep == nil {
		c.Skip("nothing of this driver outlives the daemon")
	}
	ours := c.suite.owner
	older := backends.Owner{Instance: ours.Instance, Boot: ours.Boot + "-older"}
	foreign := backends.Owner{Instance: ours.Instance + "-foreign", Boot: older.Boot}
	ownedBy := func(o backends.Owner) backends.Sandbox {
		return c.create(c.open(func(s *backends.Spec) { s.Owner = o }))
	}
	old, mine, theirs := ownedBy(older), ownedBy(ours), ownedBy(foreign)
	run := func(dryRun bool) (ofOld []backends.Leftover) {
		var found []backends.Leftover
		var err error
		c.within("Sweep", func() {
			found, err = d.Sweep(c.Context(), backends.Sweep{
				Owner: ours, Options: []backends.Options{c.options()}, DryRun: dryRun, Log: slog.New(slog.DiscardHandler)})
		})
		if err != nil {
			c.Fatalf("sweep: %v", err)
		}
		for _, l := range found {
			if same(l.ID, old.ID()) {
				ofOld = append(ofOld, l)
			}
			if l.Removed == dryRun {
				c.Errorf("dry run %t: got %+v", dryRun, l)
			}
			if same(l.ID, mine.ID()) || same(l.ID, theirs.ID()) {
				c.Errorf("found what is not an earlier boot's: %+v", l)
			}
		}
		c.usable(mine)
		c.usable(theirs)
		return ofOld
	}
	if found := run(true); len(found) != 1 || found[0].Kind == "" || found[0].Profile != "backendtest" {
		c.Errorf("the dry run found %+v of the older boot, want its sandbox", found)
	}
	c.usable(old)
	if found := run(false); len(found) != 1 {
		c.Errorf("the sweep found %+v of the older boot, want its sandbox", found)
	}
	if r := c.exec(c.Context(), old, c.verb(Echo, "x")); !errors.Is(r.err, backends.ErrGone) {
		c.Errorf("a command in what was swept: got %v, want ErrGone", r)
	}
	c.await("Done of what was swept", old.Done())
	if found := run(false); len(found) != 0 {
		c.Errorf("the next sweep found it again: %+v", found)
	}
}

// same compares two names of one thing, of which one may be shortened.
func same(a, b string) bool {
	return a != "" && b != "" && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a))
}

// Everything at once, for -race and for what nobody thought of: commands,
// cancels, writers that fail, and Close in the middle of it. What comes back
// must be one of the promised ends.
func hammer(c *probe) {
	const workers, rounds = 6, 25
	before := c.leftovers()
	full := errors.New("the writer is full")
	echo, sleep, yes := c.verb(Echo, "whole"), c.verb(Sleep, "3600"), c.verb(Yes)
	var mu sync.Mutex
	boxes := make([]backends.Sandbox, 3)
	pick := func() backends.Sandbox {
		mu.Lock()
		defer mu.Unlock()
		i := rand.IntN(len(boxes))
		if boxes[i] == nil || boxes[i].Err() != nil {
			sb, err := c.tryCreate(c.Context(), c.backend)
			if err != nil {
				c.Errorf("create: %v", err)
				return nil
			}
			boxes[i] = sb
		}
		return boxes[i]
	}
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range rounds {
				sb := pick()
				if sb == nil {
					return
				}
				ctx, cancel := context.WithTimeoutCause(c.Context(), time.Duration(rand.IntN(20))*time.Millisecond, errStop)
				var r result
				var fine bool
				switch n := rand.IntN(20); {
				case n == 0:
					c.close(sb)
					fine = true
				case n < 4:
					r = c.exec(ctx, sb, sleep)
					fine = errors.Is(r.err, errStop)
				case n < 8:
					e := yes
					e.Stdout = &failingWriter{room: 10_000, err: full}
					r = c.exec(c.Context(), sb, e)
					fine = errors.Is(r.err, full)
				case n < 12:
					r = c.exec(ctx, sb, echo)
					fine = r.ok(0) && r.stdout == "whole\n" || errors.Is(r.err, errStop)
				default:
					r = c.exec(c.Context(), sb, echo)
					fine = r.ok(0) && r.stdout == "whole\n"
				}
				cancel()
				if !fine && !errors.Is(r.err, backends.ErrGone) {
					c.Errorf("got %v", r)
				}
			}
		})
	}
	all.Wait()
	for _, sb := range boxes {
		if sb != nil {
			c.close(sb)
		}
	}
	c.leftSince(before)
}
