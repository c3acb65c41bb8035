package wasm

import (
	"os"
	"testing"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
)

// The tests share one kernel and its cache, which lasts for one run.
var drivers backends.Drivers

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "wasm-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		drivers = Drivers(func() string { return dir })
		return m.Run()
	}())
}

func driver(t testing.TB, name string) backends.Driver {
	d, found := drivers.Lookup(name)
	if !found {
		t.Fatalf("there is no driver %s", name)
	}
	return d
}

func TestBusyboxConformance(t *testing.T) {
	backendtest.Run(t, backendtest.Target{
		Driver: driver(t, "go_busybox"),
		Limits: backendtest.Limits{Memory: 256 << 20, Pids: maxProcesses},
	})
}
