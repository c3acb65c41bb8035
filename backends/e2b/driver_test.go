package e2b

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

func TestValidate(t *testing.T) {
	if err := defaults().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for _, k := range []struct {
		set  func(*Options)
		want string // "" = it is fine
	}{
		{func(o *Options) { o.APIKey = "e2b_x" }, ""},
		{func(o *Options) { o.APIKey = "two words" }, "e2b_api_key: it has blanks"},
		{func(o *Options) { o.APIKey, o.APIKeyFile = "x", "/x" }, "e2b_api_key_file: cannot be used together with e2b_api_key"},
		{func(o *Options) { o.APIKeyFile = "e2b-key" }, ""},
		{func(o *Options) { o.APIKeyFile = "keys/e2b" }, `e2b_api_key_file: "keys/e2b" is neither an absolute path`},
		{func(o *Options) { o.APIKeyFile = ".." }, `e2b_api_key_file: ".."`},
		{func(o *Options) { o.Template = "team/my-template:v2" }, ""},
		{func(o *Options) { o.Template = "" }, `e2b_template: "" is not the name`},
		{func(o *Options) { o.Template = "a b" }, `e2b_template: "a b" is not the name`},
		{func(o *Options) { o.SandboxTimeout = backends.Duration(30 * time.Second) }, "e2b_sandbox_timeout: 30s is out of range; it is from 60s to 86400s"},
		{func(o *Options) { o.SandboxTimeout = backends.Duration(25 * time.Hour) }, "e2b_sandbox_timeout: 90000s is out of range"},
		{func(o *Options) { o.SandboxTimeout = backends.Duration(90500 * time.Millisecond) }, "has a fraction of a second"},
		{func(o *Options) { o.Metadata = map[string]string{"team": "a"} }, ""},
		{func(o *Options) { o.Metadata = map[string]string{"kilntainers.boot": "a"} }, `e2b_metadata: "kilntainers.boot" is a name that`},
		{func(o *Options) { o.AllowOut = []string{"*.example.com", "10.1.2.3", "2001:db8::/32"} }, ""},
		{func(o *Options) { o.AllowOut = []string{"https://example.com"} }, `e2b_allow_out: "https://example.com" is not an address`},
		{func(o *Options) { o.DenyOut = []string{"example.com"} }, `e2b_deny_out: "example.com" is not an address`},
		{func(o *Options) { o.Domain = "sandboxes.example.com:8443" }, ""},
		{func(o *Options) { o.Domain = "https://e2b.app" }, `domain: "https://e2b.app" is not a domain`},
		{func(o *Options) { o.APIURL = "http://10.0.0.1:3000" }, ""},
		{func(o *Options) { o.APIURL = "10.0.0.1:3000" }, "api_url: it is not an http or https address"},
		{func(o *Options) { o.APIURL = "https://me:secret@example.com" }, "api_url: an address holds no user"},
		{func(o *Options) { o.SandboxURL = "https://example.com?x" }, "sandbox_url: it has more than a host"},
	} {
		o := defaults()
		k.set(o)
		err := o.Validate()
		if k.want == "" && err != nil || k.want != "" && (err == nil || !strings.Contains(err.Error(), k.want)) {
			t.Errorf("got %v, want %q", err, k.want)
		}
		if oe := (*backends.OptionError)(nil); err != nil && !errors.As(err, &oe) {
			t.Errorf("%v is no OptionError", err)
		}
		if err != nil && strings.Contains(err.Error(), "secret@") {
			t.Errorf("%v shows a password", err)
		}
	}
}

// Rules for a network want one.
func TestOpen(t *testing.T) {
	o := defaults()
	o.AllowOut = []string{"example.com"}
	_, err := Driver.Open(backends.Spec{}, o, slog.New(slog.DiscardHandler))
	if oe := (*backends.OptionError)(nil); !errors.As(err, &oe) || oe.Key != "e2b_allow_out" {
		t.Errorf("got %v", err)
	}
	if _, err := Driver.Open(backends.Spec{Network: true}, o, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("with a network: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	o := defaults()
	o.Template = "python-data"
	for _, k := range []struct {
		spec backends.Spec
		set  func()
		want []string
	}{
		{backends.Spec{}, func() {}, []string{"E2B template python-data", "bash", "No network access", "persist|stay"}},
		{backends.Spec{Network: true, Shell: "/bin/zsh"}, func() {}, []string{"/bin/zsh", "It has network access."}},
		{backends.Spec{Network: true}, func() { o.DenyOut = []string{"10.0.0.0/8"} }, []string{"except to 10.0.0.0/8"}},
		{backends.Spec{Network: true}, func() { o.AllowOut = []string{"pypi.org"} }, []string{"nothing but pypi.org"}},
	} {
		k.set()
		got := describe(k.spec, o)
		for _, want := range k.want {
			if !slices.ContainsFunc(strings.Split(want, "|"), func(w string) bool { return strings.Contains(got, w) }) {
				t.Errorf("got %q, want %q in it", got, want)
			}
		}
	}
}

func TestKey(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", "e2b_file\n", 0o640)
	for _, k := range []struct {
		name              string
		o                 Options
		env, credentials  string
		want, wantProblem string
	}{
		{"by value", Options{APIKey: "e2b_value"}, "e2b_env", "", "e2b_value", ""},
		{"a file", Options{APIKeyFile: good}, "e2b_env", "", "e2b_file", ""},
		{"a credential", Options{APIKeyFile: "good"}, "", dir, "e2b_file", ""},
		{"a credential without systemd", Options{APIKeyFile: "good"}, "", "", "", "LoadCredential="},
		{"the environment", Options{}, "e2b_env ", "", "e2b_env", ""},
		{"nothing", Options{}, "", "", "", "there is no API key"},
		{"a bad environment", Options{}, "e2b env", "", "", "$E2B_API_KEY: it has blanks"},
		{"no file", Options{APIKeyFile: filepath.Join(dir, "missing")}, "", "", "", "no such file"},
		{"a directory", Options{APIKeyFile: dir}, "", "", "", "is not a file"},
		{"a file for all", Options{APIKeyFile: file("open", "e2b_file", 0o644)}, "", "", "", "chmod o="},
		{"an empty file", Options{APIKeyFile: file("empty", "\n", 0o600)}, "", "", "", "it is empty"},
		{"another file", Options{APIKeyFile: file("other", "e2b_file\nmore\n", 0o600)}, "", "", "", "it has blanks"},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Setenv(keyVariable, k.env)
			t.Setenv("CREDENTIALS_DIRECTORY", k.credentials)
			got, err := k.o.key()
			if string(got) != k.want || (err == nil) != (k.wantProblem == "") || err != nil && !strings.Contains(err.Error(), k.wantProblem) {
				t.Errorf("got %q, %v; want %q, %q", string(got), err, k.want, k.wantProblem)
			}
			if err != nil && strings.Contains(err.Error(), "e2b_file") {
				t.Errorf("%v shows the key", err)
			}
		})
	}
}

