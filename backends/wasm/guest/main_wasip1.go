package main

import (
	"os"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// main is for runtimes that start the program as a plain command.
func main() { os.Exit(run()) }

// kilnMain is called in a copy of the memory that package initialisation left:
// ABI.md section 6.
//
//go:wasmexport kiln_main
func kilnMain() {
	sys.Begin()
	os.Exit(run())
}

// self is the file of this program.
func self() string { return "/bin/busybox" }
