package profiles

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	quiet    = 100 * time.Millisecond // without a new event, then the edit is over
	patience = time.Second            // with ever new events
	pollEach = 30 * time.Second       // for file systems that tell nothing: NFS, a bind mount of one file
)

// Watch calls changed whenever the content of a configuration has changed,
// however it was saved: 100 ms after the last write, at the latest 1 s after
// the first, once for each change. It also calls it at the start, when it has
// begun to watch, so that no edit between Load and Watch is missed. Calls do
// not overlap.
//
// files returns what to watch: the main file, then others, as in
// [Config.Files]; profiles.d beside the main file is watched without being
// named. It is asked again after each change. What does not exist yet is
// waited for.
//
// Watch returns nil when ctx ends. It returns an error when the system has no
// watches left, and then watches no more.
func Watch(ctx context.Context, files func() []string, changed func()) error {
	return watch(ctx, pollEach, files, changed)
}

// Directories are watched, never files, since most editors replace the file:
// the parent of the file and, when there are symlinks on the way to it, the
// parent of each. So also the swap of a ConfigMap's ..data is seen, which
// leaves the file's own directory as it was:
//
//	/etc/kilntainers/kilntainers.toml → ..data/kilntainers.toml     watch /etc/kilntainers
//	/etc/kilntainers/..data → ..2026_11_24                          watch /etc/kilntainers
//	/etc/kilntainers/..2026_11_24/kilntainers.toml                  watch /etc/kilntainers/..2026_11_24
//
// Events only say when to look; whether something has changed, a hash of the
// content decides. So a touch, a swap file or a neighbour's log is no change.
func watch(ctx context.Context, poll time.Duration, files func() []string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the configuration: %w", err)
	}
	defer w.Close()

	var last [sha256.Size]byte // none yet, so the first look finds a change
	look := func() error {
		paths := files()
		// Watch first, then read: what is written in between gives an event.
		if err := arm(w, paths); err != nil {
			return fmt.Errorf("watch the configuration: %w", err)
		}
		if sum := contents(paths); sum != last {
			last = sum
			changed()
		}
		return nil
	}
	if err := look(); err != nil {
		return err
	}

	settled := time.NewTimer(time.Hour)
	settled.Stop()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	var first time.Time // of the events since the last look; zero = none
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return errors.New("watch the configuration: the watcher has ended")
			}
			if first.IsZero() {
				first = time.Now()
			}
			settled.Reset(min(quiet, patience-time.Since(first)))
			continue
		case <-w.Errors: // the queue was full: see for ourselves
		case <-settled.C:
		case <-ticker.C:
		}
		first = time.Time{}
		settled.Stop()
		if err := look(); err != nil {
			return err
		}
	}
}

// arm makes w watch the directories that can change what paths hold, and no
// others. A directory that was replaced since is watched anew.
func arm(w *fsnotify.Watcher, paths []string) error {
	want := make(map[string]bool)
	for _, p := range watched(paths) {
		for _, dir := range hops(p) {
			want[dir] = true
		}
	}
	for _, dir := range w.WatchList() {
		if !want[dir] {
			w.Remove(dir) // fails only when it is gone, which is as well
		}
	}
	for dir := range want {
		// One that has gone or may not be read is left to its parent's events
		// and to the poll.
		err := w.Add(dir)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENOMEM) {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

// watched returns paths, the drop-in directory beside the first of them, as a
// path in it, and all drop-ins that are there now.
func watched(paths []string) []string {
	if len(paths) == 0 {
		return nil
	}
	there, _ := dropIns(paths[0])
	dir := filepath.Join(filepath.Dir(paths[0]), "profiles.d")
	all := append([]string{}, paths...)
	return append(append(all, filepath.Join(dir, "*.toml")), there...)
}

// hops returns the directories in which a change can change what path refers
// to: the parent of each symlink on the way, and the last directory, or the
// last that exists.
func hops(path string) []string {
	var dirs []string
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	rest := strings.Split(strings.TrimPrefix(path, "/"), "/")
	dir := "/"
	for {
		next := filepath.Join(dir, rest[0])
		target, err := os.Readlink(next)
		switch {
		case err == nil && len(dirs) < 40: // as many symlinks as the kernel follows
			dirs = append(dirs, dir)
			if filepath.IsAbs(target) {
				dir = "/"
			}
			rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest[1:]...)
		case errors.Is(err, syscall.ENOTDIR):
			return append(dirs, filepath.Dir(dir))
		case err == nil || errors.Is(err, fs.ErrNotExist) || len(rest) == 1:
			return append(dirs, dir)
		default: // not a symlink
			dir, rest = next, rest[1:]
		}
	}
}

// contents returns a hash of all files that a Load would read.
func contents(paths []string) (sum [sha256.Size]byte) {
	if len(paths) == 0 {
		return sum
	}
	there, err := dropIns(paths[0])
	h := sha256.New()
	fmt.Fprintln(h, err)
	for _, p := range append(there, paths...) {
		data, err := readFile(p)
		fmt.Fprintf(h, "%q %v %d\n%s", p, err, len(data), data)
	}
	return [sha256.Size]byte(h.Sum(sum[:0]))
}
