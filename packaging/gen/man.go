package main

import (
	"fmt"
	"regexp"
	"strings"
)

// A page is a manual page of a program: where it belongs, and what --help does
// not say.
type page struct {
	program string
	section int
	files   []item
	env     []item
	also    string
}

var pages = []page{
	{
		program: "kilntainersd", section: 8,
		files: []item{
			{name: "/etc/kilntainers/kilntainers.toml", text: "The configuration; see kilntainers.toml(5)."},
			{name: "/etc/kilntainers/profiles.d/*.toml", text: "More profiles, read in the order of their names."},
			{name: "/etc/kilntainers/credentials", text: "A place for tokens and keys that only root can read; LoadCredential= in a drop-in of the unit passes them on, see systemd.exec(5)."},
			{name: "/run/kilntainers/kilntainers.sock", text: "The socket, for members of the group kilntainers. Of an ordinary user's daemon: $XDG_RUNTIME_DIR/kilntainers/kilntainers.sock."},
			{name: "/var/lib/kilntainers", text: "What has to outlive a restart: who this instance is, and what it has to clean up."},
			{name: "/var/cache/kilntainers", text: "Compiled WebAssembly. It can be deleted at any time."},
		},
		env: []item{
			{name: "STATE_DIRECTORY, CACHE_DIRECTORY, CREDENTIALS_DIRECTORY", text: "Where systemd made directories for the daemon."},
			{name: "XDG_CONFIG_HOME, XDG_STATE_HOME, XDG_CACHE_HOME, XDG_RUNTIME_DIR", text: "Where an ordinary user's daemon has its files."},
			{name: "DOCKER_HOST, DOCKER_CERT_PATH", text: "The engine of profiles that name none."},
			{name: "MODAL_TOKEN_ID, MODAL_TOKEN_SECRET, E2B_API_KEY", text: "The keys of profiles that name none."},
			{name: "GOGC, GOMEMLIMIT", text: "How the daemon's memory is collected, see https://go.dev/doc/gc-guide; by default 400 and 2 GiB."},
		},
		also: "kilntainers(1), kilntainers-stdio(1), kilntainers.toml(5)",
	},
	{
		program: "kilntainers", section: 1,
		env:  []item{{name: "KILNTAINERS_SOCKET", text: "The daemon's socket, unless --socket names it."}},
		also: "kilntainersd(8), kilntainers-stdio(1), kilntainers.toml(5)",
	},
	{
		program: "kilntainers-stdio", section: 1,
		env:  []item{{name: "KILNTAINERS_SOCKET", text: "The daemon's socket, unless --socket names it."}},
		also: "kilntainers(1), kilntainersd(8), kilntainers.toml(5)",
	},
}

// man writes the page in the language of man(7).
func (pg page) man(prog program) string {
	var r roff
	r.title(pg.program, pg.section)
	purpose := strings.TrimSuffix(prog.help.parts[0].text, ".")
	r.section("Name")
	r.line(esc(pg.program) + ` \- ` + esc(strings.ToLower(purpose[:1])+purpose[1:]))
	r.section("Synopsis")
	r.synopsis(prog.help.usage)
	r.section("Description")
	sections := r.prose(prog.help.parts)
	if len(prog.commands) > 0 {
		r.section("Commands")
		for _, c := range prog.commands {
			if c.help.usage == nil {
				r.item(item{name: c.name, text: c.summary + "."})
				continue
			}
			r.macro("SS", c.name)
			r.synopsis(c.help.usage)
			for _, p := range c.help.parts {
				switch {
				case p.items != nil:
					r.list(without(p.items, prog.help.list("Flags")))
				case p.heading != "":
					r.paragraph(p.heading + ": " + p.text)
				default:
					r.prose([]part{p})
				}
			}
		}
	}
	r.section("Options")
	r.list(prog.help.list("Flags"))
	for _, s := range sections {
		if s.text != "" {
			r.section(s.heading)
			r.paragraph(s.text)
		}
	}
	if pg.files != nil {
		r.section("Files")
		r.list(pg.files)
	}
	if pg.env != nil {
		r.section("Environment")
		r.list(pg.env)
	}
	r.section("See also")
	r.paragraph(pg.also)
	return r.String()
}

