package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/kilntainers/kilntainers/profiles"
)

// need skips a test that cannot do without a program, or fails it if
// KILNTAINERS_TEST_REQUIRE names the program.
func need(t *testing.T, program, debian string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		absent(t, program, program+"; apt-get install "+debian)
	}
}

func absent(t *testing.T, name, what string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("KILNTAINERS_TEST_REQUIRE"), ","), name) {
		t.Fatalf("KILNTAINERS_TEST_REQUIRE names %s, but there is not %s", name, what)
	}
	t.Skipf("needs %s (KILNTAINERS_TEST_REQUIRE=%s makes this a failure)", what, name)
}

// built is where the programs are, and what gen made of them; see docs.
var built struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	status := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(status)
}

// docs builds the programs and their documentation once, and returns both
// folders.
func docs(t *testing.T) (programs, docs string) {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "kilntainers-packaging"); built.err != nil {
			return
		}
		for _, args := range [][]string{
			{"build", "-o", built.dir + "/bin/", "../cmd/..."},
			{"run", "./gen", built.dir + "/bin", built.dir + "/doc"},
		} {
			cmd := exec.Command("go", args...)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				built.err = fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
				return
			}
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir + "/bin", built.dir + "/doc"
}

// man formats a page, and wants no warning.
func man(t *testing.T, page string) string {
	t.Helper()
	cmd := exec.Command("man", "--warnings", "--encoding=UTF-8", "--local-file", page)
	cmd.Env = append(os.Environ(), "MANWIDTH=100", "MAN_KEEP_FORMATTING=", "LC_ALL=C.UTF-8", "MANPAGER=cat")
	var out, warnings strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &warnings
	if err := cmd.Run(); err != nil || warnings.Len() > 0 {
		t.Errorf("%v: %v\n%s", cmd.Args, err, warnings.String())
	}
	return out.String()
}

// words are the words of a text, without what surrounds them.
func words(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return unicode.IsSpace(r) || strings.ContainsRune(`:;,.()[]"'`, r)
	})
}

