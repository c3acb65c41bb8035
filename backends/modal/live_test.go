package modal

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// What only Modal itself can show. It makes two sandboxes, one after the other,
// of which Modal ends each after two minutes whatever happens here.
func TestLive(t *testing.T) {
	if os.Getenv("MODAL_TOKEN_ID") == "" || os.Getenv("MODAL_TOKEN_SECRET") == "" {
		const how = "needs an account at Modal; set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET (it costs a few cents)"
		if slices.Contains(strings.Split(os.Getenv("KILNTAINERS_TEST_REQUIRE"), ","), "modal") {
			t.Fatal(how)
		}
		t.Skip(how)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // most of it for the image
	defer cancel()
	owner := backends.Owner{Instance: "test-" + rand.Text(), Boot: "1"}
	o := defaults()
	o.AppName = "kilntainers-test"
	o.Image = "debian:bookworm-slim"
	o.SandboxTimeout = backends.Duration(2 * time.Minute)
	b := open(backends.Spec{Profile: "test", Owner: owner}, o, slog.New(slog.NewTextHandler(t.Output(), nil)))
	defer b.Close()
	create := func() backends.Sandbox {
		begin := time.Now()
		s, err := b.Create(ctx)
		if err != nil {
			t.Fatalf("create: %v", err)
		}
		t.Logf("create: %v", time.Since(begin))
		return s
	}

	s := create()
	defer s.Close(context.Background())
	run := func(ctx context.Context, e backends.Exec) (string, string, backends.Exit, error) {
		var out, said bytes.Buffer
		e.Stderr = &said
		if e.Stdout == nil {
			e.Stdout = &out
		}
		begin := time.Now()
		exit, err := s.Exec(ctx, e)
		t.Logf("%.60q: %v", e.Command, time.Since(begin))
		return out.String(), said.String(), exit, err
	}
	for _, k := range []struct {
		command   string
		stdin     string
		out, said string
		code      int
	}{
		{"echo out; echo err >&2; exit 7", "", "out\n", "err\n", 7},
		{"wc -c", strings.Repeat("x", 1<<20), "1048576\n", "", 0},
		{"kill -TERM $$", "", "", "", 143},
		{"cat /proc/self/stat | wc -w", "", "52\n", "", 0}, // what killScript reads
		{"(sleep 100 &) ; echo at once", "", "at once\n", "", 0},
	} {
		e := backends.Exec{Command: k.command}
		if k.stdin != "" {
			e.Stdin = strings.NewReader(k.stdin)
		}
		out, said, exit, err := run(ctx, e)
		if err != nil || out != k.out || said != k.said || exit.Code != k.code {
			t.Errorf("%q: got %q, %q, %+v, %v", k.command, out, said, exit, err)
		}
	}
	short, cancelShort := context.WithTimeout(ctx, 2*time.Second)
	defer cancelShort()
	_, _, _, err := run(short, backends.Exec{Command: "setsid sleep 4711 & (sleep 4711 &); env -i /bin/sleep 4711 & wait; sleep 4711"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command that takes too long: got %v", err)
	}
	out, _, _, err := run(ctx, backends.Exec{Command: "grep -l '471[1]' /proc/[0-9]*/cmdline; true"})
	if err != nil || out != "" {
		t.Errorf("it left %q; %v", out, err)
	}

	// From one daemon to the next.
	go s.Exec(ctx, backends.Exec{Command: "setsid sleep 4713 & sleep 4713"})
	if _, _, _, err := run(ctx, backends.Exec{Command: "sleep 4712 & setsid sleep 4712 & until grep -qs '471[3]' /proc/[0-9]*/cmdline; do sleep 0.1; done"}); err != nil {
		t.Error(err)
	}
	ticket, err := s.Ticket()
	if err != nil {
		t.Fatal(err)
	}
	s.Leave()
	if s, err = b.Adopt(ctx, ticket); err != nil {
		t.Fatalf("adopt: %v", err)
	}
	out, _, _, err = run(ctx, backends.Exec{Command: "grep -l '471[2]' /proc/[0-9]*/cmdline | wc -l; grep -l '471[3]' /proc/[0-9]*/cmdline | wc -l"})
	if err != nil || out != "2\n0\n" {
		t.Errorf("what had ended and what ran left %q; %v", out, err)
	}
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}

	s = create()
	defer s.Close(context.Background())
	owner.Boot = "2"
	found, err := sweep(ctx, backends.Sweep{Owner: owner, Options: []backends.Options{o}, Log: slog.New(slog.DiscardHandler)})
	if err != nil || len(found) != 1 || found[0].ID != s.ID() || !found[0].Removed {
		t.Errorf("sweep: got %+v, %v, want %s", found, err, s.ID())
	}
	_, _, _, err = run(ctx, backends.Exec{Command: "true"})
	if !errors.Is(err, backends.ErrGone) {
		t.Errorf("after the sweep: got %v", err)
	}
}
