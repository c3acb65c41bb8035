// Package backends is the contract between the daemon and whatever runs
// sandboxes. It imports nothing but the standard library.
//
//	Driver ──Open──► Backend ──Create──► Sandbox ──Exec──► Exit
//	one kind         one profile          one machine       one command
//
// A [Driver] is one kind of backend, such as "docker". Opening a driver for a
// profile gives a [Backend]; a Backend makes [Sandbox] values; a Sandbox runs
// [Exec] commands. Each driver lives in a subpackage of its own and is listed
// once, in cmd/kilntainersd.
//
// What is not here is not a backend's business: timeouts (they are the ctx),
// output limits (a Writer that fails), sessions, MCP and TOML belong to the
// daemon, so they are the same for every backend. Package backendtest turns
// every promise below into a test; a backend that passes it is right.
//
// This is version 0: it may change with any release.
package backends

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
)

// A Driver describes one kind of backend. Drivers are plain values: reading
// one, decoding options for it and opening it do no I/O.
type Driver struct {
	// Name is what a profile writes as backend = "…".
	Name string

	// Features is what the driver can do. A profile that asks for more is
	// refused when it is loaded.
	Features Features

	// Options returns a pointer to a struct of the driver's own profile keys
	// (toml tags), filled with defaults. The keys stand flat in the profile,
	// beside the common ones.
	Options func() Options

	// Agree reports where a Spec contradicts the options, as Options.Validate
	// does, so that it is known when the profile is loaded. It does no I/O.
	// nil means that they cannot.
	Agree func(Spec, Options) error

	// Describe says in a sentence or two, to a model, what a sandbox of this
	// shape is: the image or environment, the shell, network on or off, the
	// resources in force, and what persists between commands. The daemon adds
	// how to call it, the time limit and the output limit.
	Describe func(Spec, Options) string

	// Open binds the driver to one profile. It does no I/O, so an engine that
	// is down never stops the daemon from starting or reloading.
	Open func(Spec, Options, *slog.Logger) (Backend, error)

	// Sweep removes what earlier boots of the same instance left behind in
	// the engines that these options name, and nothing else. nil means that
	// nothing of this driver outlives the daemon.
	Sweep func(ctx context.Context, s Sweep) ([]Leftover, error)
}

// Features is what a driver can do. The zero value promises least.
type Features struct {
	Network    bool // network = true can be had
	Background bool // processes outlive the command that started them; later commands see them
	Signals    bool // a command that dies of signal n ends with 128+n
	Pool       bool // sandboxes are worth keeping started ahead of need
	Shell      bool // Exec.Command works although Spec.Shell is empty
	Adopt      bool // sandboxes can outlive the process that made them: see Ticket
}

// Options is a driver's own part of a profile.
type Options interface {
	// Validate reports every problem that can be found without I/O, each as
	// an *OptionError so that the reader can be shown the line; several are
	// joined with errors.Join.
	Validate() error
}

// OptionError is one problem in one key of a driver's options.
type OptionError struct {
	Key     string // as written in the profile, such as "memory"
	Problem string // what is wrong, then "; " and what would be right
}

func (e *OptionError) Error() string { return e.Key + ": " + e.Problem }

// Spec is what every backend is told about the profile it serves. Two equal
// Specs with equal Options make the same kind of sandbox, so a change that
// leaves both alone keeps warm sandboxes.
type Spec struct {
	Profile string            // the profile's name
	Owner   Owner             // who makes the sandboxes, for labels
	Shell   string            // shell for Exec.Command; "" = /bin/bash if there is one, else /bin/sh
	Network bool              // network access from inside
	Env     map[string]string // set for every command
	Dir     string            // where commands start; "" = the sandbox's own default
}

// Owner tells apart what different daemons made. It goes into labels, tags
// or metadata as kilntainers.instance and kilntainers.boot.
type Owner struct {
	Instance string // one state directory, for ever
	Boot     string // one run of the daemon
}

