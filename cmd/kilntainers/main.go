// Command kilntainers is what an operator types: it asks the daemon, over its
// socket, what it serves and runs, and tells it to reload.
//
//	$ kilntainers ps
//	SANDBOX       PROFILE  BACKEND  USER   SESSION     AGE  STATE     CALLS
//	f3a1c09b77de  python   docker   alice  connection  12m  idle 40s  17
//	$ kilntainers exec --profile python -- python3 -c 'print(6 * 7)'
//	42
//
// Everything it says comes from the addresses under /-/ of the daemon, which
// curl can read as well; exec is an MCP client of the profile, as an agent is.
//
//	main.go    the table of commands, flags, exit codes
//	client.go  requests to the daemon, and what to tell a user for whom they fail
//	exec.go    exec
//	show.go    profiles, ps, check, version, reload and cleanup
//	table.go   columns, and words for times
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
)

// version is set by the Makefile; go install leaves it to the build info.
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	os.Exit(exitCode(err, os.Stderr))
}

// A command is one word after kilntainers.
type command struct {
	name     string
	synopsis string // what follows the name
	summary  string
	detail   string // after the flags in --help
	listing  bool   // has --json
	args     bool   // takes arguments; from the first on, nothing is a flag
	flags    func(*pflag.FlagSet)
	run      func(ctx context.Context, c *cli, args []string) error
}

// commands returns the table, in the order of the help text.
func commands() []command {
	return []command{
		execCommand(),
		psCommand(),
		profilesCommand(),
		checkCommand(),
		reloadCommand(),
		cleanupCommand(),
		warmCommand(),
		versionCommand(),
	}
}

// cli is what every command works with.
type cli struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	socket         string
	json           bool
}

// usageError is wrong usage: exit status 2.
type usageError struct {
	text string
	of   string // the command whose --help says more
}

func (e usageError) Error() string { return e.text }

// exitError ends the program with a status of its own; err may be nil if all
// is said.
type exitError struct {
	status int
	err    error
}

func (e exitError) Error() string { return fmt.Sprintf("exit status %d: %v", e.status, e.err) }
func (e exitError) Unwrap() error { return e.err }

// exitCode words an error and maps it to the exit status.
func exitCode(err error, stderr io.Writer) int {
	var usage usageError
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "kilntainers: %s\nRun %q for what there is.\n", usage.text, strings.TrimSpace("kilntainers "+usage.of)+" --help")
		return 2
	case errors.As(err, &exit):
		if exit.err != nil {
			fmt.Fprintf(stderr, "kilntainers: %v\n", exit.err)
		}
		return exit.status
	default:
		fmt.Fprintf(stderr, "kilntainers: %v\n", err)
		return 1
	}
}

// run finds the command and runs it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	c := &cli{stdin: stdin, stdout: stdout, stderr: stderr}
	global := newFlags("kilntainers", c)
	showVersion := global.Bool("version", false, "print the version")
	global.SetInterspersed(false)
	if err := global.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			fmt.Fprint(stdout, help(global))
			return nil
		}
		return usageError{text: err.Error()}
	}
	if *showVersion {
		fmt.Fprintln(stdout, "kilntainers "+versionString())
		return nil
	}
	args = global.Args()
	if len(args) == 0 {
		return usageError{text: "a command is missing"}
	}
	name, args := args[0], args[1:]
	if name == "help" {
		if len(args) == 0 {
			fmt.Fprint(stdout, help(global))
			return nil
		}
		name, args = args[0], []string{"--help"}
	}
	all := commands()
	i := slices.IndexFunc(all, func(cmd command) bool { return cmd.name == name })
	if i < 0 {
		var names []string
		for _, cmd := range all {
			names = append(names, cmd.name)
		}
		return usageError{text: fmt.Sprintf("unknown command %q; there are %s", name, strings.Join(names, ", "))}
	}
	return all[i].start(ctx, c, args)
}

// start parses a command's own flags and runs it.
func (cmd command) start(ctx context.Context, c *cli, args []string) error {
	fs := newFlags(cmd.name, c)
	if cmd.listing {
		fs.BoolVar(&c.json, "json", false, "print JSON, as the daemon gives it")
	}
	if cmd.flags != nil {
		cmd.flags(fs)
	}
	fs.SetInterspersed(!cmd.args)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			fmt.Fprintf(c.stdout, "Usage: kilntainers %s\n\n%s.\n\nFlags:\n%s", strings.TrimSpace(cmd.name+" "+cmd.synopsis), upper(cmd.summary), flagHelp(fs))
			if cmd.detail != "" {
				fmt.Fprintf(c.stdout, "\n%s", cmd.detail)
			}
			return nil
		}
		return usageError{err.Error(), cmd.name}
	}
	if !cmd.args && fs.NArg() > 0 {
		return usageError{fmt.Sprintf("unexpected argument %q", fs.Arg(0)), cmd.name}
	}
	if c.socket == "" {
		c.socket = defaultSocket()
	}
	return cmd.run(ctx, c, fs.Args())
}

// newFlags returns a flag set with the flags that are the same everywhere.
func newFlags(name string, c *cli) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors are worded by exitCode
	fs.SortFlags = false
	fs.StringVar(&c.socket, "socket", c.socket, "`PATH` of the daemon's socket (default $KILNTAINERS_SOCKET, else\n$XDG_RUNTIME_DIR/kilntainers/kilntainers.sock if it exists, else\n"+systemSocket+")")
	return fs
}

// help and what a command's --help prints are the manual page too:
// packaging/gen reads them.
func help(global *pflag.FlagSet) string {
	var b strings.Builder
	b.WriteString("Usage: kilntainers COMMAND [flags]\n\nLooks after the Kilntainers daemon.\n\nCommands:\n")
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "  %-10s %s\n", cmd.name, cmd.summary)
	}
	fmt.Fprintf(&b, "\nFlags:\n%s\nkilntainers COMMAND --help says more.\n\nExit status: 0 if all is well, 1 if not, 2 on wrong usage; exec has the command's own.\n", flagHelp(global))
	return b.String()
}

// flagHelp lists flags: a name in back quotes in a flag's text is its value's.
func flagHelp(fs *pflag.FlagSet) string {
	var b strings.Builder
	fs.VisitAll(func(f *pflag.Flag) {
		name := "    --" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", --" + f.Name
		}
		value, text := pflag.UnquoteUsage(f)
		if f.Value.Type() != "bool" {
			name += " " + value
		}
		fmt.Fprintf(&b, "  %-24s %s\n", name, strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", 27)))
	})
	return b.String()
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
