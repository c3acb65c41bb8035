package modal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// Each bad value is an OptionError of its key that says what would be right.
func TestValidate(t *testing.T) {
	if err := defaults().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for _, k := range []struct {
		set  func(*Options)
		key  string
		want string
	}{
		{func(o *Options) { o.TokenID = "ak-1" }, "modal_token_secret", "is missing"},
		{func(o *Options) { o.TokenSecretFile = "/x" }, "modal_token_id", "is missing"},
		{func(o *Options) { o.TokenID, o.TokenIDFile, o.TokenSecret = "ak-1", "/x", "as-1" }, "modal_token_id_file", "together with modal_token_id"},
		{func(o *Options) { o.TokenID, o.TokenSecret = "ak-1", "as 1" }, "modal_token_secret", "blanks"},
		{func(o *Options) { o.TokenIDFile, o.TokenSecretFile = "./id", "secret" }, "modal_token_id_file", "neither an absolute path"},
		{func(o *Options) { o.AppName = "" }, "modal_app_name", "64 letters"},
		{func(o *Options) { o.AppName = "a b" }, "modal_app_name", "64 letters"},
		{func(o *Options) { o.CPU = 0 }, "modal_cpu", "0.5"},
		{func(o *Options) { o.CPU = -1 }, "modal_cpu", "0.5"},
		{func(o *Options) { o.Memory = 8 }, "modal_memory", "MiB from 64 on"},
		{func(o *Options) { o.Memory = 1 << 40 }, "modal_memory", "out of range"},
		{func(o *Options) { o.GPU = "A100:0" }, "gpu", "how many"},
		{func(o *Options) { o.GPU = "A 100" }, "gpu", "how many"},
		{func(o *Options) { o.Region = "US East" }, "region", "us-east"},
		{func(o *Options) { o.Image = "debian\nRUN evil" }, "image", "docker pull"},
		{func(o *Options) { o.Image = "debian AS x" }, "image", "docker pull"},
		{func(o *Options) { o.Secrets = []string{"ok", "not ok"} }, "modal_secrets", "not ok"},
		{func(o *Options) { o.SandboxTimeout = backends.Duration(1500 * time.Millisecond) }, "sandbox_timeout", "whole seconds"},
		{func(o *Options) { o.SandboxTimeout = 0 }, "sandbox_timeout", "24 hours"},
		{func(o *Options) { o.SandboxTimeout = backends.Duration(25 * time.Hour) }, "sandbox_timeout", "24 hours"},
	} {
		o := defaults()
		k.set(o)
		err := o.Validate()
		var oe *backends.OptionError
		if !errors.As(err, &oe) || oe.Key != k.key || !strings.Contains(err.Error(), k.want) {
			t.Errorf("got %v, want %s: …%s…", err, k.key, k.want)
		}
	}
	o := defaults()
	o.GPU, o.Region, o.Image, o.Memory = "a100-80gb:4", "eu-west-1", "ghcr.io/a/b:1@sha256:abc", 1<<20
	if err := o.Validate(); err != nil {
		t.Error(err)
	}
}

// Variables that Modal does not take are known when the profile is loaded.
func TestAgree(t *testing.T) {
	if err := Driver.Agree(backends.Spec{Env: map[string]string{"GOOD_1": "ü\n"}}, defaults()); err != nil {
		t.Error(err)
	}
	for name, value := range map[string]string{"bad-name": "", "1": "", "": "", "A": "\xff", "B": "a\x00"} {
		err := Driver.Agree(backends.Spec{Env: map[string]string{name: value}}, defaults())
		var oe *backends.OptionError
		if !errors.As(err, &oe) || oe.Key != "env" {
			t.Errorf("%q=%q: got %v", name, value, err)
		}
	}
}

func TestDescribe(t *testing.T) {
	o := defaults()
	o.GPU, o.CPU = "h100:2", 0.5
	for _, k := range []struct {
		spec backends.Spec
		o    *Options
		want string
	}{
		{backends.Spec{}, defaults(), "a container of the image python:3.13-slim-bookworm. Commands run in bash if the image has it, else in sh. No network access. " +
			"Limits: 1 CPU, 512m of memory. The sandbox ends 1h0m0s after its start at the latest. "},
		{backends.Spec{Network: true, Shell: "/bin/sh"}, o, "Commands run in /bin/sh. It has network access. Limits: 0.5 CPUs, 512m of memory, 2 GPU of type H100. "},
	} {
		if got := describe(k.spec, k.o); !strings.Contains(got, k.want) {
			t.Errorf("got %q, want …%q…", got, k.want)
		}
	}
}

func TestMiB(t *testing.T) {
	for _, k := range []struct {
		in   any
		want MiB // 0 = an error
	}{
		{int64(512), 512}, {"512m", 512}, {"2g", 2048}, {"2GiB", 2048}, {"1k", 0}, {"much", 0}, {1.5, 0}, {true, 0},
	} {
		var m MiB
		if err := m.UnmarshalTOML(k.in); m != k.want || (err == nil) != (k.want != 0) {
			t.Errorf("%v: got %v, %v, want %d", k.in, int64(m), err, k.want)
		}
	}
}

// A token's file is read without the newline at its end, and not when
// everybody may read it.
func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, k := range []struct {
		file string
		want string // in the error; "" = it is read
	}{
		{write("good", "ak-good\n", 0o640), ""},
		{"good", ""},
		{write("open", "ak-good\n", 0o644), "every user of this machine can read"},
		{"open", ""}, // systemd guards its directory
		{write("empty", "\n", 0o600), "it is empty"},
		{write("two", "ak-1\nas-1\n", 0o600), "blanks"},
		{dir, "not a file"},
		{"none", "no such file"},
	} {
		s, err := readSecret(k.file)
		if k.want == "" && (err != nil || s != "ak-good") || k.want != "" && (err == nil || !strings.Contains(err.Error(), k.want)) {
			t.Errorf("%s: got %q, %v, want %q", k.file, string(s), err, k.want)
		}
	}
	os.Unsetenv("CREDENTIALS_DIRECTORY")
	if _, err := readSecret("good"); err == nil || !strings.Contains(err.Error(), "LoadCredential=") {
		t.Errorf("without the directory: got %v", err)
	}
}

// What looks like a token is taken out too, whoever's it is.
func TestHide(t *testing.T) {
	tok := token{id: "strange-id", secret: "strange-secret"}
	got := tok.hide("strange-id and strange-secret, ak-AbCdEfGhIjKl, as-12345678; but task-1 and as-is stay")
	if want := "[redacted] and [redacted], [redacted], [redacted]; but task-1 and as-is stay"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := fmt.Sprintf("%v %+v %#v %s", tok, tok, tok, Secret("x")); strings.Contains(got, "strange") || strings.Contains(got, "x ") {
		t.Errorf("got %q", got)
	}
}
