// Package profiles reads the configuration: TOML files in, one checked
// [Config] or every problem of every file out.
//
//	kilntainers.toml ──┐
//	profiles.d/a.toml ─┼─ Load ─► Config ─┬─ Daemon    how the daemon runs; a change waits for a restart
//	profiles.d/b.toml ─┘     │            ├─ Tokens    who may come in over TCP
//	                         │            └─ Profiles  what it serves; a change is served within half a second
//	                         └─► Problems  "b.toml:11: profiles.b.backend: unknown backend …; this build has …"
//
// A profile is what a table says on top of [defaults] on top of the defaults
// of [Keys]:
//
//	[defaults]
//	timeout = 120
//
//	[profiles.python]
//	backend = "docker"
//	image = "python:3.13-slim"
//	env.PIP_NO_INPUT = "1"
//
// Load checks all that can be checked without asking an engine, so nothing
// fails later for a reason that stood in a file. What it returns is never
// changed; a reload makes a new Config. [Watch] tells when to reload.
package profiles

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A Config is one whole, checked configuration.
type Config struct {
	// Files are the absolute paths of all files that were read, the main file
	// first, then those of profiles.d, then those that hold tokens. It is
	// empty for the built-in configuration.
	Files []string

	Daemon   Daemon
	Tokens   map[string]Token
	Profiles map[string]*Profile

	// Hash is of the names and bytes of Files, secrets included: compare it,
	// do not show it. Two Configs with one Hash are the same.
	Hash [sha256.Size]byte
}

// Daemon is the [daemon] table: the static half of the configuration.
type Daemon struct {
	Listen                       []string // "unix:/absolute/path" or "tcp:host:port", see [SplitListen]
	StateDir                     string   // absolute
	CacheDir                     string   // absolute
	MaxSandboxes                 int      // over all profiles; 0 = no limit
	MaxSandboxesPerUser          int      // over all profiles, for one principal; 0 = no limit
	ExitWhenIdle                 time.Duration
	ProfileSockets               bool // one more socket for each profile: profiles/NAME.sock beside the first Unix socket
	AllowUnauthenticatedLoopback bool // no token needed on 127.0.0.0/8 and ::1
}

// Equal reports whether d and e are the same in every way.
func (d Daemon) Equal(e Daemon) bool { return reflect.DeepEqual(d, e) }

// A Token is a [tokens.NAME] table: a bearer token for TCP. It keeps no
// secret, so it can be logged and compared.
type Token struct {
	Name     string
	File     string   // absolute path the secret was read from
	Profiles []string // the profiles it may use; "*" is all of them
	sum      [sha256.Size]byte
}

// Matches reports whether bearer is the token's secret, in a time that does
// not depend on either.
func (t Token) Matches(bearer string) bool {
	sum := sha256.Sum256([]byte(bearer))
	return subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1
}

// Same reports whether both have the same name and secret.
func (t Token) Same(other Token) bool { return t.Name == other.Name && t.sum == other.sum }

// Permits reports whether the token may use the profile of that name, as far
// as the token is concerned; the profile's Allow has a say too.
func (t Token) Permits(profile string) bool {
	return slices.Contains(t.Profiles, "*") || slices.Contains(t.Profiles, profile)
}

// A Principal is one entry of a profile's allow list.
type Principal struct {
	Kind PrincipalKind
	Name string
}

// UnmarshalTOML reads an entry of an allow list.
func (p *Principal) UnmarshalTOML(v any) error {
	s, err := text(v)
	if err != nil {
		return err
	}
	kind, name := User, s
	if n, ok := strings.CutPrefix(s, "@"); ok {
		kind, name = Group, n
	} else if n, ok := strings.CutPrefix(s, "token:"); ok {
		kind, name = Bearer, n
	}
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r == ':' || r <= ' ' || r == 0x7f }) {
		return fmt.Errorf(`%q names nobody; write a user "alice", a group "@datasci" or a token "token:laptop"`, s)
	}
	*p = Principal{kind, name}
	return nil
}

// PrincipalKind tells what a Principal names.
type PrincipalKind string

const (
	User   PrincipalKind = "user"  // a Unix user, "alice"
	Group  PrincipalKind = "group" // a Unix group, "@datasci"
	Bearer PrincipalKind = "token" // a [tokens.NAME] table, "token:laptop"
)

// String writes p as a profile does.
func (p Principal) String() string {
	switch p.Kind {
	case Group:
		return "@" + p.Name
	case Bearer:
		return "token:" + p.Name
	default:
		return p.Name
	}
}

// What the keys on_limit, result and binding may say.
const (
	OnLimitDiscard  = "discard"  // no output after a limit or a timeout
	OnLimitTruncate = "truncate" // head and tail of what was seen

	ResultJSON = "json" // the JSON object as text and as structured content
	ResultText = "text" // plain output with an exit line

	BindingAuto   = "auto"   // a call finds its sandbox by connection, session or header
	BindingHandle = "handle" // only by the sandbox_id argument
)

// A Profile is one [profiles.NAME] table with everything that it left out
// filled in. See [Keys] for what each key means.
type Profile struct {
	Name        string
	Backend     string // the driver's name
	Description string

	Timeout        time.Duration // for one exec that names none; ≥ 1 s
	MaxTimeout     time.Duration // the most that one may name; ≥ Timeout
	SessionTimeout time.Duration // ≥ 1 s
	MaxLifetime    time.Duration // 0 = no limit
	OutputLimit    int64         // bytes; ≥ 1
	OnLimit        string        // OnLimitDiscard or OnLimitTruncate

	MaxSandboxes        int // 0 = no limit of its own
	MaxSandboxesPerUser int // 0 = no limit
	Pool                int // sandboxes kept warm

	Shell            string // "" = /bin/bash if there is one, else /bin/sh
	Network          bool
	Env              map[string]string
	WorkingDirectory string // absolute, or "" for the sandbox's own

	ToolInstructionOverride string // "" = none; never set together with ExtendedToolInstruction
	ExtendedToolInstruction string
	Result                  string // ResultJSON or ResultText

	Allow   []Principal // empty = all who may open the socket
	Binding string      // BindingAuto or BindingHandle

	Driver  backends.Driver
	Options backends.Options // the driver's own keys, valid

	Source string // "file:line" of its table, for operators
}

// Spec returns what the profile's backend is told.
func (p *Profile) Spec(owner backends.Owner) backends.Spec {
	return backends.Spec{
		Profile: p.Name,
		Owner:   owner,
		Shell:   p.Shell,
		Network: p.Network,
		Env:     p.Env,
		Dir:     p.WorkingDirectory,
	}
}

// Equal reports whether p and q say the same. Where they stand does not
// matter, so an edit above a profile leaves it alone.
func (p *Profile) Equal(q *Profile) bool {
	a, b := *p, *q
	a.Source, b.Source = "", ""
	a.Driver, b.Driver = backends.Driver{Name: a.Driver.Name}, backends.Driver{Name: b.Driver.Name}
	return reflect.DeepEqual(a, b)
}

// SameSandbox reports whether p and q make the same kind of sandbox: warm
// ones, and the backend that made them, can be kept over the edit.
func (p *Profile) SameSandbox(q *Profile) bool {
	a, b := p.Spec(backends.Owner{}), q.Spec(backends.Owner{})
	return p.Driver.Name == q.Driver.Name &&
		maps.Equal(a.Env, b.Env) &&
		reflect.DeepEqual(a, b) &&
		reflect.DeepEqual(p.Options, q.Options)
}