// Sweep is a request to remove leftovers. See Driver.Sweep.
type Sweep struct {
	Owner   Owner     // remove what has this Instance and another Boot …
	Keep    []string  // … but for sandboxes with these IDs: they were adopted, or are to be
	Options []Options // of every profile that uses the driver
	DryRun  bool      // only list
	Log     *slog.Logger
}

// Leftover is one thing that Sweep found.
type Leftover struct {
	Kind    string // "container", "sandbox", …
	ID      string
	Profile string
	Removed bool
}

// A Backend makes sandboxes for one profile. It is safe for concurrent use.
type Backend interface {
	// Check reports whether Create would work now, in words an operator can
	// act on. It makes no sandbox.
	Check(ctx context.Context) error

	// Create starts a sandbox and returns it ready to run commands. It says
	// how far it is with Report when it takes long. When it fails, or ctx
	// ends first, nothing is left behind. Its error is shown to the model and
	// to the operator, so it names the cause and holds no secret.
	Create(ctx context.Context) (Sandbox, error)

	// Adopt goes on with a sandbox that another Backend of the profile left, or
	// that was there when its process died; the profile may have changed since.
	// Commands that ran then are dead, with all that they started, when Adopt
	// returns; files, and what commands that had ended left running, are as
	// they were. It owns t.File, also when it fails. The error is ErrGone when
	// the sandbox is no more; after any other, and when ctx ends first, it has
	// been destroyed as far as its engine could be told. Without Features.Adopt
	// the error is ErrNoTicket.
	Adopt(ctx context.Context, t Ticket) (Sandbox, error)

	// Close releases what the Backend holds. The caller has closed or left all
	// its sandboxes before, and calls nothing after.
	Close() error
}

// A Sandbox is one isolated machine, in the widest sense. It is safe for
// concurrent use: commands in one sandbox run in parallel.
type Sandbox interface {
	// ID names the sandbox as its engine names it. It is not a secret.
	ID() string

	// Exec runs one command to its end. A command that ran and failed is a
	// nonzero Exit and a nil error; so is one that could not be started (127
	// not found, 126 not executable, with the reason on Stderr).
	//
	// When ctx ends, or a write to Stdout or Stderr fails, Exec kills the
	// command and everything it started, and returns context.Cause(ctx) or
	// the write's error; the sandbox stays usable. A command that ends by
	// itself may leave background processes (see Features), and Exec does not
	// wait for them even when they hold its output open.
	//
	// An error that is ErrGone means that the sandbox is, or is about to be,
	// Done. Exec uses the readers and writers of e no more once it returned.
	Exec(ctx context.Context, e Exec) (Exit, error)

	// Done is closed when the sandbox is gone, by Close or by itself.
	Done() <-chan struct{}

	// Err is nil until Done is closed, then ErrClosed after Close, or a
	// *GoneError that tells why the sandbox ended by itself.
	Err() error

	// Close destroys the sandbox and all in it, also when commands are
	// running: they return ErrGone. Closing twice is fine, also at once. It
	// returns nil only when nothing is left; ctx bounds the wait.
	Close(ctx context.Context) error

	// Ticket returns what Backend.Adopt needs to go on with the sandbox in
	// another process, at any later time, however this one ends. The caller
	// closes its File. The error is ErrNoTicket for a sandbox that ends with
	// this process, and ErrGone for one that is Done.
	Ticket() (Ticket, error)

	// Leave lets go of the sandbox without ending it, once there is a Ticket:
	// commands that run return ErrGone, Done is closed, and Err is ErrClosed.
	// From then on the sandbox lives for as long as the Ticket's File is open
	// somewhere; without a File, until it is adopted, swept, or ended by its
	// engine. After Close it does nothing, and so does Close after it.
	Leave()
}

