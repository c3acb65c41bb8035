package docker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
)

// TestUnreachable: each way in which an engine is not there, in words that say
// what to do.
func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_HOST", "")
	t.Setenv("CONTAINER_HOST", "")
	t.Setenv("DOCKER_CERT_PATH", "")
	t.Setenv("DOCKER_TLS_VERIFY", "")

	// A socket that nobody listens on.
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	// A port that nobody listens on.
	tl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := tl.Addr().String()
	tl.Close()
	// Servers that speak something else.
	garbage := serve(t, func(c net.Conn) { io.WriteString(c, "220 mail ready\r\n") })

	for _, c := range []struct {
		host, engine string
		env          []string
		want         string
	}{
		{"unix://" + dir + "/none.sock", "docker", nil, "there is no socket at " + dir + "/none.sock; start Docker (systemctl start docker), or set docker_host"},
		{"unix://" + dir + "/none.sock", "podman", nil, "start Podman's API (systemctl start podman.socket)"},
		{"unix://" + dead, "docker", nil, "nothing listens on " + dead + "; start Docker"},
		{"tcp://" + port, "docker", nil, "nothing listens on tcp://" + port + "; start the engine with its TCP socket on"},
		{"tcp://" + garbage, "docker", nil, "the engine broke the connection off: "},
		{"tcp://" + garbage, "docker", []string{"DOCKER_CERT_PATH", newPKI(t, "127.0.0.1").dir}, "does not speak TLS; unset DOCKER_CERT_PATH"},
		{"tcp://" + garbage, "docker", []string{"DOCKER_CERT_PATH", dir}, "TLS files of DOCKER_CERT_PATH"},
		{"", "docker", []string{"DOCKER_HOST", "bogus"}, `"bogus" is not the address of an engine; write unix:///path`},
		{"", "docker", []string{"DOCKER_HOST", "unix://" + dir + "/env.sock"}, "there is no socket at " + dir + "/env.sock"},
		{"", "podman", []string{"CONTAINER_HOST", "unix://" + dir + "/env.sock"}, "there is no socket at " + dir + "/env.sock"},
	} {
		t.Run(c.want, func(t *testing.T) {
			for i := 0; i < len(c.env); i += 2 {
				t.Setenv(c.env[i], c.env[i+1])
			}
			o := defaults()
			o.Engine = c.engine
			if c.host != "" {
				o.DockerHost = Hosts{c.host}
			}
			b, err := Driver.Open(backends.Spec{Profile: "p"}, o, discard)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			err = b.Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check: got %v, want %q", err, c.want)
			}
			if _, err := b.Create(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Create: got %v, want %q", err, c.want)
			}
		})
	}
}

// TestTwoSockets: of an engine's usual places the first that answers is
// taken, and kept; when none is there, both are named.
func TestTwoSockets(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.sock"), filepath.Join(dir, "b.sock")
	d := newDialer([]string{"unix://" + a, "unix://" + b}, "docker")
	_, err := d.dial(t.Context())
	if want := "there is no engine: no socket at " + a + " or " + b + "; start Docker"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	listen := func(path string) net.Listener {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	lb := listen(b)
	c, err := d.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	listen(a)
	lb.Close()
	if _, err := d.dial(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v: another engine was taken for the same", err)
	}
}

// TestPermissionDenied: the operator is told which group to join.
func TestPermissionDenied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g, err := user.LookupGroupId(fmt.Sprint(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	d := newDialer(nil, "docker")
	for _, c := range []struct {
		mode fs.FileMode
		want string
	}{
		{0o660, "add the daemon's user to the group " + g.Name},
		{0o600, "it is another user's; run the daemon as that user"},
	} {
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		got := d.unixError(path, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)}).Error()
		if !strings.HasPrefix(got, "permission denied on "+path+"; "+c.want) {
			t.Errorf("mode %v: got %q", c.mode, got)
		}
	}
}

// serve listens on a port of this machine and handles its connections.
func serve(t *testing.T, handle func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, handle)
	return l.Addr().String()
}

func serveOn(t *testing.T, l net.Listener, handle func(net.Conn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// forward copies both ways between c and an engine's socket.
func forward(c net.Conn, socket string) {
	up, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer up.Close()
	go func() {
		io.Copy(up, c)
		up.(*net.UnixConn).CloseWrite()
	}()
	io.Copy(c, up)
}

// A pki is a folder as DOCKER_CERT_PATH names it, and the server's side.
type pki struct {
	dir    string
	server *tls.Config
}

// newPKI makes a CA, a certificate for a host, and one for a client.
func newPKI(t *testing.T, host string) pki {
	t.Helper()
	dir := t.TempDir()
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sign := func(c, by *x509.Certificate, k, byKey *ecdsa.PrivateKey) []byte {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, by, &k.PublicKey, byKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	caKey, serverKey, clientKey := newKey(), newKey(), newKey()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	write("ca.pem", "CERTIFICATE", sign(ca, ca, caKey, caKey))
	client := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "client"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	write("cert.pem", "CERTIFICATE", sign(client, ca, clientKey, caKey))
	der, err := x509.MarshalECPrivateKey(clientKey)
	if err != nil {
		t.Fatal(err)
	}
	write("key.pem", "EC PRIVATE KEY", der)
	server := &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.ParseIP(host)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	serverDER := sign(server, ca, serverKey, caKey)
	pool := x509.NewCertPool()
	caPEM, _ := os.ReadFile(filepath.Join(dir, "ca.pem"))
	pool.AppendCertsFromPEM(caPEM)
	return pki{dir, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{serverDER}, PrivateKey: serverKey}},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
	}}
}

