package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A session ties calls to one sandbox: the sandbox is made at the first call
// and ends with the session. What makes a session differs (see sessionKey);
// what happens in it does not.
//
//	no sandbox ──first call──► making ──► box ──idle, lifetime, death──► no sandbox (lost says why)
//	     │                        ▲        │└─────────daemon stops───────► kept for the next daemon
//	     │                     restore     │
//	     └───────────────────────┴─────────┴──────────end──────────────► ended
type session struct {
	ep      *endpoint
	key     sessionKey
	created time.Time

	connected bool // a shim's connection has it; guarded by ep.mu
	byItself  bool // the connection wants one sandbox and no handles, whatever the profile says

	mu     sync.Mutex
	making *making
	box    *box
	lost   string // why the last sandbox ended, until a result has told it
	ended  bool
	expiry *time.Timer // of a header session without a sandbox, or a shim's without its connection
}

// A sessionKey is what ties a call to its session. Sessions are looked up by
// profile (the endpoint), principal and key, so nobody reaches another's.
type sessionKey struct {
	principal string
	kind      keyKind
	value     string
}

type keyKind string

const (
	byConnection keyKind = "connection" // the shim's
	byMCP        keyKind = "mcp"        // Mcp-Session-Id
	byHeader     keyKind = "header"     // Kilntainers-Sandbox, a name the client chose
	byHandle     keyKind = "handle"     // sandbox_id, a secret we made
)

// headerSessionLife is how long a client's name is remembered without a
// sandbox, so that the next one's notice can say that it replaces another.
const headerSessionLife = time.Hour

// failedSessionLife is how long it is remembered if there never was one. It is
// a variable for tests.
var failedSessionLife = 10 * time.Second

// returnTime is how long the next daemon waits for a shim to come back for its
// sandbox. Shims try for 30 s.
const returnTime = time.Minute

// closeTimeout bounds one try to destroy a sandbox. adoptTimeout bounds the taking over of one.
const (
	closeTimeout = 15 * time.Second
	closeRetry   = 10 * time.Second // doubled each time
	adoptTimeout = 30 * time.Second
)

var errSessionEnded = errors.New("the session has ended")

// A making is a sandbox on its way. Calls of the session wait for it; it goes
// on when they give up, since the next one will want it.
type making struct {
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when err is set, or the session has a box
	err     error
	waiting []chan backends.Progress // one per waiting call, the newest report in each
}

// A box is a session's sandbox with what the daemon knows of it. Its keeper
// goroutine destroys it.
type box struct {
	s       *session
	sb      backends.Sandbox
	from    *opened
	kept    *entry // how the next daemon would find it; nil = not at all
	created time.Time
	end     chan string   // why it must end; the keeper takes the first
	poked   chan struct{} // the profile changed, or the last call of a removed one ended
	gone    chan struct{} // closed once it is destroyed

	// guarded by s.mu
	running int
	execs   int64
	lastUse time.Time
	reason  string // why it ended
}

// acquire returns the session's sandbox, making it if there is none, for one
// call; release must follow. lost is why an earlier sandbox ended, for the
// first call that gets its successor. progress hears how far the making is.
func (s *session) acquire(ctx context.Context, progress func(backends.Progress)) (b *box, lost string, err error) {
	for {
		s.mu.Lock()
		if s.ended {
			s.mu.Unlock()
			return nil, "", errSessionEnded
		}
		if b := s.box; b != nil {
			select {
			case <-b.sb.Done(): // its keeper has not noticed yet
				s.forgetLocked(b, goneReason(b.sb.Err()))
			default:
				b.running++
				b.execs++
				lost, s.lost = s.lost, ""
				s.mu.Unlock()
				return b, lost, nil
			}
		}
		m := s.making
		if m == nil {
			if m, err = s.makeLocked(); err != nil {
				s.failedLocked()
				s.mu.Unlock()
				return nil, "", err
			}
		}
		reports := make(chan backends.Progress, 1)
		m.waiting = append(m.waiting, reports)
		s.mu.Unlock()
		if err := m.wait(ctx, reports, progress); err != nil {
			return nil, "", err
		}
	}
}

func (m *making) wait(ctx context.Context, reports <-chan backends.Progress, progress func(backends.Progress)) error {
	for {
		select {
		case <-m.done:
			return m.err
		case <-ctx.Done():
			return context.Cause(ctx)
		case p := <-reports:
			progress(p)
		}
	}
}

