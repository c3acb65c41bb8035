// Package e2b runs sandboxes as virtual machines of E2B, or of a service that
// speaks its protocol, with a small client of its own.
//
//	driver.go   the keys of a profile, and what a model is told
//	secret.go   the API key: where it is, and how it stays unsaid
//	api.go      the control plane: REST, retries, what its errors mean
//	pace.go     how fast sandboxes may be made
//	envd.go     the machine's own server: JSON over the Connect protocol
//	backend.go  makes a sandbox, takes back what failed
//	sandbox.go  one sandbox: its renewal, its death, its removal
//	exec.go     one command; script.go  what runs around it, and what kills it
//	ticket.go   leaves a sandbox to the next daemon, and takes it over
//	sweep.go    what an earlier boot left
//
// There are two servers. The control plane makes and ends sandboxes for
// whoever has the API key; envd, in the sandbox, runs commands for whoever has
// that sandbox's token:
//
//	        ┌─ POST /v2/sandboxes, POST /sandboxes/ID/timeout, DELETE … ─► api.e2b.app
//	client ─┤
//	        └─ POST /process.Process/Start, SendInput, CloseStdin ──────► sandbox.e2b.app
//
// The sources of both are https://github.com/e2b-dev/infra (spec/openapi.yml,
// packages/envd); what E2B does not write down was tried on envd 0.6.13.
//
// Two things envd does not do, a script around each command does, see
// script.go: it tells when a command has ended although its children hold its
// output open, and it gives all that a command starts a mark to be found by.
package e2b

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// Driver is the driver "e2b".
var Driver = backends.Driver{
	Name: "e2b",
	Features: backends.Features{
		Network:    true,
		Background: true,
		Signals:    true,
		Pool:       true,
		Shell:      true,
		Adopt:      true,
	},
	Options:  func() backends.Options { return defaults() },
	Describe: func(s backends.Spec, o backends.Options) string { return describe(s, o.(*Options)) },
	Open: func(s backends.Spec, o backends.Options, log *slog.Logger) (backends.Backend, error) {
		return open(s, o.(*Options), log)
	},
	Sweep: sweep,
}

// Options are the keys of a profile whose backend is "e2b".
type Options struct {
	// APIKey is the account's key. When both it and APIKeyFile are empty, it is
	// $E2B_API_KEY.
	APIKey Secret `toml:"e2b_api_key"`

	// APIKeyFile is a file that holds the key and nothing else: an absolute
	// path, or a name under $CREDENTIALS_DIRECTORY. It is read whenever the key
	// is needed, so a new key in it takes effect at once.
	APIKeyFile string `toml:"e2b_api_key_file"`

	Template string `toml:"e2b_template"` // by name or id, which may end in ":tag"

	// SandboxTimeout is the time after which the service ends a sandbox that
	// nobody renews: how long one may outlive a daemon that crashed. A sandbox
	// in use is renewed for as long as the service allows.
	SandboxTimeout backends.Duration `toml:"e2b_sandbox_timeout"`

	Metadata map[string]string `toml:"e2b_metadata"` // of each sandbox, beside our own

	// AllowOut, if there are any, are the only addresses that a sandbox can
	// reach: IPs, CIDR blocks, or domains such as "*.example.com". DenyOut are
	// IPs and CIDR blocks that it cannot reach. Both need network = true.
	AllowOut []string `toml:"e2b_allow_out"`
	DenyOut  []string `toml:"e2b_deny_out"`

	Domain     string `toml:"domain"`      // of the service
	APIURL     string `toml:"api_url"`     // its control plane; "" = https://api.DOMAIN
	SandboxURL string `toml:"sandbox_url"` // where envd is reached; "" = as Domain says
}

func defaults() *Options {
	return &Options{
		Template:       "base",
		SandboxTimeout: backends.Duration(time.Hour),
		Domain:         "e2b.app",
	}
}

// A sandbox is renewed three times in its timeout, so a shorter one would be
// lost to a little trouble on the way.
const (
	minTimeout = time.Minute
	maxTimeout = 24 * time.Hour // no plan of E2B has more
)

// reserved is how our own metadata begins.
const reserved = "kilntainers"

var (
	templateName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:-]*$`)
	domainName   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:[0-9]{1,5})?$`)
)

