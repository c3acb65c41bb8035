package backendtest

import (
	"crypto/rand"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// Run holds the target to every promise of package backends, each case as a
// subtest. It looks for goroutines and descriptors that the backend leaves in
// this process, so nothing else may run beside it.
func Run(t *testing.T, tg Target) {
	s := newSuite(tg)
	before := takeCensus()
	t.Run("Cases", func(t *testing.T) {
		b := s.probe(t).open(nil)
		for _, k := range cases {
			t.Run(k.name, func(t *testing.T) {
				c := s.probe(t)
				c.need(k.needs...)
				c.backend = b
				if !k.bare {
					c.sandbox = s.common(c)
				}
				k.run(c)
			})
		}
		s.closeCommon(s.probe(t))
	})
	t.Run("NothingLeft", func(t *testing.T) {
		c := s.probe(t)
		c.nothingLeft()
		before.compare(t, tg.Goroutines, c.patience())
	})
}

// A testCase is one promise.
type testCase struct {
	name  string
	run   func(*probe)
	needs []Need
	bare  bool // wants no sandbox made for it
}

// A suite is one Run or Bench: a target, the owner of what it makes, and the
// sandbox that most cases share. Sharing is part of the test: a case that
// harms the sandbox fails the next.
type suite struct {
	target Target
	owner  backends.Owner

	mu     sync.Mutex
	ids    map[string]bool // of all sandboxes so far
	late   []string        // misdeeds that nobody was there to report
	shared backends.Sandbox
}

func newSuite(tg Target) *suite {
	if tg.Patience == 0 {
		tg.Patience = time.Minute
	}
	return &suite{
		target: tg,
		owner:  backends.Owner{Instance: "test-" + rand.Text()[:8], Boot: rand.Text()[:8]},
		ids:    map[string]bool{},
	}
}

// probe returns what a case works with. When the case ends, misdeeds that
// came to light meanwhile fail it.
func (s *suite) probe(t testing.TB) *probe {
	c := &probe{TB: t, suite: s}
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, m := range s.late {
			t.Error(m)
		}
		s.late = nil
	})
	return c
}

// misdeed notes what a backend did wrong in a goroutine of its own.
func (s *suite) misdeed(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.late, what) {
		s.late = append(s.late, what)
	}
}

// common returns the shared sandbox. A case that fails does not pass it on.
func (s *suite) common(c *probe) backends.Sandbox {
	c.Cleanup(func() {
		if c.Failed() {
			s.closeCommon(c)
		}
	})
	if s.shared != nil && s.shared.Err() != nil {
		s.closeCommon(c)
	}
	if s.shared == nil {
		sb, err := c.tryCreate(c.Context(), c.backend)
		if err != nil {
			c.Fatalf("create: %v", err)
		}
		s.shared = sb
	}
	return s.shared
}

func (s *suite) closeCommon(c *probe) {
	if sb := s.shared; sb != nil {
		s.shared = nil
		c.close(sb)
	}
}
