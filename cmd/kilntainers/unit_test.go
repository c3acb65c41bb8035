package main

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m", 59*time.Minute + 59*time.Second: "59m",
		time.Hour: "1h", 47 * time.Hour: "47h", 48 * time.Hour: "2d", 1000 * time.Hour: "41d",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestShortID(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 4)
	for id, want := range map[string]string{long: "0123456789ab", "sb-" + long[3:]: "sb-" + long[3:], "": "", "wasm-7": "wasm-7"} {
		if got := shortID(id); got != want {
			t.Errorf("shortID(%q) = %q, want %q", id, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	table := newTable("A", "LONGER")
	table.row("wörter", "\x1b[31mred\nline")
	table.row("x", "")
	var b strings.Builder
	if err := table.print(&b); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), "A       LONGER\nwörter  ?[31mred?line\nx\n"; got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestReadStdin(t *testing.T) {
	full := strings.Repeat("x", maxStdin)
	if got, err := readStdin(strings.NewReader(full)); err != nil || got != full {
		t.Errorf("2 MiB: %d bytes, %v", len(got), err)
	}
	for name, test := range map[string]struct {
		r    io.Reader
		want string
	}{
		"more":   {strings.NewReader(full + "x"), "longer than the 2 MiB"},
		"binary": {strings.NewReader("a\xffb"), "not UTF-8"},
		"error":  {io.MultiReader(strings.NewReader("a"), failing{}), "read stdin: broken"},
	} {
		if _, err := readStdin(test.r); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q in it", name, err, test.want)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("broken") }

func FuzzReadOutput(f *testing.F) {
	f.Add("out\n[stderr]\nerr\n[exit code 3, 12 ms]")
	f.Add("[exit code 99999999999999999999, 1 ms]")
	f.Fuzz(func(t *testing.T, text string) {
		out, err := readOutput(&mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}})
		if err == nil && (!strings.HasPrefix(text, out.Stdout) || !strings.HasSuffix(text, "]") || out.ExitCode < 0) {
			t.Errorf("%q gives %+v", text, out)
		}
	})
}

func TestDefaultSocket(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("KILNTAINERS_SOCKET", "")
	t.Setenv("XDG_RUNTIME_DIR", dir)
	if got := defaultSocket(); got != systemSocket {
		t.Errorf("without a user's daemon: %s, want %s", got, systemSocket)
	}
	path := filepath.Join(dir, "kilntainers", "kilntainers.sock")
	os.MkdirAll(filepath.Dir(path), 0o700)
	os.WriteFile(path, nil, 0o600)
	if got := defaultSocket(); got != path {
		t.Errorf("with a user's daemon: %s, want %s", got, path)
	}
	t.Setenv("KILNTAINERS_SOCKET", "/x")
	if got := defaultSocket(); got != "/x" {
		t.Errorf("with the variable: %s, want /x", got)
	}
}

func TestPermissionRemedy(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "k.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	os.Chmod(socket, 0o600)
	denied := &os.SyscallError{Syscall: "connect", Err: syscall.EACCES}
	want := "permission denied on " + socket + "; only its owner may use it: ask whoever runs the daemon, or use sudo"
	if got := explain(socket, denied).Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := os.Chown(socket, -1, 54321); err != nil {
		t.Skip("needs root to give the socket to a group: ", err)
	}
	os.Chmod(socket, 0o660)
	want = "permission denied on " + socket + "; join its group (gid 54321), then log in again"
	if got := explain(socket, denied).Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	os.Chown(socket, -1, 1) // daemon, everywhere
	if got := explain(socket, denied).Error(); !strings.Contains(got, "sudo usermod -aG ") {
		t.Errorf("got %q, want usermod in it", got)
	}
}
