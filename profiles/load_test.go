package profiles

import (
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what was found to testdata/bad")

// TestBad loads each archive of testdata/bad, k.toml first. Its file
// "problems" is what must be found, all of it in one pass; "served" are the
// profiles that a daemon with this configuration serves nevertheless.
func TestBad(t *testing.T) {
	archives, err := filepath.Glob("testdata/bad/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, path := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			path, err := filepath.Abs(path)
			if err != nil {
				t.Fatal(err)
			}
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			t.Chdir(dir)
			t.Setenv("CREDENTIALS_DIRECTORY", "")
			want := map[string]string{}
			var inputs []txtar.File
			for _, f := range a.Files {
				if f.Name == "problems" || f.Name == "served" {
					want[f.Name] = string(f.Data)
					continue
				}
				inputs = append(inputs, f)
				write(t, f.Name, strings.ReplaceAll(string(f.Data), "$DIR", dir))
			}

			_, err = Load("k.toml", drivers)
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("got error %v, want Problems", err)
			}
			good, again := LoadGood("k.toml", drivers)
			if !slices.Equal(problems, again) {
				t.Errorf("LoadGood finds\n%v\nLoad finds\n%v", again, problems)
			}
			got := map[string]string{
				"problems": strings.ReplaceAll(problems.Error()+"\n", dir, "$DIR"),
				"served":   strings.Join(slices.Sorted(maps.Keys(good.Profiles)), " ") + "\n",
			}
			if *update {
				a.Files = inputs
				for _, name := range []string{"problems", "served"} {
					a.Files = append(a.Files, txtar.File{Name: name, Data: []byte(got[name])})
				}
				if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			for name := range got {
				if got[name] != want[name] {
					t.Errorf("%s: got\n%s\nwant\n%s", name, got[name], want[name])
				}
			}
		})
	}
}

// write writes a file of a test, and the directories it is in.
func write(t testing.TB, path, data string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(data), 0o644)); err != nil {
		t.Fatal(err)
	}
}
