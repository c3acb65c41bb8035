package kilntainers

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/docker"
	"github.com/kilntainers/kilntainers/backends/e2b"
	"github.com/kilntainers/kilntainers/backends/wasm"
	"github.com/kilntainers/kilntainers/profiles"
)

const module = "github.com/kilntainers/kilntainers"

// TestLayers holds the arrows of doc.go. Packages are named by their folder.
func TestLayers(t *testing.T) {
	type layer struct {
		under   string   // the rule is for this package; "x/" is x and all below it
		imports []string // the only packages of ours that it may import
	}
	layers := []layer{
		{"cmd/kilntainers-stdio/", nil},
		{"cmd/", []string{"daemon", "profiles", "backends", "backends/"}},
		{"daemon/", []string{"profiles", "backends", "backends/pool"}},
		{"profiles/", []string{"backends"}},
		{"backends", nil},
		{"backends/agent/", []string{"backends", "backends/agent/"}},
		{"backends/backendtest/", []string{"backends"}},
		{"backends/pool/", []string{"backends"}},
	}
	// The other folders below backends are one kind of backend each.
	dirs, err := os.ReadDir("backends")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		under := "backends/" + d.Name() + "/"
		if d.IsDir() && !slices.ContainsFunc(layers, func(l layer) bool { return l.under == under }) {
			layers = append(layers, layer{under, []string{"backends", "backends/agent", under}})
		}
	}
	for _, f := range goFiles(t) {
		i := slices.IndexFunc(layers, func(l layer) bool { return within(f.pkg, l.under) })
		if i < 0 || f.module != module {
			continue
		}
		l := layers[i]
		for _, imp := range f.imports() {
			ours, ok := strings.CutPrefix(imp, module+"/")
			if !ok {
				if l.under == "backends" && !f.test && strings.Contains(strings.Split(imp, "/")[0], ".") {
					t.Errorf("%s imports %s; the contract imports only the standard library", f.path, imp)
				}
				continue
			}
			// A test may bring what it tests with: a suite, an engine, the
			// packages beside it. It may not look up the arrows either.
			if f.test && (strings.HasSuffix(ours, "test") || !above(f.pkg, ours)) {
				continue
			}
			if !slices.ContainsFunc(l.imports, func(under string) bool { return within(ours, under) }) {
				t.Errorf("%s imports %s; %s may import of ours only %q", f.path, ours, l.under, l.imports)
			}
		}
	}
}

// within reports whether pkg is what under names: "a/" is a and all below it.
func within(pkg, under string) bool {
	if dir, ok := strings.CutSuffix(under, "/"); ok {
		return pkg == dir || strings.HasPrefix(pkg, under)
	}
	return pkg == under
}

// above reports whether b stands nearer to cmd than a.
func above(a, b string) bool {
	order := []string{"backends", "profiles", "daemon", "cmd"}
	top := func(p string) int { return slices.Index(order, strings.Split(p, "/")[0]) }
	return top(b) > top(a)
}

// TestPackageComments wants one comment for each package, beginning as godoc
// wants it. Of a test-only package the tests may carry it.
func TestPackageComments(t *testing.T) {
	type pkg struct{ with, without []string }
	pkgs := map[string]*pkg{}
	for _, f := range goFiles(t) {
		if strings.HasSuffix(f.ast.Name.Name, "_test") {
			continue
		}
		p := pkgs[f.pkg]
		if p == nil {
			p = &pkg{}
			pkgs[f.pkg] = p
		}
		if f.ast.Doc == nil {
			p.without = append(p.without, f.path)
			continue
		}
		p.with = append(p.with, f.path)
		begin := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			begin = "" // of a program, what it says first is free
		}
		if doc := f.ast.Doc.Text(); !strings.HasPrefix(doc, begin) {
			t.Errorf("%s: the package comment begins %.30q; want %q", f.path, doc, begin)
		}
	}
	for name, p := range pkgs {
		if len(p.with) != 1 {
			t.Errorf("package %q has %d package comments (%q); want one in one of %q", name, len(p.with), p.with, append(p.with, p.without...))
		}
	}
}

// TestOptionNames: a profile's keys stand flat beside each other, so the same
// name must not mean two things. "image" and the resource limits mean the
// same everywhere.
func TestOptionNames(t *testing.T) {
	shared := []string{"image", "cpu", "memory"}
	owners := map[string][]string{}
	for _, f := range goFiles(t) {
		backend, ok := strings.CutPrefix(f.pkg, "backends/")
		if !ok || f.test || f.module != module {
			continue
		}
		backend = strings.Split(backend, "/")[0]
		ast.Inspect(f.ast, func(n ast.Node) bool {
			field, ok := n.(*ast.Field)
			if !ok || field.Tag == nil {
				return true
			}
			tag, err := strconv.Unquote(field.Tag.Value)
			if err != nil {
				return true
			}
			name, _, _ := strings.Cut(reflect.StructTag(tag).Get("toml"), ",")
			if name != "" && name != "-" && !slices.Contains(owners[name], backend) {
				owners[name] = append(owners[name], backend)
			}
			return true
		})
	}
	if len(owners) == 0 {
		t.Error("no backend has options; this test looks in the wrong place")
	}
	for name, backends := range owners {
		if len(backends) > 1 && !slices.Contains(shared, name) {
			t.Errorf("option %s belongs to %q; two backends may not share a name", name, backends)
		}
	}
}

