package backendtest

import (
	"runtime"
	"testing"

	"github.com/kilntainers/kilntainers/backends"
)

func TestProcesses(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the fake runs processes only on Linux")
	}
	Run(t, processTarget(NewFake()))
}

func processTarget(f *Fake) Target {
	return Target{
		Driver:    f.Driver(),
		Leftovers: leftoversOf(f),
		Destroy:   destroyIn(f),
		Lacks: map[Need]string{
			OwnRoot:      "its sandboxes are directories",
			OwnProcesses: "its commands are processes of this machine",
			OwnNetwork:   "its commands are processes of this machine",
			CleanKill:    "it finds processes by a mark in their environment",
		},
	}
}

func TestInMemory(t *testing.T) {
	Run(t, memoryTarget(NewFake(InMemory)))
}

func memoryTarget(f *Fake) Target {
	return Target{
		Driver:    f.Driver(),
		Leftovers: leftoversOf(f),
		Destroy:   destroyIn(f),
		Argv:      func(v Verb, words ...string) []string { return append([]string{string(v)}, words...) },
		Lacks:     map[Need]string{Shell: "its shell is a toy"},
	}
}

func leftoversOf(f *Fake) func(testing.TB, backends.Owner) []string {
	return func(_ testing.TB, o backends.Owner) []string { return f.Leftovers(o) }
}

func destroyIn(f *Fake) func(testing.TB, backends.Owner, string) {
	return func(t testing.TB, _ backends.Owner, id string) {
		if !f.Kill(id, "the test ended it") {
			t.Fatalf("there is no sandbox %s", id)
		}
	}
}

func BenchmarkProcesses(b *testing.B) { Bench(b, processTarget(NewFake())) }

func BenchmarkInMemory(b *testing.B) { Bench(b, memoryTarget(NewFake(InMemory))) }
