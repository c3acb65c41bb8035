// Command kilntainers-stdio is what an MCP client starts: it bridges the
// client's stdin and stdout to one profile of the daemon.
//
//	MCP client ──stdin──► kilntainers-stdio ──Unix socket──► kilntainersd
//	           ◄─stdout──                   ◄──────────────  profile "python"
//
//	$ claude mcp add sandbox -- kilntainers-stdio --profile python
//
// Each MCP client starts its own, so it is small and starts fast: it copies
// lines, imports nothing but the standard library's smallest packages (no net,
// fmt or encoding/json), and understands of each line only its id and its
// method. That is what it needs to outlive a restart of the daemon: it
// reconnects, keeps the sandbox, and answers what was lost on the way.
//
//	main.go   arguments and exit codes
//	shim.go   the bridge: two copying loops, and what happens between two connections
//	dial.go   the socket, the upgrade, and what to tell a user for whom it fails
//	scan.go   the id and the method of a JSON-RPC message
//	lines.go  lines out of a stream, in one reused buffer
package main

import (
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// version is set when a release is built: -ldflags "-X main.version=…". The
// build information that Go records would cost 200 KB to read.
var version = "devel"

// usage is the manual page too: packaging/gen reads it.
const usage = `Usage: kilntainers-stdio [--profile NAME] [--socket PATH] [--drain]

Bridges an MCP client on stdin and stdout to a profile of the Kilntainers daemon.

Flags:
  --profile NAME   profile to use (default "default")
  --socket PATH    the daemon's socket (default $KILNTAINERS_SOCKET, else
                   $XDG_RUNTIME_DIR/kilntainers/kilntainers.sock if it exists,
                   else /run/kilntainers/kilntainers.sock)
  --drain          when stdin ends, wait for the answers to what was asked
                   (for scripts; without it, running calls are cancelled)
  --version        print the version
  -h, --help       print this text

Exit status: 0 when stdin ended or on SIGTERM, SIGINT or SIGHUP; 1 when the
daemon cannot be reached or refuses; 2 on wrong usage.
`

type options struct {
	profile string
	socket  string
	drain   bool
	help    bool
	version bool
}

func main() {
	opt, problem := parse(os.Args[1:])
	switch {
	case problem != "":
		complain(problem)
		os.Exit(2)
	case opt.help:
		os.Stdout.WriteString(usage)
		return
	case opt.version:
		os.Stdout.WriteString("kilntainers-stdio " + version + "\n")
		return
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE) // a client that left is an error of Write
	os.Exit(newShim(opt).run(signals))
}

// parse reads the command line. Package flag would be a fifth of the program.
func parse(args []string) (opt options, problem string) {
	opt = options{profile: "default", socket: defaultSocket()}
	for len(args) > 0 {
		name, value, glued := strings.Cut(args[0], "=")
		args = args[1:]
		switch name {
		case "--profile", "--socket":
			if !glued {
				if len(args) == 0 {
					return opt, name + " needs a value; see kilntainers-stdio --help"
				}
				value, args = args[0], args[1:]
			}
			if name == "--socket" {
				opt.socket = value
			} else {
				opt.profile = value
			}
			continue
		}
		switch {
		case glued:
			return opt, "unknown argument " + quote(name) + "; see kilntainers-stdio --help"
		case name == "--drain":
			opt.drain = true
		case name == "--version":
			opt.version = true
		case name == "--help", name == "-h":
			opt.help = true
		default:
			return opt, "unknown argument " + quote(name) + "; see kilntainers-stdio --help"
		}
	}
	if !validProfile(opt.profile) {
		return opt, "bad profile name " + quote(opt.profile) + "; a name has at most 63 of a-z, 0-9, _ and -, and starts with a letter or digit"
	}
	if opt.socket == "" {
		return opt, "--socket needs the path of the daemon's socket"
	}
	return opt, ""
}

// validProfile holds the rule for profile names: [a-z0-9][a-z0-9_-]{0,62}.
// The name goes into a request line, so nothing else may pass.
func validProfile(name string) bool {
	if name == "" || len(name) > 63 {
		return false
	}
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case i > 0 && (c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// complain writes one line for people to stderr.
func complain(text string) {
	os.Stderr.WriteString("kilntainers-stdio: " + text + "\n")
}

// quote puts s in quotes, without what would disturb a terminal.
func quote(s string) string {
	return `"` + printable(s) + `"`
}

// printable replaces control characters, line ends too, by question marks.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