// makeLocked starts the making of a sandbox. s.mu is held.
func (s *session) makeLocked() (*making, error) {
	t := s.ep.table
	from, err := s.ep.open()
	if err != nil {
		return nil, err
	}
	if err := t.limits.reserve(s.ep.name, s.key.principal); err != nil {
		from.release()
		return nil, err
	}
	return s.startLocked(func(ctx context.Context, m *making) { s.make(ctx, m, from) }), nil
}

// startLocked starts a making. s.mu is held.
func (s *session) startLocked(work func(context.Context, *making)) *making {
	ctx, cancel := context.WithCancelCause(context.Background())
	m := &making{cancel: cancel, done: make(chan struct{})}
	s.making = m
	s.ep.table.work.Go(func() {
		defer cancel(nil)
		work(ctx, m)
		s.ep.table.evict()
	})
	return m
}

func (s *session) make(ctx context.Context, m *making, from *opened) {
	select {
	case <-s.ep.table.swept:
	case <-ctx.Done():
	}
	began := time.Now()
	sb, err := from.backend.Create(backends.WithProgress(ctx, func(p backends.Progress) { s.report(m, p) }))
	s.ep.metrics.created(time.Since(began), err)
	var kept *entry
	if err == nil {
		kept = s.keep(sb, from, began)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.making = nil
	defer close(m.done)
	if err != nil {
		m.err = err
		s.failedLocked()
		s.ep.table.limits.release(s.ep.name, s.key.principal)
		from.release()
		if ctx.Err() == nil {
			s.ep.log.Error("cannot create sandbox", "principal", s.key.principal, "error", err)
		}
		return
	}
	s.ep.log.Info("sandbox created", "sandbox", sb.ID(), "principal", s.key.principal, "took", time.Since(began).Round(time.Millisecond))
	s.haveLocked(sb, from, kept, began, m)
}

// keep makes the sandbox one that the next daemon finds, if it can be.
func (s *session) keep(sb backends.Sandbox, from *opened, created time.Time) *entry {
	if !from.profile.Driver.Features.Adopt {
		return nil
	}
	t, err := sb.Ticket()
	if errors.Is(err, backends.ErrNoTicket) {
		return nil
	}
	var kept *entry
	if err == nil {
		r := s.record()
		r.Backend, r.Sandbox = from.profile.Backend, &sandboxRecord{ID: t.ID, Data: t.Data, Created: created}
		kept, err = s.ep.table.keeper.keep(r, t.File)
	}
	if err != nil {
		s.ep.log.Warn("the sandbox would not survive a restart of the daemon", "sandbox", sb.ID(), "error", err)
	}
	return kept
}

// record is the session for the next daemon, without a sandbox.
func (s *session) record() record {
	return record{Profile: s.ep.name, Principal: s.key.principal, Kind: s.key.kind, Key: s.key.value, Opening: s.ep.http.openingOf(s.key)}
}

// awaitReturn ends a shim's session if the shim does not come back in time.
func (s *session) awaitReturn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key.kind == byConnection && s.expiry == nil {
		s.expiry = time.AfterFunc(returnTime, func() { s.ep.abandon(s) })
	}
}

// restore brings back the sandbox that an earlier daemon kept for this
// session. Calls wait for it; if it cannot be had, they get a new one.
func (s *session) restore(l legacy, r record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from, err := s.ep.open()
	if err != nil {
		s.loseLocked(restartedReason)
		s.ep.table.keeper.discard(l)
		return
	}
	s.ep.table.limits.take(s.ep.name, s.key.principal)
	kept := s.ep.table.keeper.adopt(l, r.Sandbox.ID)
	s.ep.table.adopted.Add(1)
	s.startLocked(func(ctx context.Context, m *making) {
		defer s.ep.table.adopted.Done()
		s.adopt(ctx, m, from, l.ticket(r), kept, r.Sandbox.Created)
	})
}

func (s *session) adopt(ctx context.Context, m *making, from *opened, t backends.Ticket, kept *entry, created time.Time) {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	sb, err := from.backend.Adopt(limited, t)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.making = nil
	defer close(m.done)
	if err != nil {
		reason := restartedReason
		var gone *backends.GoneError
		if errors.As(err, &gone) && gone.Reason != "" {
			reason += " and " + gone.Reason
		}
		s.loseLocked(reason)
		s.ep.log.Warn("a sandbox did not survive the restart", "sandbox", t.ID, "principal", s.key.principal, "error", err)
		s.ep.table.keeper.drop(kept)
		s.ep.table.limits.release(s.ep.name, s.key.principal)
		from.release()
		if s.ended {
			m.err = errSessionEnded
		}
		return
	}
	s.ep.log.Info("sandbox adopted from the daemon before", "sandbox", sb.ID(), "principal", s.key.principal, "took", time.Since(began).Round(time.Millisecond))
	s.haveLocked(sb, from, kept, created, m)
}

