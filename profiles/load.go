package profiles

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/kilntainers/kilntainers/backends"
)

// Load reads the main file at path and every profiles.d/*.toml beside it, in
// name order. Its error is a [Problems] with all that is wrong in any of
// them. An empty path is [Builtin].
func Load(path string, drivers backends.Drivers) (*Config, error) {
	c, problems := LoadGood(path, drivers)
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// LoadGood is Load for a daemon that starts whatever its files say: the
// Config, never nil, has only what is surely as it was meant.
//
//   - A profile is left out when it has a problem, or when a default that it
//     would take has one. When [defaults] cannot be read at all, or has a key
//     that nobody knows, all profiles are left out: it may have been a limit.
//     Of two profiles of one name both are left out.
//   - A key of [daemon] that has a problem keeps its default; of listen only
//     the address that has it is left out.
//   - A token that has a problem is left out, and with the last token every
//     TCP address that may not be served without.
func LoadGood(path string, drivers backends.Drivers) (*Config, Problems) {
	if path == "" {
		return builtin(drivers)
	}
	l := newLoader(drivers)
	l.read(path)
	return l.load()
}

// Builtin returns the configuration of a daemon that has no file: profile
// "default" on go_busybox and profile "debian" on docker, as far as this
// build has these backends.
func Builtin(drivers backends.Drivers) (*Config, error) {
	return Load("", drivers)
}

func builtin(drivers backends.Drivers) (*Config, Problems) {
	const text = `
[profiles.default]
backend = "go_busybox"
description = "shell and utilities in WebAssembly; needs nothing else"

[profiles.debian]
backend = "docker"
image = "debian:bookworm-slim"
description = "Debian in a container"
`
	l := newLoader(drivers)
	s := l.parse("built-in configuration", []byte(text))
	declared := s.table["profiles"].(map[string]any)
	for name, p := range declared {
		if _, ok := drivers.Lookup(p.(map[string]any)["backend"].(string)); !ok {
			delete(declared, name)
		}
	}
	l.sources = append(l.sources, s)
	return l.load()
}

// Find returns the path of the configuration file to use when none is named:
// the first of [SearchPath] that exists, else "" for the built-in
// configuration.
func Find() string {
	for _, path := range SearchPath() {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path // one that cannot be read is a problem to report, not to pass over
		}
	}
	return ""
}

// SearchPath lists where Find looks: /etc/kilntainers/kilntainers.toml, then
// kilntainers/kilntainers.toml under $XDG_CONFIG_HOME, by default ~/.config. A
// service looks nowhere but in the directory that systemd made for it
// ($CONFIGURATION_DIRECTORY): that of a user has nothing to do with the system's.
func SearchPath() []string {
	if dir, _, _ := strings.Cut(os.Getenv("CONFIGURATION_DIRECTORY"), ":"); dir != "" {
		return []string{filepath.Join(dir, "kilntainers.toml")}
	}
	paths := []string{"/etc/kilntainers/kilntainers.toml"}
	dir := os.Getenv("XDG_CONFIG_HOME")
	if home := os.Getenv("HOME"); !filepath.IsAbs(dir) && filepath.IsAbs(home) {
		dir = filepath.Join(home, ".config")
	}
	if filepath.IsAbs(dir) {
		paths = append(paths, filepath.Join(dir, "kilntainers", "kilntainers.toml"))
	}
	return paths
}

// A loader turns sources into a Config. It makes one pass over everything and
// collects problems on the way.
type loader struct {
	drivers backends.Drivers
	options map[string]map[string][]int // driver → the keys of its Options, see fieldsOf

	sources []*source // the main file first
	hash    hash.Hash // of what is read

	config   *Config
	problems Problems

	base        Profile              // what a profile is when it says nothing
	defaults    map[string]any       // [defaults]
	badDefaults map[string]bool      // keys of it that have a problem
	tokens      []string             // the names that [tokens] declares, good or not
	profiles    map[string][]*source // the names that all [profiles] declare, and where
}

func newLoader(drivers backends.Drivers) *loader {
	l := &loader{
		drivers:     drivers,
		options:     make(map[string]map[string][]int, len(drivers)),
		hash:        sha256.New(),
		config:      &Config{Tokens: map[string]Token{}, Profiles: map[string]*Profile{}},
		base:        builtinProfile(),
		badDefaults: map[string]bool{},
		profiles:    map[string][]*source{},
	}
	for _, d := range drivers {
		l.options[d.Name] = fieldsOf(reflect.TypeOf(d.Options()).Elem())
	}
	return l
}