// without returns the items of a that are not in b.
func without(a, b []item) (rest []item) {
	in := map[string]bool{}
	for _, i := range b {
		in[i.name] = true
	}
	for _, i := range a {
		if !in[i.name] {
			rest = append(rest, i)
		}
	}
	return rest
}

// roff is a page while it is written.
type roff struct{ strings.Builder }

func (r *roff) line(text string) { r.WriteString(text + "\n") }

// text writes a line that is no request, even if it looks like one.
func (r *roff) text(text string) {
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	r.line(text)
}

// title begins a page. It has no date and no version: the package has both,
// and the page is the same whenever it is made.
func (r *roff) title(name string, section int) {
	r.line(`.\" Made by packaging/gen.`)
	r.line(fmt.Sprintf(`.TH %s %d "" Kilntainers`, esc(strings.ToUpper(name)), section))
	r.line(".nh")
	r.line(".ad l")
}

// macro writes a request with one argument.
func (r *roff) macro(name, arg string) {
	r.line("." + name + ` "` + strings.ReplaceAll(esc(arg), `"`, `\(dq`) + `"`)
}

func (r *roff) section(heading string) { r.macro("SH", strings.ToUpper(heading)) }

func (r *roff) paragraph(text string) {
	r.line(".PP")
	r.text(inline(text))
}

// synopsis writes the forms of a command, each in a line.
func (r *roff) synopsis(forms []string) {
	for i, f := range forms {
		if i == 0 {
			r.line(".PP")
		} else {
			r.line(".br")
		}
		program, rest, _ := strings.Cut(f, " ")
		r.line(bold(program) + " " + placeholders(rest))
	}
}

// prose writes the paragraphs and examples, and returns the parts that belong
// somewhere else.
func (r *roff) prose(parts []part) (other []part) {
	for _, p := range parts {
		switch {
		case p.heading != "":
			other = append(other, p)
		case p.example != nil:
			r.line(".PP")
			r.line(".RS 4")
			r.line(".nf")
			for _, line := range p.example {
				r.text(esc(line))
			}
			r.line(".fi")
			r.line(".RE")
		default:
			r.paragraph(p.text)
		}
	}
	return other
}

func (r *roff) list(items []item) {
	for _, i := range items {
		r.item(i)
	}
}

func (r *roff) item(i item) {
	r.line(".TP")
	head := bold(i.name)
	if i.short != "" {
		head = bold(i.short) + ", " + head
	}
	if i.value != "" {
		head += " " + italic(i.value)
	}
	r.line(head)
	r.text(inline(i.text))
}

func bold(s string) string   { return `\fB` + esc(s) + `\fR` }
func italic(s string) string { return `\fI` + esc(s) + `\fR` }

var (
	upperWord = regexp.MustCompile(`\b[A-Z]{2,}\b`)
	reference = regexp.MustCompile(`[a-z][a-z.-]*\([1-8]\)|--[a-z][a-z-]+`)
)

// placeholders sets what a user has to fill in apart.
func placeholders(s string) string { return upperWord.ReplaceAllString(esc(s), `\fI$0\fR`) }

// inline writes running text: flags, and references to other pages, are bold.
func inline(s string) string {
	var b strings.Builder
	at := 0
	for _, m := range reference.FindAllStringIndex(s, -1) {
		b.WriteString(esc(s[at:m[0]]))
		name, section, _ := strings.Cut(s[m[0]:m[1]], "(")
		b.WriteString(bold(name))
		if section != "" {
			b.WriteString("(" + section)
		}
		at = m[1]
	}
	b.WriteString(esc(s[at:]))
	return b.String()
}

// esc writes the characters that mean something to roff, or that it would
// print as others.
func esc(s string) string {
	var b strings.Builder
	for _, c := range s {
		switch {
		case c == '\\':
			b.WriteString(`\e`)
		case c == '-':
			b.WriteString(`\-`)
		case c == '\'':
			b.WriteString(`\(aq`)
		case c == '`':
			b.WriteString(`\(ga`)
		case c == '^':
			b.WriteString(`\(ha`)
		case c == '~':
			b.WriteString(`\(ti`)
		case c > 0x7e:
			fmt.Fprintf(&b, `\[u%04X]`, c)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}
