package profiles

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// TestExample: kilntainers.example.toml loads as it is, names every key in the
// table where it belongs, and shows the defaults that hold.
func TestExample(t *testing.T) {
	const example = "../kilntainers.example.toml"
	c, err := Load(example, drivers)
	if err != nil {
		t.Fatal(err)
	}
	builtin, err := Builtin(drivers)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Daemon.Equal(builtin.Daemon) {
		t.Errorf("got daemon %+v, want the defaults %+v", c.Daemon, builtin.Daemon)
	}
	for name, want := range builtin.Profiles {
		if got := c.Profiles[name]; got == nil || !got.SameSandbox(want) || got.Timeout != want.Timeout {
			t.Errorf("profile %s: got %+v, want that of the built-in configuration", name, got)
		}
	}

	// Switch on every line that is switched off.
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^#(\[[a-z.]+\]|[a-z0-9_]+ = )`).ReplaceAll(data, []byte("$1"))
	var doc struct {
		Daemon   map[string]any
		Tokens   map[string]map[string]any
		Defaults map[string]any
		Profiles map[string]map[string]any
	}
	if _, err := toml.Decode(string(all), &doc); err != nil {
		t.Fatal(err)
	}
	for _, k := range Keys() {
		var in []map[string]any // where the key may stand
		switch k.Table {
		case "daemon":
			in = append(in, doc.Daemon)
		case "tokens.NAME":
			in = slices.Collect(maps.Values(doc.Tokens))
		case "profiles.NAME":
			in = append(in, doc.Defaults)
			for _, p := range doc.Profiles {
				if k.Name == "backend" || slices.Contains(k.Backends, p["backend"].(string)) {
					in = append(in, p)
				}
			}
		}
		found := false
		for _, table := range in {
			v, ok := table[k.Name]
			if !ok {
				continue
			}
			found = true
			var def map[string]any
			if _, err := toml.Decode("v = "+k.Default, &def); k.Default != "" && (err != nil || !reflect.DeepEqual(v, def["v"])) {
				t.Errorf("%s: the example shows %v, the default is %s", k.Name, v, k.Default)
			}
		}
		if !found {
			t.Errorf("%s (of %s %v) is not in the example", k.Name, k.Table, k.Backends)
		}
	}

	// What is switched off is right too, as far as this build has its backend.
	path := filepath.Join(t.TempDir(), "k.toml")
	write(t, path, string(all))
	_, problems := LoadGood(path, drivers)
	for _, p := range problems {
		if !strings.Contains(p.Text, "this build has no backend") && p.Key != "tokens.laptop.file" {
			t.Error(p)
		}
	}
}

// TestAllowNamesRoot: whoever writes an allow list is told whom it does not
// bind, in the manual and in the example.
func TestAllowNamesRoot(t *testing.T) {
	example, err := os.ReadFile("../kilntainers.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	above, _, _ := strings.Cut(string(example), "\n#allow = ")
	for where, text := range map[string]string{
		"the manual":  find(profileKeys, "allow").meaning,
		"the example": above[strings.LastIndex(above, "\n\n"):],
	} {
		text = strings.Join(strings.Fields(strings.ReplaceAll(text, "\n#", "\n")), " ")
		if want := "root may use every profile."; !strings.Contains(text, want) {
			t.Errorf("%s does not say %q of allow: %s", where, want, text)
		}
	}
}

func TestKeys(t *testing.T) {
	type place struct{ table, name, backends string }
	seen := map[place]bool{}
	for _, k := range Keys() {
		p := place{k.Table, k.Name, strings.Join(k.Backends, " ")}
		if seen[p] {
			t.Errorf("%v twice", p)
		}
		seen[p] = true
		if k.Meaning == "" || !strings.HasSuffix(k.Meaning, ".") && !strings.HasSuffix(k.Meaning, ":") {
			t.Errorf("%s: the meaning %q is no sentence", k.Name, k.Meaning)
		}
		if k.Backends != nil && find(profileKeys, k.Name) != nil {
			t.Errorf("%s is common and of a driver", k.Name)
		}
	}
}

// TestContrib: the profiles of contrib load, each beside an empty main file
// and all together.
func TestContrib(t *testing.T) {
	files, err := filepath.Glob("../contrib/profiles/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no profiles: %v", err)
	}
	readme, err := os.ReadFile("../contrib/profiles/README.md")
	if err != nil {
		t.Fatal(err)
	}
	together := []string{"k.toml", "# empty"}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(path)
		dropIn := []string{filepath.Join("profiles.d", name), string(data)}
		together = append(together, dropIn...)
		t.Run(name, func(t *testing.T) {
			c := loadWith(t, withClouds, append([]string{"k.toml", "# empty"}, dropIn...)...)
			for _, p := range c.Profiles {
				if p.Description == "" {
					t.Errorf("%s has no description", p.Name)
				}
				if !strings.Contains(string(readme), "`"+p.Name+"`") {
					t.Errorf("%s is not in README.md", p.Name)
				}
			}
			if !strings.Contains(string(readme), "`"+name+"`") {
				t.Errorf("%s is not in README.md", name)
			}
		})
	}
	loadWith(t, withClouds, together...)
}