func (l *loader) bad(s *source, line int, key, text string) {
	l.problems = append(l.problems, Problem{s.name, line, key, text})
}

// read adds the main file and what is in profiles.d as sources.
func (l *loader) read(path string) {
	l.sources = append(l.sources, l.parse(l.readFile(path)))
	dropIns, err := dropIns(path)
	if err != nil {
		dir := &source{name: filepath.Join(filepath.Dir(path), "profiles.d")}
		l.bad(dir, 0, "", "cannot be read: "+cause(err))
		l.sources = append(l.sources, dir)
	}
	for _, p := range dropIns {
		l.sources = append(l.sources, l.parse(l.readFile(p)))
	}
}

// readFile returns name and its bytes, nil when there is a problem.
func (l *loader) readFile(name string) (string, []byte) {
	data, err := readFile(name)
	abs, absErr := filepath.Abs(name)
	if absErr != nil {
		abs = name
	}
	l.config.Files = append(l.config.Files, abs)
	fmt.Fprintf(l.hash, "%s\x00%d\x00%s", abs, len(data), data)
	if err == nil && len(strings.TrimSpace(string(data))) == 0 {
		// Most likely we came between an editor's truncate and its write, so
		// this must not take profiles out of service.
		data, err = nil, errors.New("is empty; write at least a comment, or remove it")
	}
	if err != nil {
		l.bad(&source{name: name}, 0, "", err.Error())
	}
	return name, data
}

// load checks the sources and returns what is good in them.
func (l *loader) load() (*Config, Problems) {
	main := l.sources[0]
	l.names()
	l.topLevel()
	l.loadTokens(main)
	l.loadDaemon(main)
	l.loadDefaults(main)
	for _, s := range l.sources {
		for name, v := range subTable(s, "profiles") {
			l.loadProfile(s, name, v)
		}
	}

	l.config.Hash = [sha256.Size]byte(l.hash.Sum(nil))
	order := make(map[string]int)
	for i, s := range l.sources {
		order[s.name] = i
	}
	slices.SortFunc(l.problems, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(order[a.File], order[b.File]),
			cmp.Compare(a.Line, b.Line),
			strings.Compare(a.Key, b.Key),
			strings.Compare(a.Text, b.Text))
	})
	return l.config, slices.Compact(l.problems) // a default is checked for each profile that takes it
}

// whole reports whether every source could be parsed. If not, nobody can say
// that something is missing.
func (l *loader) whole() bool {
	return !slices.ContainsFunc(l.sources, func(s *source) bool { return s.table == nil })
}

// subTable returns the table of that name at the top of s. topLevel reports
// what is not a table.
func subTable(s *source, name string) map[string]any {
	t, _ := s.table[name].(map[string]any)
	return t
}

// topLevel checks that each file has only the tables that belong there.
func (l *loader) topLevel() {
	known := []string{"daemon", "defaults", "profiles", "tokens"}
	for i, s := range l.sources {
		for name, v := range s.table {
			_, isTable := v.(map[string]any)
			key := join("", name)
			meant := name
			text := ""
			switch {
			case !slices.Contains(known, name):
				text = "unknown table; write [daemon], [tokens.NAME], [defaults] or [profiles.NAME]"
				if meant = closest(name, known); meant != "" {
					text = "unknown table; did you mean " + meant + "?"
				}
			case i > 0 && name != "profiles":
				text = "only [profiles.NAME] may stand in profiles.d; move it to " + l.sources[0].name
			case !isTable:
				text = mismatch("a table", v)
			default:
				continue
			}
			l.bad(s, s.line(key), key, text)
			s.blind = s.blind || meant == "defaults"
		}
	}
}

// names collects what may be referred to.
func (l *loader) names() {
	for name := range subTable(l.sources[0], "tokens") {
		l.tokens = append(l.tokens, name)
	}
	slices.Sort(l.tokens)
	for _, s := range l.sources {
		for name := range subTable(s, "profiles") {
			l.profiles[name] = append(l.profiles[name], s)
		}
	}
}

