package e2b

import (
	"testing"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
	"github.com/kilntainers/kilntainers/backends/e2b/e2btest"
)

// optionsFor are those of a profile that uses the fake service.
func optionsFor(s *e2btest.Service) *Options {
	o := defaults()
	o.APIKey = e2btest.Key
	o.APIURL = s.URL
	o.SandboxURL = s.URL
	return o
}

// target is the driver on a fake service, for the conformance suite.
func target(s *e2btest.Service) backendtest.Target {
	return backendtest.Target{
		Driver:  Driver,
		Options: func(testing.TB) backends.Options { return optionsFor(s) },
		Failing: func(testing.TB) backends.Options {
			o := optionsFor(s)
			o.Template = "no-such-template"
			return o
		},
		Leftovers: func(_ testing.TB, o backends.Owner) []string { return s.Leftovers(o.Instance) },
		Destroy: func(t testing.TB, _ backends.Owner, id string) {
			if !s.Kill(id) {
				t.Errorf("there is no sandbox %s", id)
			}
		},
		Lacks: map[backendtest.Need]string{
			backendtest.OwnRoot:      "the sandboxes of the fake are directories",
			backendtest.OwnProcesses: "commands of the fake are processes of this machine",
			backendtest.OwnNetwork:   "commands of the fake are processes of this machine",
			backendtest.CleanKill:    "processes are found by a mark in their environment, their session and their parents",
		},
	}
}

func TestConformance(t *testing.T) { backendtest.Run(t, target(e2btest.New(t))) }

func BenchmarkE2B(b *testing.B) { backendtest.Bench(b, target(e2btest.New(b))) }
