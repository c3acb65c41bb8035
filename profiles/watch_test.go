package profiles

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestWatch saves a configuration in every way that an editor, a package
// manager or an orchestrator does. Each shell script runs in the directory of
// k.toml; the test starts with a = 1 in it.
func TestWatch(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup string
		edit  string
		most  int // reloads: one, or one for each state that a slow machine may see
	}{
		{"in place", "",
			`echo a=2 > k.toml`, 2}, // truncated, written
		{"slowly in place", "",
			`: > k.toml; for i in 1 2 3 4 5; do sleep .02; echo a$i=1 >> k.toml; done`, 6},
		{"sed -i renames over", "",
			`sed -i s/1/2/ k.toml`, 1},
		{"rename to a backup, write anew", "",
			`mv k.toml k.toml~; echo a=2 > k.toml; rm k.toml~`, 3},
		{"vim", "",
			`vim -u NONE -es -c '%s/1/2/' -c 'set backupcopy=no' -c wq k.toml </dev/null`, 3},
		{"touch", "",
			`touch k.toml`, 0},
		{"chmod", "",
			`chmod 600 k.toml`, 0},
		{"the same again", "",
			`cp k.toml x; mv x k.toml`, 0},
		{"50 quick saves", "",
			`for i in $(seq 50); do echo a=$i > x; mv x k.toml; done`, 50},
		{"away and back", "",
			`mv k.toml y; mv y k.toml`, 2},
		{"removed", "",
			`rm k.toml`, 1},
		{"a neighbour's log", "",
			`for i in 1 2 3; do echo line >> log; done`, 0},
		{"drop-in added", "",
			`echo b=1 > x; mv x profiles.d/p.toml`, 1},
		{"drop-in removed", "echo b=1 > profiles.d/p.toml",
			`rm profiles.d/p.toml`, 1},
		{"drop-in renamed", "echo b=1 > profiles.d/p.toml",
			`mv profiles.d/p.toml profiles.d/q.toml`, 1},
		{"a swap file in profiles.d", "",
			`echo x > profiles.d/.p.toml; echo x > profiles.d/.p.toml.swp; rm profiles.d/.p*`, 0},
		{"profiles.d replaced", "echo b=1 > profiles.d/p.toml",
			`mkdir new; echo c=1 > new/q.toml; mv profiles.d old; mv new profiles.d`, 2},
		{"profiles.d replaced, then a file in it", "mkdir old; echo b=1 > profiles.d/p.toml",
			`mv profiles.d old/; mkdir profiles.d; sleep .3; echo c=1 > x; mv x profiles.d/q.toml`, 2},
		{"profiles.d made", "rmdir profiles.d",
			`mkdir profiles.d`, 0},
		{"profiles.d made, then a file in it", "rmdir profiles.d",
			`mkdir profiles.d; sleep .3; echo c=1 > x; mv x profiles.d/q.toml`, 1},
		{"ConfigMap: ..data swapped", "mkdir ..1; mv k.toml ..1/; ln -s ..1 ..data; ln -s ..data/k.toml k.toml",
			`mkdir ..2; echo a=2 > ..2/k.toml; ln -s ..2 ..data_tmp; mv -T ..data_tmp ..data; rm -r ..1`, 1},
		{"NixOS: a link two hops away swapped", "mkdir -p ../store/1 ../store/2; mv k.toml ../store/1/; echo a=2 > ../store/2/k.toml; ln -s store/1 ../static; ln -s ../static/k.toml k.toml",
			`ln -s store/2 ../static.tmp; mv -T ../static.tmp ../static`, 1},
		{"the target of a link", "mkdir ../dotfiles; mv k.toml ../dotfiles/; ln -s $PWD/../dotfiles/k.toml k.toml",
			`sed -i s/1/2/ ../dotfiles/k.toml`, 1},
		{"the whole directory replaced", "",
			`cd ..; mkdir new; echo a=2 > new/k.toml; mv etc old; mv new etc`, 2},
		{"a token", "",
			`echo 2 > ../x; mv ../x ../token`, 1},
		{"the file made later", "rm -r ../etc",
			`mkdir etc; echo a=2 > x; mv x etc/k.toml`, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			dir := filepath.Join(base, "etc")
			main := filepath.Join(dir, "k.toml")
			script := func(s string) {
				cmd := exec.Command("bash", "-ec", s)
				cmd.Dir = dir
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", s, err, out)
				}
			}
			if c.name == "vim" {
				if _, err := exec.LookPath("vim"); err != nil {
					t.Skip("needs vim (apt-get install vim)")
				}
			}
			if err := os.MkdirAll(filepath.Join(dir, "profiles.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			script("echo a=1 > k.toml; echo 1 > ../token")
			script(c.setup)

			seen := watching(t, []string{main, filepath.Join(base, "token")})
			before := state(base)
			if strings.HasPrefix(c.setup, "rm -r ../etc") {
				dir = base
			}
			script(c.edit)
			after := state(base)
			reloads := 0
			for got := before; got != after; reloads++ {
				got = seen.next(t)
			}

			// What comes from here on, until the next edit, is one too many.
			time.Sleep(3 * quiet)
			dir = base
			script("mkdir -p etc; echo last > x; mv x etc/k.toml")
			after = state(base)
			for got := seen.next(t); got != after; got = seen.next(t) {
				reloads++
			}
			if reloads > c.most {
				t.Errorf("got %d reloads, want at most %d", reloads, c.most)
			}
		})
	}
}