// TestReadme: what README shows as configuration loads, each block as it is.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	credentials := t.TempDir() // "laptop" in [tokens] is a file there
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	if err := os.WriteFile(path.Join(credentials, "laptop"), []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	drivers := append(backends.Drivers{docker.Driver, e2b.Driver}, wasm.Drivers(t.TempDir)...)
	blocks := regexp.MustCompile("(?sm)^```toml\n(.*?)^```").FindAllSubmatch(text, -1)
	if len(blocks) == 0 {
		t.Error("README.md shows no configuration")
	}
	for i, block := range blocks {
		conf := path.Join(t.TempDir(), fmt.Sprintf("block%d.toml", i+1))
		if err := os.WriteFile(conf, block[1], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := profiles.Load(conf, drivers); err != nil {
			t.Errorf("block %d of README.md: %v\n%s", i+1, err, block[1])
		}
	}
}

// TestGofmt is gofmt -l.
func TestGofmt(t *testing.T) {
	for _, f := range goFiles(t) {
		want, err := format.Source(f.text)
		if err != nil {
			t.Errorf("%s: %v", f.path, err)
		} else if !bytes.Equal(f.text, want) {
			t.Errorf("%s is not formatted; run make fmt", f.path)
		}
	}
}

// TestFuzzTargets: make fuzz runs every fuzz target that there is.
func TestFuzzTargets(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("needs make; apt-get install make")
	}
	cmd := exec.Command("make", "--silent", "--no-print-directory", "fuzz-list")
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("make fuzz-list: %v", err)
	}
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	var want []string
	for _, f := range goFiles(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Fuzz") {
				want = append(want, "./"+path.Dir(f.path)+" "+fn.Name.Name)
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("make fuzz-list says\n\t%s\nbut the tests have\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// TestWords keeps out of the tree what only makes sense on one machine or on
// one day. The words are taken apart here, or this file would hold them.
func TestWords(t *testing.T) {
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	forbidden := map[string]string{
		root:                      "a path of this machine",
		"proxy.golang" + ".org":   "a registry's host name",
		"sum.golang" + ".org":     "a registry's host name",
		"registry.npmjs" + ".org": "a registry's host name",
		"deb.debian" + ".org":     "a registry's host name",
	}
	if home, err := os.UserHomeDir(); err == nil && len(home) > 1 {
		forbidden[home+"/."] = "a path of this machine" // /root itself is a sandbox's home too
		forbidden[home+"/go/"] = "a path of this machine"
	}
	unfinished := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b|(^|[^n]) not ` + `implemented`) // ENOSYS is "Function …"
	for _, p := range files(t) {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 1<<20 {
			t.Errorf("%s has %d bytes; a file has at most 1 MiB", p, len(text))
		}
		if bytes.IndexByte(text, 0) >= 0 || path.Base(p) == "go.sum" {
			continue
		}
		for i, line := range strings.Split(string(text), "\n") {
			for word, what := range forbidden {
				if strings.Contains(line, word) {
					t.Errorf("%s:%d: %q is %s", p, i+1, word, what)
				}
			}
			if ext := path.Ext(p); ext == ".go" || ext == ".c" || ext == ".h" || ext == ".sh" {
				if word := unfinished.FindString(line); word != "" {
					t.Errorf("%s:%d: %q: finish it, or say in RATIONALE.md why not", p, i+1, word)
				}
			}
		}
	}
}

// TestChangelog: the changelog begins with what is not released yet, and has
// something to say.
func TestChangelog(t *testing.T) {
	text, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	first := regexp.MustCompile(`(?m)^## .*$`).Find(text)
	if string(first) != "## Unreleased" {
		t.Errorf("the first section of CHANGELOG.md is %q; want %q", first, "## Unreleased")
	}
}

// A goFile is one Go file of this repository, guests and generated ones too.
type goFile struct {
	path   string // "backends/docker/exec.go"
	pkg    string // its folder: "backends/docker", "" for the root
	module string // the module that it belongs to
	test   bool
	text   []byte
	ast    *ast.File
}

func (f *goFile) imports() []string {
	var paths []string
	for _, i := range f.ast.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// goFiles parses every Go file, whatever its build tags.
func goFiles(t *testing.T) []*goFile {
	t.Helper()
	modules := map[string]string{} // folder of a go.mod → module
	all := files(t)
	for _, p := range all {
		if path.Base(p) == "go.mod" && !strings.Contains(p, "testdata/") {
			text, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			name, _, _ := strings.Cut(string(text), "\n")
			modules[path.Dir(p)] = strings.TrimPrefix(name, "module ")
		}
	}
	var parsed []*goFile
	fset := token.NewFileSet()
	for _, p := range all {
		if path.Ext(p) != ".go" || strings.Contains(p, "testdata/") {
			continue
		}
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		f := &goFile{path: p, pkg: path.Dir(p), test: strings.HasSuffix(p, "_test.go"), text: text}
		if f.ast, err = parser.ParseFile(fset, p, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			t.Fatal(err)
		}
		for dir := f.pkg; f.module == ""; dir = path.Dir(dir) {
			f.module = modules[dir]
		}
		if f.pkg == "." {
			f.pkg = ""
		}
		parsed = append(parsed, f)
	}
	return parsed
}

// files lists the regular files of the repository, without what git ignores
// and what it keeps for itself.
func files(t *testing.T) []string {
	t.Helper()
	ignored := []string{".git", ".cache", "bin", "dist", "node_modules"}
	var paths []string
	err := fs.WalkDir(os.DirFS("."), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // somebody else's test just removed it
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(ignored, d.Name()):
			return fs.SkipDir
		case d.Type().IsRegular():
			paths = append(paths, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Fatal(fmt.Errorf("no files here"))
	}
	return paths
}
