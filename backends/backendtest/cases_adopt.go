package backendtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/kilntainers/kilntainers/backends"
)

// Each of these cases is the life of a sandbox over two daemons: the first
// takes a Ticket and lets go, another Backend adopts.

// ticket returns a sandbox's Ticket.
func (c *probe) ticket(sb backends.Sandbox) backends.Ticket {
	c.Helper()
	var t backends.Ticket
	var err error
	c.within("Ticket", func() { t, err = sb.Ticket() })
	if err != nil {
		c.Fatalf("Ticket: %v", err)
	}
	if !same(t.ID, sb.ID()) || len(t.Data) > 64<<10 {
		c.Errorf("the ticket is for %q and has %d bytes of data, want %q and a few hundred", t.ID, len(t.Data), sb.ID())
	}
	return t
}

// leave lets go of a sandbox.
func (c *probe) leave(sb backends.Sandbox) {
	c.Helper()
	c.within("Leave", sb.Leave)
	c.closed(sb)
}

// adopt returns the sandbox of a ticket, in a backend of another daemon.
func (c *probe) adopt(t backends.Ticket) backends.Sandbox {
	c.Helper()
	sb, err := c.tryAdopt(c.Context(), t)
	if err != nil {
		c.Fatalf("adopt: %v", err)
	}
	if !same(sb.ID(), t.ID) {
		c.Errorf("adopted %q, want %q", sb.ID(), t.ID)
	}
	c.Cleanup(func() { c.close(sb) })
	return sb
}

func (c *probe) tryAdopt(ctx context.Context, t backends.Ticket) (sb backends.Sandbox, err error) {
	c.Helper()
	b := c.open(nil)
	c.within("Adopt", func() { sb, err = b.Adopt(ctx, t) })
	return sb, err
}

// Without Features.Adopt there are no tickets, and with it there are.
func ticketsAsClaimed(c *probe) {
	t, err := c.sandbox.Ticket()
	if t.File != nil {
		c.Cleanup(func() { t.File.Close() })
	}
	if can := c.target().Driver.Features.Adopt; can != (err == nil) || !can && !errors.Is(err, backends.ErrNoTicket) {
		c.Errorf("Features.Adopt is %t, and Ticket returned %v", can, err)
	}
	c.usable(c.sandbox)
	if !c.target().Driver.Features.Adopt {
		if _, err := c.backend.Adopt(c.Context(), backends.Ticket{}); !errors.Is(err, backends.ErrNoTicket) {
			c.Errorf("Adopt without Features.Adopt: got %v", err)
		}
	}
}

// "files, and what commands that had ended left running, are as they were",
// from one daemon to the next, and the next.
func adopt(c *probe) {
	before := c.leftovers()
	sb := c.create(c.backend)
	c.output(sb, "echo kept > kept")
	if c.lacks(Background) == "" {
		c.output(sb, "sleep 3600 & echo $! > pid")
	}
	for i := range 3 {
		t := c.ticket(sb)
		c.leave(sb)
		sb = c.adopt(t)
		if got := c.output(sb, "cat kept"); got != "kept\n" {
			c.Errorf("after %d daemons a file is %q", i+1, got)
		}
		if c.lacks(Background) == "" && len(c.in(sb).alive("pid")) == 0 {
			c.Errorf("after %d daemons a background process is gone", i+1)
		}
		timeout(c.in(sb))
		bigStdin(c.in(sb))
	}
	c.close(sb)
	c.closed(sb)
	c.leftSince(before)
}

// "Commands that ran then are dead, with all that they started, when Adopt
// returns", and had returned ErrGone.
func adoptKills(c *probe) {
	sb := c.create(c.backend)
	for _, f := range killForms {
		if missing := c.missing(f.needs); missing != "" {
			c.Logf("%s left out, it needs %s", f.name, missing)
			continue
		}
		out := newWaitWriter("ready\n")
		cmd := c.start(sb, backends.Exec{Command: killPrelude + f.script, Stdout: out})
		c.await("the start of the processes", out.seen)
		t := c.ticket(sb)
		c.leave(sb)
		if r := cmd.wait(); !errors.Is(r.err, backends.ErrGone) {
			c.Errorf("%s: a command that ran when it was left: got %v, want ErrGone", f.name, r)
		}
		sb = c.adopt(t)
		if alive := c.in(sb).alive("pids"); len(alive) > 0 {
			c.Errorf("%s: still alive: %s", f.name, strings.Join(alive, " "))
		}
		c.usable(sb)
	}
}

// Whatever the first daemon was in the middle of: much output that it had not
// read, and much input that it had not written.
func adoptInFullFlow(c *probe) {
	sb := c.create(c.backend)
	for i := range 5 {
		yes, w := c.verb(Yes), newCountingWriter()
		yes.Stdout = w
		cat := c.verb(Cat)
		cat.Stdin = endless{}
		commands := []*command{c.start(sb, yes), c.start(sb, cat)}
		c.await("the first output", w.begun)
		t := c.ticket(sb)
		c.leave(sb)
		for _, cmd := range commands {
			if r := cmd.wait(); !errors.Is(r.err, backends.ErrGone) {
				c.Errorf("round %d: a running command: got error %v, want ErrGone", i, r.err)
			}
		}
		sb = c.adopt(t)
		c.usable(sb)
	}
}

