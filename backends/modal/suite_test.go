//go:build linux

package modal

import (
	"testing"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
	"github.com/kilntainers/kilntainers/backends/modal/modaltest"
)

// optionsFor are options for the account of a fake.
func optionsFor(m *modaltest.Server) *Options {
	o := defaults()
	o.TokenID, o.TokenSecret = Secret(m.TokenID), Secret(m.TokenSecret)
	return o
}

func TestConformance(t *testing.T) {
	unpaced(t)
	m := modaltest.Start(t)
	m.Missing("no-such-image")
	const local = "the fake runs commands as processes of this machine"
	backendtest.Run(t, backendtest.Target{
		Driver:  Driver,
		Options: func(testing.TB) backends.Options { return optionsFor(m) },
		Failing: func(testing.TB) backends.Options {
			o := optionsFor(m)
			o.Image = "no-such-image"
			return o
		},
		Leftovers: func(t testing.TB, o backends.Owner) (left []string) {
			for _, s := range m.Sandboxes() {
				if s.Tags[tagInstance] == o.Instance {
					left = append(left, s.Tags[tagSandbox])
				}
			}
			if len(left) == 0 {
				left = m.Processes()
			}
			return left
		},
		Destroy: func(t testing.TB, o backends.Owner, id string) { m.Terminate(id) },
		// The fake answers a question that hangs for 10 s, and is asked again.
		Goroutines: []string{"modaltest.(*control).SandboxWait"},
		Lacks: map[backendtest.Need]string{
			backendtest.OwnRoot:      local,
			backendtest.OwnProcesses: local,
			backendtest.OwnNetwork:   local,
			backendtest.CleanKill:    "a process is found by its environment, session or parent, see killScript",
		},
	})
}

func BenchmarkConformance(b *testing.B) {
	unpaced(b)
	m := modaltest.Start(b)
	backendtest.Bench(b, backendtest.Target{
		Driver:  Driver,
		Options: func(testing.TB) backends.Options { return optionsFor(m) },
	})
}

// unpaced lifts the limit on how fast sandboxes are made.
func unpaced(t testing.TB) {
	limit := creations.Limit()
	creations.SetLimit(1e6)
	t.Cleanup(func() { creations.SetLimit(limit) })
}
