package daemon

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilntainers/kilntainers/backends"
)

// A keeper keeps what the next daemon needs to go on with this one's sessions:
//
//	                          written            where                     survives
//	sandbox with a channel    when it is made    fd store: channel, memfd  restart, crash
//	sandbox without           when it is made    state directory           restart, crash
//	shim's connection         at a stop          fd store: socket, memfd   restart
//	session without sandbox   at a stop          fd store: memfd           restart
//
// A memfd holds records as JSON, so that what systemd drops when the service
// stops leaves no file. Without systemd only the state directory keeps
// anything; sandboxes that live by their channel end with the daemon then.
type keeper struct {
	log   *slog.Logger
	store fdStore
	dir   string // of records without a descriptor

	mu      sync.Mutex
	entries map[*entry]string // the sandbox's id
}

// A record is a session as the next daemon finds it. It holds keys that open
// sandboxes.
type record struct {
	Profile   string          `json:"profile"`
	Backend   string          `json:"backend,omitempty"`
	Principal string          `json:"principal"`
	Kind      keyKind         `json:"kind"`
	Key       string          `json:"key"`
	Lost      string          `json:"lost,omitempty"` // what to tell if there is no sandbox
	Opening   json.RawMessage `json:"opening,omitempty"`
	Sandbox   *sandboxRecord  `json:"sandbox,omitempty"`
	Shim      *shimRecord     `json:"shim,omitempty"`
}

type sandboxRecord struct {
	ID      string    `json:"id"`
	Data    []byte    `json:"data"`
	Created time.Time `json:"created"`
}

// An entry is where one set of records is kept.
type entry struct {
	name string
	mem  *os.File // nil: a file of the state directory
}

// A legacy is what an earlier daemon kept: records, and the channel or
// connection that belongs to them.
type legacy struct {
	*entry
	records []record
	channel *os.File
}

func newKeeper(store fdStore, stateDir string, log *slog.Logger) *keeper {
	return &keeper{log: log, store: store, dir: filepath.Join(stateDir, "sandboxes"), entries: map[*entry]string{}}
}

// keep keeps a sandbox's record. It takes over the channel, and returns nil
// when nothing can keep it.
func (k *keeper) keep(r record, channel *os.File) (*entry, error) {
	if channel != nil {
		defer channel.Close()
		if !k.store.there() {
			return nil, nil
		}
	}
	e := &entry{name: "sandbox-" + strings.ToLower(rand.Text()[:12])}
	if channel == nil {
		if err := os.MkdirAll(k.dir, 0o700); err != nil {
			return nil, err
		}
		if err := writeFile(k.path(e), []record{r}); err != nil {
			return nil, err
		}
	} else if err := k.putMemory(e, []record{r}, channel); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.entries[e] = r.Sandbox.ID
	return e, nil
}

// maxRecords bounds what the next daemon reads of one entry, in bytes. Of
// sessions there are as many as there are clients, so they are kept in parts.
const (
	maxRecords  = 64 << 20
	sessionPart = 64 // sessions; each has at most maxReplayed and little else
)

// handOver keeps records, and a connection if there is one, for the next
// daemon only.
func (k *keeper) handOver(kind string, records []record, files ...*os.File) error {
	if len(records) == 0 || !k.store.there() {
		return nil
	}
	e := &entry{name: kind + "-" + strings.ToLower(rand.Text()[:12])}
	err := k.putMemory(e, records, files...)
	if e.mem != nil {
		_ = e.mem.Close()
	}
	return err
}

func (k *keeper) putMemory(e *entry, records []record, files ...*os.File) error {
	text, err := json.Marshal(records)
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("kilntainers-"+e.name, unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a memfd: %w", err)
	}
	e.mem = os.NewFile(uintptr(fd), e.name)
	if _, err = e.mem.WriteAt(text, 0); err == nil {
		err = k.store.put(e.name, append(files, e.mem)...)
	}
	if err != nil {
		_ = e.mem.Close()
		e.mem = nil
	}
	return err
}

// drop forgets a sandbox that has ended.
func (k *keeper) drop(e *entry) {
	if e == nil {
		return
	}
	k.mu.Lock()
	delete(k.entries, e)
	k.mu.Unlock()
	var err error
	if e.mem != nil {
		_ = e.mem.Close()
		err = k.store.remove(e.name)
	} else if err = os.Remove(k.path(e)); errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		k.log.Warn("cannot forget a sandbox that has ended", "error", err)
	}
}