// A Ticket is what it takes to adopt a sandbox.
type Ticket struct {
	ID   string   // of the sandbox
	Data []byte   // the driver's own, a few hundred bytes. It may hold keys: keep it like a secret
	File *os.File // an open channel that keeps the sandbox alive, or nil
}

// ErrNoTicket reports that a sandbox cannot outlive the process that made it.
var ErrNoTicket = errors.New("the sandbox ends with its process")

// NoTickets is for the Backend and the Sandbox of a driver without
// Features.Adopt to embed.
type NoTickets struct{}

// Adopt fails with ErrNoTicket.
func (NoTickets) Adopt(_ context.Context, t Ticket) (Sandbox, error) {
	if t.File != nil {
		_ = t.File.Close()
	}
	return nil, ErrNoTicket
}

// Ticket fails with ErrNoTicket.
func (NoTickets) Ticket() (Ticket, error) { return Ticket{}, ErrNoTicket }

// Leave is never called: there is no Ticket.
func (NoTickets) Leave() {}

// Exec is one command to run. Exactly one of Command and Args is set.
type Exec struct {
	Command string            // run by the Spec's shell with -c
	Args    []string          // run as is; Args[0] is looked up in PATH
	Dir     string            // absolute; "" = the Spec's
	Env     map[string]string // on top of the Spec's

	// Stdin is read to its end, or until the command closes it; nil is empty.
	// Its Read must not block for ever: Exec waits for it.
	Stdin io.Reader

	// Stdout and Stderr get the output as it comes; nil discards. Calls to
	// one writer do not overlap; the two writers may be called at once. A
	// Write may not block for long: other commands of the sandbox may wait.
	Stdout, Stderr io.Writer
}

// Exit is how a command ended.
type Exit struct {
	Code int  // exit status; 128+n after signal n; 127 not found; 126 not executable
	OOM  bool // the kernel killed something of this command for memory
}

// ErrGone reports that a sandbox ended before or during a command. It comes
// wrapped in a *GoneError where the reason is known. The next Create may work.
var ErrGone = errors.New("sandbox is gone")

// ErrClosed is the ErrGone of a sandbox that its owner closed.
var ErrClosed = fmt.Errorf("%w: closed", ErrGone)

// GoneError is an ErrGone with its reason.
type GoneError struct {
	Reason string // one clause for model and operator: "it ran out of memory (limit 1g)"
	Err    error  // the technical cause, for the log only; may be nil
}

func (e *GoneError) Error() string {
	if e.Reason == "" {
		return ErrGone.Error()
	}
	return ErrGone.Error() + ": " + e.Reason
}

func (e *GoneError) Unwrap() error { return e.Err }

// Is makes every GoneError an ErrGone.
func (e *GoneError) Is(target error) bool { return target == ErrGone }

// Progress tells how far a long Create is.
type Progress struct {
	Message     string // "pulling python:3.13-slim"
	Done, Total int64  // in the same unit; Total 0 = unknown
}

type progressKey struct{}

// WithProgress returns a context that passes each Report to f. f may be called
// from any goroutine, but never two calls at once for one Create, and never
// after Create returned.
func WithProgress(ctx context.Context, f func(Progress)) context.Context {
	return context.WithValue(ctx, progressKey{}, f)
}

// Report passes p to whoever asked for progress with WithProgress.
func Report(ctx context.Context, p Progress) {
	if f, ok := ctx.Value(progressKey{}).(func(Progress)); ok {
		f(p)
	}
}

// Drivers is the set of drivers built into a program.
type Drivers []Driver

// Lookup returns the driver of that name.
func (ds Drivers) Lookup(name string) (Driver, bool) {
	i := slices.IndexFunc(ds, func(d Driver) bool { return d.Name == name })
	if i < 0 {
		return Driver{}, false
	}
	return ds[i], true
}

// Names returns the drivers' names, sorted.
func (ds Drivers) Names() []string {
	names := make([]string, len(ds))
	for i, d := range ds {
		names[i] = d.Name
	}
	slices.Sort(names)
	return names
}
