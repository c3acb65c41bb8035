// Command kilntainersd gives LLM agents isolated Linux sandboxes: it serves
// each profile of its configuration as an MCP endpoint.
//
//	kilntainersd [serve] [--config FILE]   run the daemon
//	kilntainersd check   [--config FILE]   validate the configuration
//	kilntainersd warm    [--config FILE]   compile its WebAssembly modules ahead of need
//	kilntainersd version
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/kilntainers/kilntainers/daemon"
	"github.com/kilntainers/kilntainers/profiles"
)

// version is set by the Makefile; go install leaves it to the build info.
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the process at once
	}()
	tuneGC()
	if err := forbidCore(); err != nil {
		fmt.Fprintln(os.Stderr, "kilntainersd: cannot forbid core dumps:", err)
	}
	os.Exit(exitCode(run(ctx, os.Args[1:], os.Stdout, os.Stderr), os.Stderr))
}

// usageError is wrong usage: exit status 2.
type usageError struct{ error }

// exitCode words an error and maps it to the exit status.
func exitCode(err error, stderr io.Writer) int {
	var usage usageError
	var problems profiles.Problems
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "kilntainersd: %v\nRun kilntainersd --help for what there is.\n", err)
		return 2
	case errors.As(err, &problems):
		fmt.Fprintln(stderr, problems)
		return 1
	default:
		fmt.Fprintf(stderr, "kilntainersd: %v\n", err)
		return 1
	}
}

// help is the manual page too: packaging/gen reads it.
const help = `Usage: kilntainersd [COMMAND] [flags]

Serves sandboxes to LLM agents over MCP.

It reads named profiles from its configuration, serves each one as an endpoint,
and gives every session a sandbox of its own: made at the first call, destroyed
with the session.

Commands:
  serve    run the daemon, as without a command
  check    validate the configuration; exit 0 if it is good, 1 if not
  warm     compile the WebAssembly modules ahead of need, into the cache
  version  print the version

Flags:
  --config FILE        the configuration (default /etc/kilntainers/kilntainers.toml, else
                       $XDG_CONFIG_HOME/kilntainers/kilntainers.toml, else the built-in one)
  --log-level LEVEL    debug, info, warn or error (default info)
  --log-format FORMAT  text or json (default text, but with fields of their own for the
                       journal if stderr is systemd's)
  --version            print the version

Signals: SIGTERM and SIGINT stop the daemon in order within 10 s, a second one at
once. SIGHUP reloads the configuration, which also happens by itself when a file
changes.

Exit status: 0 after a clean stop, 1 on a failure, 2 on wrong usage. A bad profile
is no reason to exit: the others are served.
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	command := "serve"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	}
	fs := flag.NewFlagSet("kilntainersd", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	config := fs.String("config", "", "")
	level := fs.String("log-level", "info", "")
	format := fs.String("log-format", "", "")
	showVersion := fs.Bool("version", false, "")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, help)
			return err
		}
		return usageError{err}
	}
	if fs.NArg() > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	switch {
	case *showVersion || command == "version":
		fmt.Fprintln(stdout, "kilntainersd "+versionString())
		return nil
	case command == "help":
		fmt.Fprint(stdout, help)
		return nil
	case command == "check":
		return check(*config, stdout)
	case command != "serve" && command != "warm":
		return usageError{fmt.Errorf("unknown command %q; there are serve, check, warm and version", command)}
	}
	log, err := newLogger(stderr, *level, *format)
	if err != nil {
		return usageError{err}
	}
	if command == "warm" {
		return warm(ctx, *config, stdout, log)
	}
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	return daemon.Run(ctx, daemon.Options{
		Config: *config, Drivers: drivers, Version: versionString(), Log: log, Reload: reload,
		CacheDir: func(dir string) { cacheDir.Store(dir) },
	})
}

// check validates the configuration and says what it found.
func check(path string, stdout io.Writer) error {
	if path == "" {
		path = profiles.Find()
	}
	conf, err := profiles.Load(path, drivers)
	if err != nil {
		return err
	}
	if path == "" {
		path = "no configuration file; the built-in one"
	}
	plural := "s"
	if len(conf.Profiles) == 1 {
		plural = ""
	}
	fmt.Fprintf(stdout, "%s: good, %d profile%s\n", path, len(conf.Profiles), plural)
	return nil
}

// newLogger returns a log that writes to w: as it is told, else as it suits w.
func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: there are debug, info, warn and error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	text := slog.NewTextHandler(w, o)
	switch format {
	case "":
		if is, err := journal.StderrIsJournalStream(); is && err == nil && w == os.Stderr {
			return slog.New(newJournalHandler(l, text)), nil
		}
		return slog.New(text), nil
	case "text":
		return slog.New(text), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("--log-format %q: there are text and json", format)
}

// tuneGC lets the heap grow further between collections: a daemon's live heap
// is small and the MCP SDK makes much garbage, so the default would collect
// every few calls. Whoever sets GOGC or GOMEMLIMIT decides.
func tuneGC() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(2 << 30)
	}
}

func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