// ids names the sandboxes that a sweep must not take for leftovers.
func (k *keeper) ids() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Values(k.entries))
}

// found reads what earlier daemons kept. What cannot be read is thrown away.
func (k *keeper) found(stored map[string][]*os.File) (found []legacy) {
	for _, name := range slices.Sorted(maps.Keys(stored)) {
		l := legacy{entry: &entry{name: name}}
		for _, f := range stored[name] {
			switch {
			case isMemory(f) && l.mem == nil:
				l.mem = f
			case !isMemory(f) && l.channel == nil:
				l.channel = f
			default:
				_ = f.Close()
			}
		}
		if l.mem == nil {
			k.log.Warn("systemd kept a descriptor that nobody knows", "name", name)
			k.discard(l)
			continue
		}
		text, err := io.ReadAll(io.NewSectionReader(l.mem, 0, maxRecords))
		if err == nil {
			err = json.Unmarshal(text, &l.records)
		}
		if err != nil {
			k.log.Warn("cannot read what an earlier run kept", "name", name, "error", err)
			k.discard(l)
			continue
		}
		found = append(found, l)
	}
	files, _ := filepath.Glob(filepath.Join(k.dir, "*.json"))
	for _, file := range files {
		l := legacy{entry: &entry{name: strings.TrimSuffix(filepath.Base(file), ".json")}}
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &l.records)
		}
		if err != nil {
			k.log.Warn("cannot read what an earlier run kept", "file", file, "error", err)
			k.discard(l)
			continue
		}
		found = append(found, l)
	}
	return found
}

// adopt makes an earlier daemon's entry one of ours.
func (k *keeper) adopt(l legacy, id string) *entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.entries[l.entry] = id
	return l.entry
}

// discard gives up what an earlier daemon kept. A sandbox that lives by its
// channel ends with it.
func (k *keeper) discard(l legacy) {
	if l.channel != nil {
		_ = l.channel.Close()
	}
	if l.mem == nil && l.channel != nil {
		_ = k.store.remove(l.name)
		return
	}
	k.drop(l.entry)
}

func (k *keeper) path(e *entry) string { return filepath.Join(k.dir, e.name+".json") }

// writeFile replaces a file of ours whole.
func writeFile(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := name + ".new"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// A fate is what becomes of the service once it has stopped.
type fate string

const (
	unknownFate fate = "unknown" // nobody is there to ask
	restarted   fate = "restart" // it is started again at once
	stopped     fate = "stop"
)

// askFate asks systemd why it stops this service.
func askFate(ctx context.Context, log *slog.Logger) fate {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return unknownFate
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	unit := unitOf(string(text))
	if err != nil || unit == "" {
		log.Debug("the name of this service is not known", "error", err)
		return unknownFate
	}
	args := []string{"list-jobs", "--no-legend", "--no-pager", "--plain", unit}
	if os.Getuid() != 0 && strings.Contains(string(text), "/user@") {
		args = append([]string{"--user"}, args...)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	log.Debug("asked systemd for its jobs", "unit", unit, "answer", strings.TrimSpace(string(out)), "error", err)
	if err != nil {
		return unknownFate
	}
	for line := range strings.Lines(string(out)) { // JOB UNIT TYPE STATE
		f := strings.Fields(line)
		switch {
		case len(f) != 4 || f[1] != unit:
		case f[2] == "restart" || f[2] == "start":
			return restarted
		case f[2] == "stop":
			return stopped
		}
	}
	return unknownFate
}

// unitOf finds the service in /proc/self/cgroup (cgroups(7)): in version 2's
// line, or in that of systemd's own hierarchy.
func unitOf(cgroup string) (unit string) {
	for line := range strings.Lines(cgroup) {
		for _, hierarchy := range []string{"::", ":name=systemd:"} {
			if _, dir, ok := strings.Cut(line, hierarchy); ok {
				if name := path.Base(strings.TrimSpace(dir)); strings.HasSuffix(name, ".service") {
					unit = name
				}
			}
		}
	}
	return unit
}

// ticket is what the sandbox of a record is adopted with.
func (l legacy) ticket(r record) backends.Ticket {
	return backends.Ticket{ID: r.Sandbox.ID, Data: r.Sandbox.Data, File: l.channel}
}