// endless is input without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// "ErrGone for one that is Done", and from Adopt "when the sandbox is no more".
func adoptWhatIsGone(c *probe) {
	before := c.leftovers()
	sb := c.create(c.backend)
	t := c.ticket(sb)
	c.close(sb)
	if _, err := sb.Ticket(); !errors.Is(err, backends.ErrGone) {
		c.Errorf("Ticket after Close: got %v, want ErrGone", err)
	}
	sb.Leave() // "After Close it does nothing"
	if _, err := c.tryAdopt(c.Context(), t); !errors.Is(err, backends.ErrGone) {
		c.Errorf("Adopt of what was closed: got %v, want ErrGone", err)
	}
	c.leftSince(before)
}

// "and so does Close after it": what was left is not the first daemon's any
// more.
func leaveThenClose(c *probe) {
	sb := c.create(c.backend)
	t := c.ticket(sb)
	c.leave(sb)
	sb.Leave()
	next := c.adopt(t)
	c.close(sb)
	c.usable(next)
}

// "when ctx ends first, it has been destroyed".
func adoptCancelled(c *probe) {
	before := c.leftovers()
	sb := c.create(c.backend)
	t := c.ticket(sb)
	c.leave(sb)
	ctx, cancel := context.WithCancelCause(c.Context())
	cancel(errStop)
	if got, err := c.tryAdopt(ctx, t); err == nil {
		c.close(got)
		c.Errorf("Adopt with a ctx that has ended succeeded")
	}
	if !c.eventually(func() bool { return len(c.leftovers()) <= len(before) }) {
		c.leftSince(before)
	}
}

// A ticket that is not one of ours, as after an update: an error, no panic.
func adoptNonsense(c *probe) {
	sb := c.create(c.backend)
	t := c.ticket(sb)
	if t.File != nil {
		t.File.Close()
	}
	for _, data := range []string{"", "{}", "[1]", `{"id":7}`, strings.Repeat("x", 1000)} {
		if got, err := c.tryAdopt(c.Context(), backends.Ticket{ID: "nonsense", Data: []byte(data)}); err == nil {
			c.close(got)
			c.Errorf("Adopt with data %s succeeded", clip(data))
		}
	}
	c.usable(sb)
}

// "From then on the sandbox lives for as long as the Ticket's File is open
// somewhere; without a File, until it is … swept". Nobody adopts this one.
func leftForNobody(c *probe) {
	before := c.leftovers()
	sb := c.create(c.backend)
	c.output(sb, "sleep 3600 & echo")
	t := c.ticket(sb)
	c.leave(sb)
	if t.File != nil {
		if n := len(c.leftovers()); c.target().Leftovers != nil && n <= len(before) {
			c.Errorf("it ended although its file is open")
		}
		t.File.Close()
	} else {
		c.sweepAs(backends.Owner{Instance: c.suite.owner.Instance, Boot: c.suite.owner.Boot + "-next"})
	}
	if !c.eventually(func() bool { return len(c.leftovers()) <= len(before) }) {
		c.leftSince(before)
	}
}

// Sweep's Keep: what was adopted, or is to be, has another boot and stays.
func sweepKeeps(c *probe) {
	if c.target().Driver.Sweep == nil {
		c.Skip("nothing of this driver outlives its files")
	}
	next := backends.Owner{Instance: c.suite.owner.Instance, Boot: c.suite.owner.Boot + "-later"}
	sb := c.create(c.open(func(s *backends.Spec) { s.Owner.Boot += "-earlier" }))
	t := c.ticket(sb)
	c.leave(sb)
	for _, l := range c.sweepAs(next, c.sandbox.ID(), t.ID) {
		if same(l.ID, t.ID) {
			c.Errorf("swept what was to be kept: %+v", l)
		}
	}
	c.usable(c.adopt(t))
}

// sweepAs sweeps as another boot would.
func (c *probe) sweepAs(o backends.Owner, keep ...string) (found []backends.Leftover) {
	c.Helper()
	var err error
	c.within("Sweep", func() {
		found, err = c.target().Driver.Sweep(c.Context(), backends.Sweep{
			Owner: o, Keep: keep, Options: []backends.Options{c.options()}, Log: slog.New(slog.DiscardHandler)})
	})
	if err != nil {
		c.Errorf("sweep: %v", err)
	}
	return found
}

// missing names the first of ns that the target lacks.
func (c *probe) missing(ns []Need) string {
	for _, n := range ns {
		if why := c.lacks(n); why != "" {
			return fmt.Sprintf("%s: %s", n, why)
		}
	}
	return ""
}
