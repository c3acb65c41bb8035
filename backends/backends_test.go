package backends

import (
	"context"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// The contract imports nothing but the standard library, so that a backend can
// be written against it alone.
func TestImportsOnlyTheStandardLibrary(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") {
				t.Errorf("%s imports %s", f.Name(), path)
			}
		}
	}
}

func TestGone(t *testing.T) {
	cause := errors.New("the engine answered 404")
	for _, k := range []struct {
		err    error
		text   string
		closed bool
	}{
		{ErrGone, "sandbox is gone", false},
		{ErrClosed, "sandbox is gone: closed", true},
		{&GoneError{}, "sandbox is gone", false},
		{&GoneError{Reason: "it ran out of memory (limit 1g)"}, "sandbox is gone: it ran out of memory (limit 1g)", false},
		{&GoneError{Reason: "removed from outside", Err: cause}, "sandbox is gone: removed from outside", false},
		{fmt.Errorf("exec: %w", &GoneError{Reason: "r"}), "exec: sandbox is gone: r", false},
	} {
		if k.err.Error() != k.text {
			t.Errorf("got %q, want %q", k.err, k.text)
		}
		if !errors.Is(k.err, ErrGone) {
			t.Errorf("%q is not ErrGone", k.err)
		}
		if errors.Is(k.err, ErrClosed) != k.closed {
			t.Errorf("%q is ErrClosed: %t, want %t", k.err, !k.closed, k.closed)
		}
	}
	// The technical cause is there for the log, and stays out of the text.
	err := error(&GoneError{Reason: "removed from outside", Err: cause})
	if !errors.Is(err, cause) || strings.Contains(err.Error(), "404") {
		t.Errorf("%q hides its cause, or shows it", err)
	}
	if errors.Is(errors.New("sandbox is gone"), ErrGone) || errors.Is(err, errors.New("other")) {
		t.Errorf("errors are told apart by text")
	}
}

func TestOptionError(t *testing.T) {
	err := error(&OptionError{Key: "memory", Problem: `"1x" is not a size; write "512m"`})
	if got, want := err.Error(), `memory: "1x" is not a size; write "512m"`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var o *OptionError
	if !errors.As(errors.Join(errors.New("x"), err), &o) || o.Key != "memory" {
		t.Errorf("an OptionError is not found among joined errors")
	}
}

func TestProgress(t *testing.T) {
	var got []Progress
	ctx := WithProgress(context.Background(), func(p Progress) { got = append(got, p) })
	inner := WithProgress(ctx, func(Progress) {})
	Report(context.Background(), Progress{Message: "nobody asked"})
	Report(inner, Progress{Message: "for the inner one"})
	want := Progress{Message: "pulling python:3.13-slim", Done: 3, Total: 10}
	Report(ctx, want)
	if !reflect.DeepEqual(got, []Progress{want}) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDrivers(t *testing.T) {
	ds := Drivers{{Name: "wasm"}, {Name: "docker"}, {Name: "e2b"}}
	if got, want := ds.Names(), []string{"docker", "e2b", "wasm"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if ds[0].Name != "wasm" {
		t.Errorf("Names changed the list")
	}
	if d, ok := ds.Lookup("docker"); !ok || d.Name != "docker" {
		t.Errorf("docker: got %q, %t", d.Name, ok)
	}
	for _, name := range []string{"", "Docker", "dock"} {
		if d, ok := ds.Lookup(name); ok || d.Name != "" {
			t.Errorf("%q: got %q, %t", name, d.Name, ok)
		}
	}
	if names := (Drivers{}).Names(); len(names) != 0 {
		t.Errorf("no drivers: got %v", names)
	}
}
