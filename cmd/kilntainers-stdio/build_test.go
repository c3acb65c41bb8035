package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// build builds the program as a release is built.
func build(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "kilntainers-stdio")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=1.2.3-test", "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// The program is started once for each client, so it is small.
func TestSize(t *testing.T) {
	binary := build(t)
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Size(), int64(2_000_000); got > want {
		t.Errorf("the binary has %d bytes, want at most %d", got, want)
	}
	t.Logf("%d bytes", info.Size())
	if out, err := exec.Command(binary, "--version").Output(); err != nil || string(out) != "kilntainers-stdio 1.2.3-test\n" {
		t.Errorf("--version says %q, %v", out, err)
	}
}

// It imports none of our packages, nobody else's, and of the standard library
// nothing large.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}other:{{end}}{{.ImportPath}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	large := []string{"net", "net/http", "encoding/json", "fmt", "flag", "reflect", "log", "regexp"}
	for _, line := range strings.Fields(string(out)) {
		other, ok := strings.CutPrefix(line, "other:")
		if ok && !strings.HasSuffix(other, "/cmd/kilntainers-stdio") {
			t.Errorf("it imports %s", other)
		}
		if slices.Contains(large, line) {
			t.Errorf("it imports %s", line)
		}
	}
}

// BenchmarkCall measures a call's way to an echoing daemon and back, directly
// and through the shim.
func BenchmarkCall(b *testing.B) {
	binary := build(b)
	request := []byte(toolsCall("1") + "\n")
	roundTrip := func(b *testing.B, w io.Writer, r *bufio.Reader) {
		b.Helper()
		for b.Loop() {
			if _, err := w.Write(request); err != nil {
				b.Fatal(err)
			}
			if _, err := r.ReadSlice('\n'); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("direct", func(b *testing.B) {
		conn, err := net.Dial("unix", echo(b))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET /stdio/default HTTP/1.1\r\nHost: x\r\n\r\n")
		in := bufio.NewReader(conn)
		for line := ""; line != "\r\n"; {
			if line, err = in.ReadString('\n'); err != nil {
				b.Fatal(err)
			}
		}
		roundTrip(b, conn, in)
	})
	b.Run("shim", func(b *testing.B) {
		c := startCmd(b, exec.Command(binary, "--socket", echo(b)))
		c.stdout.SetReadDeadline(time.Time{})
		roundTrip(b, c.in, c.out)
	})
}

// BenchmarkStart measures from the start of the process to the answer to
// initialize, and beside it the start of the smallest program there is.
func BenchmarkStart(b *testing.B) {
	binary := build(b)
	socket := echo(b)
	b.Run("true", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("shim", func(b *testing.B) {
		for b.Loop() {
			cmd := exec.Command(binary, "--socket", socket)
			in, _ := cmd.StdinPipe()
			out, _ := cmd.StdoutPipe()
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			io.WriteString(in, initialize+"\n")
			if _, err := bufio.NewReader(out).ReadSlice('\n'); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			in.Close()
			cmd.Wait()
			b.StartTimer()
		}
	})
}

// echo is a daemon that answers every request in the cheapest way. It returns
// its socket.
func echo(b *testing.B) string {
	d := listen(b)
	answer := []byte(result("1") + "\n")
	hello := []byte("HTTP/1.1 101 Switching Protocols\r\nKilntainers-Resume: t\r\n\r\n")
	go func() {
		for {
			conn, err := d.ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				if _, err := http.ReadRequest(in); err != nil {
					return
				}
				conn.Write(hello)
				for {
					line, err := in.ReadSlice('\n')
					if err != nil || !bytes.HasPrefix(line, []byte("{")) {
						return
					}
					conn.Write(answer)
				}
			}()
		}
	}()
	return d.socket
}