// Validate reports every problem that can be found without the service. It
// shows no secret.
func (o *Options) Validate() error {
	var errs []error
	bad := func(key, format string, a ...any) {
		errs = append(errs, &backends.OptionError{Key: key, Problem: fmt.Sprintf(format, a...)})
	}

	if o.APIKey != "" && o.APIKeyFile != "" {
		bad("e2b_api_key_file", "cannot be used together with e2b_api_key; remove one of them")
	}
	if err := o.APIKey.check(); o.APIKey != "" && err != nil {
		bad("e2b_api_key", "%v; write the key as E2B shows it", err)
	}
	if err := checkKeyFile(o.APIKeyFile); err != nil {
		bad("e2b_api_key_file", "%v", err)
	}
	if !templateName.MatchString(o.Template) {
		bad("e2b_template", "%q is not the name of a template; write its name or id, such as \"base\"", o.Template)
	}
	switch d := o.SandboxTimeout.D(); {
	case d%time.Second != 0:
		bad("e2b_sandbox_timeout", "%v has a fraction of a second; write whole seconds", d)
	case d < minTimeout, d > maxTimeout:
		bad("e2b_sandbox_timeout", "%v is out of range; it is from %v to %v", o.SandboxTimeout,
			backends.Duration(minTimeout), backends.Duration(maxTimeout))
	}
	for _, k := range slices.Sorted(maps.Keys(o.Metadata)) {
		if k == "" || strings.HasPrefix(k, reserved) {
			bad("e2b_metadata", "%q is a name that kilntainers needs itself; use another", k)
		}
	}
	for _, a := range o.AllowOut {
		if !isAddress(a) && !isDomain(strings.TrimPrefix(a, "*.")) {
			bad("e2b_allow_out", "%q is not an address; write an IP, a CIDR block or a domain, such as \"*.example.com\"", a)
		}
	}
	for _, a := range o.DenyOut {
		if !isAddress(a) {
			bad("e2b_deny_out", "%q is not an address; write an IP or a CIDR block, such as \"10.0.0.0/8\"", a)
		}
	}
	if !domainName.MatchString(o.Domain) {
		bad("domain", "%q is not a domain; write one such as \"e2b.app\"", o.Domain)
	}
	for key, u := range map[string]string{"api_url": o.APIURL, "sandbox_url": o.SandboxURL} {
		if err := checkURL(u); u != "" && err != nil {
			bad(key, "%v; write one such as \"https://api.example.com\"", err)
		}
	}
	return errors.Join(errs...)
}

// isAddress reports whether a is an IP address or a block of them.
func isAddress(a string) bool {
	if _, err := netip.ParseAddr(a); err == nil {
		return true
	}
	_, err := netip.ParsePrefix(a)
	return err == nil
}

// isDomain reports whether d is the name of a host, and has no port.
func isDomain(d string) bool { return domainName.MatchString(d) && !strings.Contains(d, ":") }

// checkURL reports why u cannot be the address of a server. It does not show
// what may be a password.
func checkURL(u string) error {
	p, err := url.Parse(u)
	switch {
	case err != nil || p.Scheme != "http" && p.Scheme != "https" || p.Hostname() == "":
		return errors.New("it is not an http or https address")
	case p.User != nil:
		return errors.New("an address holds no user and no password")
	case p.RawQuery != "" || p.Fragment != "":
		return errors.New("it has more than a host and a path")
	}
	return nil
}

// api returns the control plane's address.
func (o *Options) api() string {
	if o.APIURL != "" {
		return strings.TrimRight(o.APIURL, "/")
	}
	return "https://api." + o.Domain
}

// plaintext returns the first address that is reached without TLS, over a
// network.
func (o *Options) plaintext() string {
	for _, a := range []string{o.APIURL, o.SandboxURL} {
		if u, err := url.Parse(a); err == nil && u.Scheme == "http" {
			ip := net.ParseIP(u.Hostname())
			if u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
				return a
			}
		}
	}
	return ""
}

// describe tells a model what a sandbox is.
func describe(s backends.Spec, o *Options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "An isolated Linux sandbox in the cloud: a virtual machine of the E2B template %s. ", o.Template)
	if s.Shell == "" {
		b.WriteString("Commands run in bash if the template has it, else in sh. ")
	} else {
		fmt.Fprintf(&b, "Commands run in %s. ", s.Shell)
	}
	switch {
	case !s.Network:
		b.WriteString("No network access. ")
	case len(o.AllowOut) > 0:
		fmt.Fprintf(&b, "It has network access to nothing but %s. ", strings.Join(o.AllowOut, ", "))
	case len(o.DenyOut) > 0:
		fmt.Fprintf(&b, "It has network access, except to %s. ", strings.Join(o.DenyOut, ", "))
	default:
		b.WriteString("It has network access. ")
	}
	b.WriteString("CPU, memory and disk are the template's. " +
		"Files and background processes stay until the sandbox ends; " +
		"shell variables and the working directory do not carry over from one command to the next.")
	return b.String()
}
