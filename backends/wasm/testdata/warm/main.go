// Command warm fills the cache directory that is its first argument, for the
// tests: under the race detector they would compile for minutes. Other arguments
// are modules; without them it is busybox.
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
	drivers := backends.Drivers(wasm.Drivers(func() string { return os.Args[1] }))
	for _, path := range os.Args[2:] {
		d, _ := drivers.Lookup("wasm")
		o := d.Options().(*wasm.ModuleOptions)
		o.Path = path
		load(d, o)
	}
	if len(os.Args) > 2 {
		return
	}
	d, _ := drivers.Lookup("go_busybox")
	counted := d.Options().(*wasm.BusyboxOptions)
	counted.Fuel = 1
	load(d, d.Options())
	load(d, counted)
}

func load(d backends.Driver, o backends.Options) {
	b, err := d.Open(backends.Spec{Profile: "warm"}, o, slog.New(slog.DiscardHandler))
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	if err := b.Check(context.Background()); err != nil {
		log.Fatal(err)
	}
}