// haveLocked gives the session its sandbox. s.mu is held.
func (s *session) haveLocked(sb backends.Sandbox, from *opened, kept *entry, created time.Time, m *making) {
	b := &box{
		s: s, sb: sb, from: from, kept: kept, created: created, lastUse: time.Now(),
		end: make(chan string, 1), poked: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	if s.ended {
		m.err = errSessionEnded
		b.end <- "its session ended"
	} else {
		s.box = b
	}
	s.ep.table.work.Go(b.keep)
}

// report hands p to every waiting call without waiting for any: a call that
// has not taken the last report gets the newer one instead.
func (s *session) report(m *making, p backends.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range m.waiting {
		select {
		case <-c:
		default:
		}
		c <- p
	}
}

// release ends a call's use of its sandbox.
func (s *session) release(b *box) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.running--
	b.lastUse = time.Now()
	if b.running == 0 && s.ep.svc.Load() == nil {
		b.poke()
	}
}

// poke makes the keeper look again.
func (b *box) poke() {
	select {
	case b.poked <- struct{}{}:
	default:
	}
}

// end ends the session: running calls are killed, the sandbox is destroyed
// and later calls are refused. It does not wait: the channel that it returns
// closes when the sandbox is gone, and is nil if there is none. Twice is fine.
func (s *session) end(reason string) (gone <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.box; b != nil {
		gone = b.gone
	} else if m := s.making; m != nil {
		gone = m.done
	}
	if s.ended {
		return gone
	}
	s.ended = true
	if s.expiry != nil {
		s.expiry.Stop()
	}
	if s.making != nil {
		s.making.cancel(errSessionEnded)
	}
	if b := s.box; b != nil {
		b.finish(reason)
	}
	return gone
}

// leftForNext is the reason of a box that the daemon lets go of and does not
// destroy.
const leftForNext = "the daemon stops, and the next one has it"

// leave ends the session here for the next daemon to go on with.
func (s *session) leave(may func(*entry) bool) (gone <-chan struct{}) {
	s.mu.Lock()
	b := s.box
	s.mu.Unlock()
	if b != nil && may(b.kept) {
		return s.end(leftForNext)
	}
	return s.end(stoppingReason)
}

// finish tells the keeper to destroy the box.
func (b *box) finish(reason string) {
	select {
	case b.end <- reason:
	default: // it has been told before
	}
}

// forget takes a box out of its session that a call found dead.
func (s *session) forget(b *box, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(b, reason)
	b.finish(reason)
}

// forgetLocked takes a box that ended out of its session, so that the next
// call makes another one. s.mu is held.
func (s *session) forgetLocked(b *box, reason string) {
	if b.reason == "" {
		b.reason = reason
	}
	if s.box != b {
		return
	}
	s.box = nil
	s.loseLocked(b.reason)
}

// loseLocked leaves the session without a sandbox. s.mu is held.
func (s *session) loseLocked(reason string) {
	s.lost = reason
	switch s.key.kind {
	case byHandle: // nothing else leads back here
		s.ended = true
		s.ep.drop(s)
	case byHeader:
		s.expireInLocked(headerSessionLife)
	}
}

// failedLocked is a session whose sandbox could not be made. A name that leads
// to nothing, and never did, is not remembered for long: there may be any
// number of them. s.mu is held.
func (s *session) failedLocked() {
	if s.key.kind == byHeader && s.lost == "" {
		s.expireInLocked(failedSessionLife)
	}
}

func (s *session) expireInLocked(life time.Duration) {
	if s.expiry == nil {
		s.expiry = time.AfterFunc(life, s.expire)
	} else {
		s.expiry.Reset(life)
	}
}

// expire drops a header session that nobody has used for long.
func (s *session) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.box == nil && s.making == nil && !s.ended {
		s.ended = true
		s.ep.drop(s)
	}
}