// TestTLS: a sandbox over tcp with certificates on both sides, and what goes
// wrong with them.
func TestTLS(t *testing.T) {
	host := dockertest.Docker(t)
	socket, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		t.Skip("needs a local engine")
	}
	p := newPKI(t, "127.0.0.1")
	l, err := tls.Listen("tcp", "127.0.0.1:0", p.server)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, func(c net.Conn) { forward(c, socket) })
	addr := "tcp://" + l.Addr().String()

	t.Setenv("DOCKER_TLS_VERIFY", "")
	t.Setenv("DOCKER_CERT_PATH", p.dir)
	dockertest.Image(t, host)
	b := openBackend(t, host, func(_ *backends.Spec, o *Options) { o.DockerHost = Hosts{addr} })
	if got, _ := sh(t, create(t, b), "echo ok"); got != "ok\n" {
		t.Errorf("got %q", got)
	}

	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	for _, c := range []struct{ name, addr, dir, want string }{
		{"OtherCA", addr, newPKI(t, "127.0.0.1").dir, "certificate signed by unknown authority"},
		{"NoCertificates", "tcp://" + secure.Listener.Addr().String(), "", "the engine wants TLS; set DOCKER_CERT_PATH"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("DOCKER_CERT_PATH", c.dir)
			o := defaults()
			o.DockerHost = Hosts{c.addr}
			b, err := Driver.Open(backends.Spec{Profile: "p"}, o, discard)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if err := b.Check(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// fakeSSH is ssh -N -L for the tests: it forwards to a socket of this machine,
// or refuses when it is asked for the host "refuse.test".
func fakeSSH(args []string) int {
	if args[len(args)-1] == "refuse.test" {
		fmt.Fprintln(os.Stderr, "nobody@refuse.test: Permission denied (publickey).")
		return 255
	}
	i := slices.Index(args, "-L")
	here, there, _ := strings.Cut(args[i+1], ":")
	l, err := net.Listen("unix", here)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 255
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return 255
		}
		go func() {
			if _, err := os.Stat(there); err != nil {
				fmt.Fprintln(os.Stderr, "channel 1: open failed: connect failed: open failed")
			}
			forward(c, there)
			c.Close()
		}()
	}
}

// useFakeSSH puts fakeSSH in front of the real one.
func useFakeSSH(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "ssh")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("TMPDIR", t.TempDir())
}

// TestSSH: a sandbox through a tunnel; one ssh for all connections, started
// again when it ended, and gone with the backend.
func TestSSH(t *testing.T) {
	host := dockertest.Docker(t)
	socket, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		t.Skip("needs a local engine")
	}
	dockertest.Image(t, host)
	useFakeSSH(t)
	d := newDialer([]string{"ssh://me@engine.test:22" + socket}, "docker")
	for range 3 {
		c, err := d.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	first := d.tunnel.exited
	d.tunnel.cancel()
	<-first
	c, err := d.dial(t.Context())
	if err != nil {
		t.Fatalf("after ssh ended: %v", err)
	}
	c.Close()
	if err := d.close(); err != nil {
		t.Error(err)
	}
	select {
	case <-d.tunnel.exited:
	default:
		t.Error("ssh runs on")
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := d.dial(t.Context()); err == nil {
		t.Error("a closed dialer dials")
	}

	b := openBackend(t, host, func(_ *backends.Spec, o *Options) { o.DockerHost = Hosts{"ssh://engine.test" + socket} })
	if got, _ := sh(t, create(t, b), "echo ok"); got != "ok\n" {
		t.Errorf("got %q", got)
	}
}

// TestSSHRefused: what ssh says is what the operator reads, and a dial that
// nobody waits for any more ends.
func TestSSHRefused(t *testing.T) {
	useFakeSSH(t)
	d := newDialer([]string{"ssh://nobody@refuse.test"}, "docker")
	defer d.close()
	_, err := d.dial(t.Context())
	want := "cannot reach ssh://nobody@refuse.test: ssh ended: nobody@refuse.test: Permission denied (publickey)."
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.dial(ctx); err == nil {
		t.Error("got no error")
	}

	// ssh lets us in, and there is no engine. Either ssh's own words come
	// first, or that it hung up.
	o := defaults()
	o.DockerHost = Hosts{"ssh://engine.test/no/such.sock"}
	b, err := Driver.Open(backends.Spec{Profile: "p"}, o, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Check(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "ssh cannot reach /no/such.sock at the other side: ") && !strings.HasPrefix(err.Error(), "the engine broke the connection off: ") {
		t.Errorf("got %v", err)
	}
}
