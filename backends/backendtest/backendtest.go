// Package backendtest turns every promise of package backends into a test,
// and has a fake backend that fails on demand. A backend that passes [Run] is
// right; [Bench] tells what it costs, in the same words for every backend.
//
//	func TestConformance(t *testing.T) {
//		backendtest.Run(t, backendtest.Target{
//			Driver:    docker.Driver,
//			Leftovers: containersOf,
//			Limits:    backendtest.Limits{Memory: 128 << 20, Pids: 256},
//		})
//	}
//
// Each case is a subtest and begins with the promise it holds, or the defect
// that made it necessary. What a target cannot do it says as data, with the
// reason ([Target.Lacks]); the cases that need it are skipped with that
// reason. mutants_test.go breaks the promises one by one and proves that the
// suite notices.
package backendtest

import (
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A Target is a backend under test, and what the suite must know of it.
type Target struct {
	Driver backends.Driver

	// Options are the driver's options for the suite; nil means the driver's
	// defaults. Each call returns a new value.
	Options func(t testing.TB) backends.Options

	// Failing are options with which Create fails, such as an image that does
	// not exist; nil skips the case about that.
	Failing func(t testing.TB) backends.Options

	// Spec adjusts the Spec that the suite opens the driver with; nil leaves
	// it as it is. Owner is already filled in and must stay.
	Spec func(s *backends.Spec)

	// Leftovers names what the owner still has in the engine: containers,
	// volumes, processes. The suite calls it whenever nothing may be left. nil
	// means that the backend has nothing that could be left.
	Leftovers func(t testing.TB, o backends.Owner) []string

	// Destroy ends a sandbox from outside, as its engine or an operator would,
	// so that it goes by itself; nil skips the cases about that.
	Destroy func(t testing.TB, o backends.Owner, id string)

	// Lacks is what commands in there cannot have, each with the reason that
	// the skipped cases show. What driver.Features denies need not be repeated.
	Lacks map[Need]string

	// Argv turns a [Verb] and its words into the Args of an Exec; a nil result
	// means that the target has no such verb. A nil Argv takes the verbs from
	// PATH, and "exit" from sh.
	Argv func(v Verb, words ...string) []string

	// Scratch is an absolute directory that commands may write to; "" means
	// the one they start in.
	Scratch string

	// Limits are the ones in force with these Options. Cases that would hurt
	// the machine without a limit are skipped when it is zero.
	Limits Limits

	// Patience is how long one step may take before the suite calls it hung;
	// 0 means one minute.
	Patience time.Duration

	// Goroutines names functions, as a stack trace spells them, whose
	// goroutines live as long as the program by design. All others must be
	// gone when the backend is closed.
	Goroutines []string
}

// Limits are resource limits of one sandbox; zero means none.
type Limits struct {
	Memory backends.Size
	Pids   int
}

// A Need is something that a case wants to find inside a sandbox. A target has
// them all, except those in its Lacks.
type Need string

const (
	// Shell is a POSIX shell for Exec.Command, also as sh in PATH, with cat,
	// chmod, dd, env, grep, head, ls, mkdir, pwd, rm, sleep, tail, wc and yes.
	// Without it only the cases made of verbs run.
	Shell Need = "shell"

	// Background is Features.Background.
	Background Need = "background"

	// Signals is Features.Signals.
	Signals Need = "signals"

	// Adopt is Features.Adopt.
	Adopt Need = "adoption"

	// Setsid is setsid and nohup in PATH.
	Setsid Need = "setsid"

	// Proc is /proc as Linux has it, for counting processes and descriptors.
	Proc Need = "proc"

	// OwnRoot is a file system of its own: an absolute path in one sandbox is
	// not seen in another.
	OwnRoot Need = "own root"

	// OwnProcesses is a process table of its own.
	OwnProcesses Need = "own processes"

	// OwnNetwork is a network of its own, so that network = false holds.
	OwnNetwork Need = "own network"

	// CleanKill is a kill that also finds processes which left their session,
	// their parent and their environment behind.
	CleanKill Need = "clean kill"
)

// A Verb is one of the few commands that every target has, whatever is in it.
type Verb string

const (
	Echo  Verb = "echo"  // writes its words, separated by blanks, and a newline
	Cat   Verb = "cat"   // copies stdin to stdout
	Sleep Verb = "sleep" // sleeps for so many seconds, such as 0.1
	Exit  Verb = "exit"  // ends with that status
	Yes   Verb = "yes"   // writes lines for ever
	Env   Verb = "env"   // writes NAME=VALUE, a line for each variable
	Pwd   Verb = "pwd"   // writes the directory it started in
)