// keep waits for the end of the box and destroys it.
func (b *box) keep() {
	reason := b.wait()
	b.s.mu.Lock()
	b.s.forgetLocked(b, reason)
	b.s.mu.Unlock()

	log := b.s.ep.log.With("sandbox", b.sb.ID(), "principal", b.s.key.principal, "reason", reason)
	if reason == leftForNext {
		b.sb.Leave()
		log.Info("sandbox kept", "lived", time.Since(b.created).Round(time.Millisecond))
		b.done()
		return
	}
	b.destroy(log)
	var gone *backends.GoneError
	if errors.As(b.sb.Err(), &gone) && gone.Err != nil {
		log.Debug("sandbox ended by itself", "cause", gone.Err)
	}
	b.s.ep.table.keeper.drop(b.kept)
	b.done()
}

// destroy destroys the sandbox, and tries again for as long as that fails: an
// engine that is away comes back. What is there when the daemon stops is left
// to the next one's sweep.
func (b *box) destroy(log *slog.Logger) {
	alive := b.s.ep.table.alive.Done()
	for pause := closeRetry; ; pause = min(2*pause, sweepInterval) {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		err := b.sb.Close(ctx)
		cancel()
		if err == nil {
			log.Info("sandbox destroyed", "lived", time.Since(b.created).Round(time.Millisecond))
			return
		}
		select {
		case <-alive:
			log.Error("cannot destroy sandbox; the next start of the daemon will", "error", err)
			return
		default:
		}
		log.Error("cannot destroy sandbox; trying again", "error", err, "in", pause)
		select {
		case <-alive: // once more, at once
		case <-time.After(pause):
		}
	}
}

// done ends the daemon's part in the box.
func (b *box) done() {
	b.s.ep.table.limits.release(b.s.ep.name, b.s.key.principal)
	b.from.release()
	close(b.gone)
}

// wait returns why the box must end. It decides on idleness under the
// session's lock, so that no call gets a sandbox that is about to go.
func (b *box) wait() string {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-b.sb.Done():
			return goneReason(b.sb.Err())
		case reason := <-b.end:
			return reason
		case <-b.poked:
		case <-timer.C:
		}
		reason, next := b.due(time.Now())
		if reason != "" {
			return reason
		}
		timer.Reset(next)
	}
}

// due tells why the box must end now, or after how long to ask again.
func (b *box) due(now time.Time) (reason string, next time.Duration) {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		if reason != "" {
			s.forgetLocked(b, reason)
		}
	}()
	svc := s.ep.svc.Load()
	if svc == nil {
		if b.running == 0 {
			return fmt.Sprintf("the profile %q was removed", s.ep.name), 0
		}
		return "", time.Hour // release pokes
	}
	next = time.Hour
	if max := svc.profile.MaxLifetime; max > 0 {
		left := max - now.Sub(b.created)
		if left <= 0 {
			return fmt.Sprintf("it had reached its maximum lifetime of %s", backends.Duration(max)), 0
		}
		next = min(next, left)
	}
	idle := svc.profile.SessionTimeout
	if b.running > 0 {
		return "", min(next, idle)
	}
	left := idle - now.Sub(b.lastUse)
	if left <= 0 {
		return fmt.Sprintf("it had been unused for %s", backends.Duration(idle)), 0
	}
	return "", min(next, left)
}

// why returns why the box ended, once it did.
func (b *box) why(err error) string {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if b.reason != "" {
		return b.reason
	}
	return goneReason(err)
}

// goneReason is the clause that tells a model why a sandbox ended.
func goneReason(err error) string {
	var gone *backends.GoneError
	if errors.As(err, &gone) && gone.Reason != "" {
		return gone.Reason
	}
	return "it stopped unexpectedly"
}

// info is the box for operators.
func (s *session) info(now time.Time) (SandboxStatus, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.box
	if b == nil {
		return SandboxStatus{}, false
	}
	idle := int64(0)
	if b.running == 0 {
		idle = int64(now.Sub(b.lastUse).Seconds())
	}
	return SandboxStatus{
		ID: b.sb.ID(), Profile: s.ep.name, Backend: b.from.profile.Backend,
		Principal: displayName(s.key.principal), Session: string(s.key.kind),
		Created: b.created.UTC().Truncate(time.Second), IdleSeconds: idle, Running: b.running, Execs: b.execs,
	}, true
}

var _ slog.LogValuer = sessionKey{}

// LogValue leaves the value out: it opens the sandbox.
func (k sessionKey) LogValue() slog.Value {
	return slog.StringValue(k.principal + " by " + string(k.kind))
}