// validName reports whether a profile or token may have that name.
var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`).MatchString

const nameRule = "a name has 1 to 63 of a to z, 0 to 9, _ and -, and begins with a letter or a digit"

// loadDefaults reads [defaults] on top of the built-in defaults. Keys of
// drivers are only checked here; loadProfile takes them from l.defaults.
func (l *loader) loadDefaults(s *source) {
	l.defaults = subTable(s, "defaults")
	for name, v := range l.defaults {
		bad := func(key, text string) {
			l.badDefaults[name] = true
			key = "defaults." + key
			l.bad(s, s.line(key), key, text)
		}
		if set := find(profileKeys, name); set != nil {
			set.set(&l.base, v, join("", name), bad)
			continue
		}
		if len(l.owners(name)) == 0 {
			bad(join("", name), unknownKey(name, l.profileKeyNames("")))
			continue
		}
		for _, d := range l.drivers {
			if field, ok := l.options[d.Name][name]; ok {
				decode(v, reflect.ValueOf(d.Options()).Elem().FieldByIndex(field), name, bad)
			}
		}
	}
}

// owners returns the backends that know a key which is not common to all.
func (l *loader) owners(key string) []string {
	names := knownTo(key)
	for _, d := range l.drivers {
		if _, ok := l.options[d.Name][key]; ok && !slices.Contains(names, d.Name) {
			names = append(names, d.Name)
		}
	}
	slices.Sort(names)
	return names
}

// profileKeyNames returns the keys that a profile of that backend may have, or
// of any when the backend is not in this build.
func (l *loader) profileKeyNames(backend string) []string {
	all := names(profileKeys)
	if own, ok := l.options[backend]; ok {
		return slices.AppendSeq(all, maps.Keys(own))
	}
	for _, k := range driverKeys {
		all = append(all, k.name)
	}
	return all
}

// loadProfile reads one [profiles.NAME] table.
func (l *loader) loadProfile(s *source, name string, v any) {
	p := l.base
	p.Name = name
	prefix := join("profiles", name)
	p.Source = fmt.Sprintf("%s:%d", s.name, s.line(prefix))

	good := l.checkName(s, name)
	table, ok := v.(map[string]any)
	if !ok {
		l.bad(s, s.line(prefix), prefix, mismatch("a table", v))
		return
	}

	// bad reports a problem where the key was written: in this table, or in
	// [defaults], or else at the head of the table.
	main := l.sources[0]
	faulty := map[string]bool{} // the keys that have a problem
	bad := func(key, text string) {
		good = false
		faulty[head(key)] = true
		for k := key; k != ""; k = parent(k) {
			if n := s.lines[prefix+"."+k]; n > 0 {
				l.bad(s, n, prefix+"."+key, text)
				return
			}
			if n := main.lines["defaults."+k]; n > 0 {
				l.bad(main, n, "defaults."+key, text)
				return
			}
		}
		if !main.blind { // else [defaults] may say what is missing
			l.bad(s, s.line(prefix), prefix+"."+key, text)
		}
	}

	for key, v := range table {
		if set := find(profileKeys, key); set != nil {
			set.set(&p, v, key, bad)
		}
	}
	good = l.setDriver(&p, table, faulty, bad) && good
	l.check(&p, faulty, bad)
	if good && !main.blind && !s.blind {
		l.config.Profiles[name] = &p
	}
}

// checkName reports whether name can be the name of a profile and is that of
// one only. Of two profiles of one name none is served: which one was meant?
func (l *loader) checkName(s *source, name string) bool {
	key := join("profiles", name)
	if !validName(name) {
		l.bad(s, s.line(key), key, nameRule)
		return false
	}
	in := l.profiles[name]
	if first := in[0]; s != first {
		l.bad(s, s.line(key), key, fmt.Sprintf("already defined at %s:%d; rename or remove one of them", first.name, first.line(key)))
	}
	return len(in) == 1
}

// setDriver finds the profile's driver and reads its keys. It reports whether
// the profile has all that it needs.
func (l *loader) setDriver(p *Profile, table map[string]any, faulty map[string]bool, bad func(key, text string)) bool {
	driver, ok := l.drivers.Lookup(p.Backend)
	switch {
	case ok || faulty["backend"]:
	case p.Backend == "":
		bad("backend", "missing; "+choices("this build has", l.drivers.Names()))
	case slices.Contains(knownBackends(), p.Backend):
		bad("backend", fmt.Sprintf("this build has no backend %q; %s", p.Backend, choices("it has", l.drivers.Names())))
	default:
		bad("backend", fmt.Sprintf("unknown backend %q; %s", p.Backend, choices("this build has", l.drivers.Names())))
	}

	for key := range table {
		if _, mine := l.options[p.Backend][key]; mine || find(profileKeys, key) != nil {
			continue
		}
		switch owners := l.owners(key); {
		case len(owners) == 0 && (ok || p.Backend != "kubernetes"):
			bad(join("", key), unknownKey(key, l.profileKeyNames(p.Backend)))
		case ok && slices.Contains(owners, p.Backend):
			bad(key, "not in this version of backend "+p.Backend+"; remove it")
		case ok:
			bad(key, fmt.Sprintf("belongs to backend %s, this profile uses %s; remove it", list(owners, "or"), p.Backend))
		}
	}
	if !ok {
		return false
	}

	p.Driver, p.Options = driver, driver.Options()
	fields := reflect.ValueOf(p.Options).Elem()
	for key, field := range l.options[p.Backend] {
		if v, ok := l.defaults[key]; ok && inherits(table, key) {
			decode(v, fields.FieldByIndex(field), key, func(string, string) { faulty[key] = true }) // loadDefaults has reported it
		}
		if v, ok := table[key]; ok {
			decode(v, fields.FieldByIndex(field), key, bad)
		}
	}
	unread := maps.Clone(faulty) // what Validate sees of these keys is not what was written
	problems := flatten(p.Options.Validate())
	if len(problems) == 0 && driver.Agree != nil {
		problems = flatten(driver.Agree(p.Spec(backends.Owner{}), p.Options))
	}
	for _, err := range problems {
		var oe *backends.OptionError
		if !errors.As(err, &oe) {
			bad("backend", err.Error())
		} else if !unread[head(oe.Key)] {
			bad(oe.Key, oe.Problem)
		}
	}
	if p.Network && !driver.Features.Network {
		bad("network", fmt.Sprintf("backend %s of profile %s has no network; remove it or write network = false", p.Backend, p.Name))
	}
	if p.Pool > 0 && !driver.Features.Pool {
		bad("pool", fmt.Sprintf("backend %s of profile %s starts at once and keeps no pool; remove it or write pool = 0", p.Backend, p.Name))
	}
	return !l.takesBadDefault(p, table)
}

// takesBadDefault reports whether a key of [defaults] that has a problem would
// have been in force in the profile.
func (l *loader) takesBadDefault(p *Profile, table map[string]any) bool {
	for key := range l.badDefaults {
		_, known := l.options[p.Backend][key]
		common := find(profileKeys, key) != nil
		stray := !common && len(l.owners(key)) == 0
		if stray || (known || common) && inherits(table, key) {
			return true
		}
	}
	return false
}

// inherits reports whether a default has a say in a profile: a table only adds
// to it, everything else takes its place.
func inherits(table map[string]any, key string) bool {
	v, own := table[key]
	_, merged := v.(map[string]any)
	return !own || merged
}

// check looks at what keys say together, and at names that they refer to.
func (l *loader) check(p *Profile, faulty map[string]bool, bad func(key, text string)) {
	if p.Timeout > p.MaxTimeout && !faulty["timeout"] && !faulty["max_timeout"] && !l.sources[0].blind {
		bad("timeout", fmt.Sprintf("%v is more than max_timeout, %v; lower it or raise max_timeout",
			backends.Duration(p.Timeout), backends.Duration(p.MaxTimeout)))
	}
	if p.ToolInstructionOverride != "" && p.ExtendedToolInstruction != "" {
		bad("extended_tool_instruction", "cannot be used together with tool_instruction_override; remove one of them")
	}
	for name, value := range p.Env {
		switch {
		case name == "" || strings.ContainsFunc(name, func(r rune) bool { return r == '=' || r <= ' ' || r == 0x7f }):
			bad(join("env", name), "not the name of an environment variable; it has no =, space or control character")
		case strings.ContainsRune(value, 0):
			bad(join("env", name), "holds a NUL character; leave it out")
		}
	}
	for i, who := range p.Allow {
		if who.Kind == Bearer && !slices.Contains(l.tokens, who.Name) && l.sources[0].table != nil {
			bad(fmt.Sprintf("allow[%d]", i), fmt.Sprintf("there is no token %q; %s", who.Name, choices("[tokens] has", l.tokens)))
		}
	}
}

// choices lists what there is, or says that there is none.
func choices(has string, names []string) string {
	if len(names) == 0 {
		return has + " none"
	}
	return has + " " + strings.Join(names, ", ")
}

// loadTokens reads [tokens].
func (l *loader) loadTokens(s *source) {
	var good, left []Token // whose files could be read; left have another problem
	for _, name := range l.tokens {
		key := join("tokens", name)
		faulty := map[string]bool{} // the keys that have a problem, "" the token itself
		bad := func(sub, text string) {
			faulty[head(sub)] = true
			if sub != "" {
				sub = "." + sub
			}
			l.bad(s, s.line(key+sub), key+sub, text)
		}
		if !validName(name) {
			bad("", nameRule)
		}
		table, ok := subTable(s, "tokens")[name].(map[string]any)
		if !ok {
			bad("", mismatch("a table", subTable(s, "tokens")[name]))
			continue
		}
		t := Token{Name: name}
		for k, v := range table {
			if set := find(tokenKeys, k); set != nil {
				set.set(&t, v, k, bad)
			} else {
				bad(join("", k), unknownKey(k, names(tokenKeys)))
			}
		}
		if list, _ := table["profiles"].([]any); table["profiles"] == nil || list != nil && len(list) == 0 {
			bad("profiles", `names no profile; write profiles = ["*"] or the names of some`)
		}
		for i, profile := range t.Profiles {
			if _, ok := l.profiles[profile]; !ok && profile != "*" && l.whole() {
				bad(fmt.Sprintf("profiles[%d]", i), fmt.Sprintf("there is no profile %q; %s",
					profile, choices(`there are "*" and`, slices.Sorted(maps.Keys(l.profiles)))))
			}
		}
		if _, ok := table["file"]; !ok {
			bad("file", `missing; write the path of a file that holds the token`)
		}
		if faulty["file"] {
			continue
		}
		if err := l.readSecret(&t); err != nil {
			bad("file", err.Error())
			continue
		}
		if len(faulty) == 0 {
			good = append(good, t)
		} else {
			left = append(left, t)
		}
	}
	secrets := map[[sha256.Size]byte]string{}
	for i, t := range append(good, left...) { // what is left out takes no secret from what is not
		key := join("tokens", t.Name)
		if other, ok := secrets[t.sum]; ok {
			l.bad(s, s.line(key+".file"), key+".file", "holds the same secret as that of tokens."+other+"; make each its own")
			continue
		}
		secrets[t.sum] = t.Name
		if i < len(good) {
			l.config.Tokens[t.Name] = t
		}
	}
}

// readSecret finds and reads the token's file.
func (l *loader) readSecret(t *Token) error {
	if !filepath.IsAbs(t.File) {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		switch {
		case t.File != filepath.Base(t.File) || t.File == "." || t.File == "..":
			return fmt.Errorf("%q is neither an absolute path nor the name of a credential; begin it with /", t.File)
		case dir == "":
			return fmt.Errorf("%q is the name of a systemd credential, but $CREDENTIALS_DIRECTORY is not set; write an absolute path, or LoadCredential= in the unit", t.File)
		}
		t.File = filepath.Join(dir, t.File)
	}
	data, err := readFile(t.File)
	l.config.Files = append(l.config.Files, t.File)
	fmt.Fprintf(l.hash, "%s\x00%d\x00%s", t.File, len(data), data)
	if err != nil {
		return fmt.Errorf("%s %w", t.File, err)
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("%s holds no token; write one line of letters, digits and signs to it, such as openssl rand -hex 32 makes", t.File)
	}
	t.sum = sha256.Sum256([]byte(secret))
	return nil
}

// loadDaemon reads [daemon].
func (l *loader) loadDaemon(s *source) {
	d := builtinDaemon()
	bad := func(key, text string) {
		key = "daemon." + key
		l.bad(s, s.line(key), key, text)
	}
	for name, v := range subTable(s, "daemon") {
		if set := find(daemonKeys, name); set != nil {
			set.set(&d, v, name, bad)
		} else {
			bad(join("", name), unknownKey(name, names(daemonKeys)))
		}
	}
	asked := d.Listen
	l.config.Daemon = d

	var good []string
	for i, addr := range asked {
		key := fmt.Sprintf("listen[%d]", i)
		network, address, err := SplitListen(addr)
		if err != nil {
			bad(key, err.Error())
			continue
		}
		if addr = network + ":" + address; slices.Contains(good, addr) {
			bad(key, fmt.Sprintf("%q stands here twice; remove one", addr))
			continue
		}
		if err := l.config.CheckListen(network, address); err != nil {
			if len(l.tokens) == 0 { // else what is wrong with them has been reported
				bad(key, fmt.Sprintf("%q %v", addr, err))
			}
			continue
		}
		good = append(good, addr)
	}
	if len(asked) > 0 && len(good) == 0 {
		good = builtinDaemon().Listen // leave operators a way in
	}
	l.config.Daemon.Listen = good
}