// calls are the calls of a Watch: what the files held at each.
type calls struct {
	c    chan string
	base string
}

// watching starts a Watch that ends with the test, and waits for its first
// call.
func watching(t *testing.T, files []string) calls {
	t.Helper()
	c := calls{make(chan string, 100), filepath.Dir(filepath.Dir(files[0]))}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, func() []string { return files }, func() { c.c <- state(c.base) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	c.next(t)
	return c
}

// next waits for the next call.
func (c calls) next(t *testing.T) string {
	t.Helper()
	select {
	case s := <-c.c:
		return s
	case <-time.After(20 * time.Second):
		t.Fatalf("no reload; the files hold %q", state(c.base))
		return ""
	}
}

// state describes the files of a test.
func state(base string) string {
	var b strings.Builder
	dir := filepath.Join(base, "etc")
	there, _ := filepath.Glob(filepath.Join(dir, "profiles.d", "[a-z]*.toml"))
	for _, p := range append(there, filepath.Join(dir, "k.toml"), filepath.Join(base, "token")) {
		data, err := os.ReadFile(p)
		b.WriteString(filepath.Base(p) + " " + string(data))
		if err != nil {
			b.WriteString("missing\n")
		}
	}
	return b.String()
}

// TestWatchPolls: what no event tells of is found by looking. Here another
// file is named; on NFS it would be an edit by another machine.
func TestWatchPolls(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.toml"), filepath.Join(dir, "b.toml")
	if err := errors.Join(os.WriteFile(a, []byte("a=1"), 0o644), os.WriteFile(b, []byte("b=1"), 0o644)); err != nil {
		t.Fatal(err)
	}
	var name atomic.Value
	name.Store(a)
	ctx, cancel := context.WithCancel(context.Background())
	changed := make(chan bool)
	done := make(chan error, 1)
	go func() {
		done <- watch(ctx, 10*time.Millisecond,
			func() []string { return []string{name.Load().(string)} },
			func() { changed <- true })
	}()
	<-changed
	name.Store(b)
	<-changed
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestHops(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sub := func(p string) string { return filepath.Join(dir, p) }
	err = errors.Join(
		os.MkdirAll(sub("real/deep"), 0o755),
		os.WriteFile(sub("real/deep/file"), nil, 0o644),
		os.Symlink("real/deep", sub("rel")),
		os.Symlink(sub("real"), sub("abs")),
		os.Symlink("../rel/file", sub("real/up")),
		os.Symlink("loop", sub("loop")),
		os.Symlink("/", sub("root")),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		want []string
	}{
		{"real/deep/file", []string{"real/deep"}},
		{"rel/file", []string{".", "real/deep"}},
		{"abs/deep/file", []string{".", "real/deep"}},
		{"abs/up", []string{".", "real", ".", "real/deep"}},
		{"real/missing/x/y", []string{"real"}},
		{"missing", []string{"."}},
		{"rel/file/not/a/dir", []string{".", "real/deep"}},
	} {
		got := hops(sub(c.path))
		var want []string
		for _, d := range c.want {
			want = append(want, sub(d))
		}
		if !slices.Equal(got, want) {
			t.Errorf("hops(%s): got %q, want %q", c.path, got, want)
		}
	}
	if got := hops(sub("loop")); len(got) > 50 {
		t.Errorf("hops of a loop: %d directories", len(got))
	}
	if got := hops(sub("root/etc/hostname")); got[len(got)-1] != "/etc" {
		t.Errorf("hops over a link to /: got %q", got)
	}
}