// The manual pages say all that --help says, and are clean.
func TestManualSaysWhatHelpSays(t *testing.T) {
	need(t, "man", "man-db")
	programs, docs := docs(t)
	pages, err := filepath.Glob(docs + "/man/*.[18]")
	if err != nil || len(pages) != 3 {
		t.Fatalf("got pages %q, %v, want 3", pages, err)
	}
	for _, page := range pages {
		name := strings.TrimSuffix(filepath.Base(page), filepath.Ext(page))
		help := func(args ...string) string {
			out, err := exec.Command(filepath.Join(programs, name), append(args, "--help")...).Output()
			if err != nil {
				t.Errorf("%s %q --help: %v", name, args, err)
			}
			return string(out)
		}
		text := help()
		_, commands, _ := strings.Cut(text, "Commands:\n")
		commands, _, _ = strings.Cut(commands, "\n\n")
		for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+)`).FindAllStringSubmatch(commands, -1) {
			text += help(m[1])
		}
		in := words(man(t, page))
		for _, w := range words(text) {
			if w != "usage" && w != "flags" && !slices.Contains(in, w) { // these sections have other names
				t.Errorf("%s says %q in its help, and not in its manual", name, w)
			}
		}
	}
}

// kilntainers.toml(5) names every key, its default and its meaning.
func TestManualOfConfiguration(t *testing.T) {
	need(t, "man", "man-db")
	_, docs := docs(t)
	text := strings.Join(strings.Fields(man(t, docs+"/man/kilntainers.toml.5")), " ")
	for _, k := range profiles.Keys() {
		head := k.Name
		if k.Default != "" {
			head += " = " + k.Default
		}
		if want := head + " " + k.Meaning; !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
}

// serve starts a daemon with profiles alpha and beta, and returns its socket.
func serve(t *testing.T, programs string) string {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "k.toml")
	socket := filepath.Join(dir, "k.sock")
	text := fmt.Sprintf("[daemon]\nlisten = [%q]\nstate_dir = %q\ncache_dir = %q\n", "unix:"+socket, dir+"/state", dir+"/cache")
	for _, name := range []string{"alpha", "beta"} {
		text += fmt.Sprintf("[profiles.%s]\nbackend = \"docker\"\ndocker_host = \"unix:///nowhere\"\n", name)
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(programs+"/kilntainersd", "--config", conf)
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the daemon: %v\n%s", err, log.String())
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return socket
		}
		if time.Now().After(end) {
			t.Fatal("the daemon does not listen")
		}
	}
}

// Each shell, as a user has it, makes of what is typed what a user would type.
func TestCompletion(t *testing.T) {
	programs, docs := docs(t)
	lines := []struct {
		typed string // with the key that completes at its end
		want  string
	}{
		{"kilntainers ex", "kilntainers exec"},
		{"kilntainers exec --prof", "kilntainers exec --profile"},
		{"kilntainers exec --profile al", "kilntainers exec --profile alpha"},
		{"kilntainers exec --profile=be", "kilntainers exec --profile=beta"},
		{"kilntainers exec -i -P b", "kilntainers exec -i -P beta"},
		{"kilntainers ps --js", "kilntainers ps --json"},
		{"kilntainersd che", "kilntainersd check"},
		{"kilntainersd check --log-f", "kilntainersd check --log-format"},
		{"kilntainersd --log-level=deb", "kilntainersd --log-level=debug"},
		{"kilntainersd --log-format j", "kilntainersd --log-format json"},
		{"kilntainersd --config k.t", "kilntainersd --config k.toml"},
		{"kilntainers-stdio --profile al", "kilntainers-stdio --profile alpha"},
		{"kilntainers-stdio --dra", "kilntainers-stdio --drain"},
	}
	for _, shell := range []struct {
		name     string
		complete func(t *testing.T, docs, dir string, env, typed []string) []string
	}{
		{"bash", inBash},
		{"zsh", inZsh},
		{"fish", inFish},
	} {
		t.Run(shell.name, func(t *testing.T) {
			need(t, shell.name, shell.name)
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "k.toml"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			env := append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"), "HOME="+dir, "LC_ALL=C.UTF-8",
				"TERM=dumb", "KILNTAINERS_SOCKET="+serve(t, programs))
			var typed []string
			for _, l := range lines {
				typed = append(typed, l.typed)
			}
			// Where there is no daemon there is nothing to offer, and no noise.
			const without = "kilntainers exec --socket /nowhere -P al"
			if shell.name == "bash" {
				typed = append(typed, without)
			}
			got := shell.complete(t, docs, dir, env, typed)
			for i, l := range lines {
				if i >= len(got) || got[i] != l.want {
					t.Fatalf("%s: got %q for line %d, want %q", l.typed, got, i, l.want)
				}
			}
			if shell.name == "bash" && got[len(got)-1] != without {
				t.Errorf("got %q, want nothing more", got[len(got)-1])
			}
		})
	}
}

// completed finds what a shell has made of each line: between marks.
func completed(out []byte) (lines []string) {
	for _, m := range regexp.MustCompile(`(?m)^@@(.*)@@\r?$`).FindAllSubmatch(out, -1) {
		lines = append(lines, strings.TrimSpace(string(m[1])))
	}
	return lines
}

// inBash types the lines and the tabulator, then turns each line into an
// argument of printf: Control-A is its beginning, Control-E its end.
func inBash(t *testing.T, docs, dir string, env, typed []string) []string {
	t.Helper()
	var in strings.Builder
	fmt.Fprintf(&in, "for f in %s/bash/*; do source $f; done\n", docs)
	for _, line := range typed {
		in.WriteString(line + "\t\x01printf '%s\\n' '@@\x05@@'\n")
	}
	cmd := exec.Command("bash", "--norc", "-i")
	cmd.Dir, cmd.Env, cmd.Stdin = dir, env, strings.NewReader(in.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("bash: %v\n%s", err, out)
	}
	return completed(out)
}

// inZsh does the same. zsh completes on a terminal only, which its module zpty
// makes.
func inZsh(t *testing.T, docs, dir string, env, typed []string) []string {
	t.Helper()
	script := `
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1=; fpath=($DOCS/zsh \$fpath); autoload -U compinit; compinit -u -D; print -r -- @@ready@@"
zpty -r z out $'*\n@@ready@@*'
for line; do
	zpty -w -n z "$line"$'\t\x01print -r -- "@@\x05@@"\n'
	zpty -r z out $'*\n@@*@@\r\n'
	print -r -- "${out##*$'\n'@@}" | sed 's/^/@@/'
done
zpty -d z
`
	cmd := exec.Command("zsh", append([]string{"-f", "-c", script, "zsh"}, typed...)...)
	cmd.Dir, cmd.Env = dir, append(env, "DOCS="+docs)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("zsh: %v\n%s", err, out)
	}
	return completed(out)
}

// inFish asks fish what it would offer, which is the last word completed.
func inFish(t *testing.T, docs, dir string, env, typed []string) (lines []string) {
	t.Helper()
	cmd := exec.Command("fish", "--no-config", "-c", fmt.Sprintf("for f in %s/fish/*; source $f; end; for line in $argv; echo @@(complete -C $line | string split -f1 \\t)@@; end", docs))
	cmd.Args = append(cmd.Args, typed...)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("fish: %v\n%s", err, out)
	}
	for i, word := range completed(out) {
		line := typed[i][:strings.LastIndex(typed[i], " ")+1]
		lines = append(lines, line+word)
	}
	return lines
}
