// Command warm fills the cache directory that is its argument, for the tests:
// under the race detector they would compile for minutes.
package main

import (
	"context"
	"log"
	"log/slog"
	"os"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/wasm"
)

func main() {
	d, _ := backends.Drivers(wasm.Drivers(func() string { return os.Args[1] })).Lookup("go_busybox")
	counted := d.Options().(*wasm.BusyboxOptions)
	counted.Fuel = 1
	for _, o := range []backends.Options{d.Options(), counted} {
		b, err := d.Open(backends.Spec{Profile: "warm"}, o, slog.New(slog.DiscardHandler))
		if err != nil {
			log.Fatal(err)
		}
		if err := b.Check(context.Background()); err != nil {
			log.Fatal(err)
		}
		b.Close()
	}
}