// Options, and what else holds a secret, can be printed in any way.
func TestSecretIsNotPrinted(t *testing.T) {
	const secret = "5ecre7"
	var all bytes.Buffer
	for _, v := range []any{Secret(secret), &Options{APIKey: secret}, Options{APIKey: secret}, created{Token: secret}, listed{Token: secret}} {
		fmt.Fprintf(&all, "%v %+v %#v %s\n", v, v, v, v)
		slog.New(slog.NewTextHandler(&all, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&all, nil)).Info("x", "v", v)
		if err := json.NewEncoder(&all).Encode(v); err != nil {
			t.Error(err)
		}
	}
	if strings.Contains(all.String(), secret) || strings.Count(all.String(), redacted) < 20 {
		t.Errorf("got %s", &all)
	}
}

// Five at once, then five a second, and none while the service said to wait.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		began := time.Now()
		for i := range 20 {
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got, want := time.Since(began), max(0, time.Duration(i-createBurst+1))*createInterval; got != want {
				t.Errorf("creation %d came after %v, want %v", i, got, want)
			}
		}
		time.Sleep(time.Hour)
		p.hold(7 * time.Second)
		began = time.Now()
		if err := p.wait(t.Context()); err != nil || time.Since(began) != 7*time.Second {
			t.Errorf("held for %v, %v; want 7s", time.Since(began), err)
		}
		p.hold(time.Hour)
		why := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		if err := p.wait(ctx); !errors.Is(err, why) {
			t.Errorf("got %v, want %v", err, why)
		}
	})
}

// A call is tried again with growing patience, no sooner than the service
// says, and not for ever.
func TestRepeat(t *testing.T) {
	refusal := func(status int, after time.Duration) error { return &apiError{Status: status, After: after} }
	for _, k := range []struct {
		name     string
		worth    func(error) bool
		err      error
		tries    int
		min, max time.Duration
	}{
		{"trouble", again, refusal(500, 0), maxTries, 3 * time.Second, 4 * time.Second},
		{"a lost call", again, &lostError{sent: true}, maxTries, 3 * time.Second, 4 * time.Second},
		{"a rate limit", again, refusal(429, 2*time.Second), maxTries, 8 * time.Second, 10 * time.Second},
		{"a long rate limit", again, refusal(429, time.Hour), 1, 0, 0},
		{"a limit", again, refusal(429, 0), 1, 0, 0},
		{"a change under way", again, refusal(409, 0), maxTries, 3 * time.Second, 4 * time.Second},
		{"a refusal", again, refusal(404, 0), 1, 0, 0},
		{"a creation, lost", unmade, &lostError{sent: true}, 1, 0, 0},
		{"a creation, not sent", unmade, &lostError{}, maxTries, 3 * time.Second, 4 * time.Second},
		{"a creation, trouble", unmade, refusal(500, 0), 1, 0, 0},
		{"a creation, busy", unmade, refusal(503, 0), maxTries, 3 * time.Second, 4 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			began, tries := time.Now(), 0
			err := repeat(t.Context(), k.worth, func() error { tries++; return k.err })
			if took := time.Since(began); err != k.err || tries != k.tries || took < k.min || took > k.max {
				t.Errorf("%s: %d tries in %v, %v; want %d in %v to %v", k.name, tries, took, err, k.tries, k.min, k.max)
			}
		})
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		" a\r\n\tb\x00\x1b[31m ":  "a b [31m",
		"\xff":                    "\uFFFD",
		strings.Repeat("ü", 1000): strings.Repeat("ü", 300) + "…",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("%.20q: got %q, want %q", in, got, want)
		}
	}
}
