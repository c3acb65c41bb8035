// Package busybox holds the commands of the WebAssembly sandboxes: one module
// that is a shell, find, sed, awk, jq and all the others, by the name it is
// called with, like BusyBox.
//
// It is built from the sources in ../guest by "go generate", and kept here
// compressed, so that plain "go build" makes a daemon that has it.
package busybox

import (
	"bytes"
	"embed"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

//go:generate go run ./gen

// The module, compressed, in parts that are small enough for the repository,
// and the names of its commands, one a line.
//
//go:embed module
var files embed.FS

// Module returns the module. The caller does not change it.
var Module = sync.OnceValues(func() ([]byte, error) {
	parts, err := files.ReadDir("module")
	if err != nil {
		return nil, err
	}
	var packed []io.Reader
	for _, p := range parts { // in order of their names
		if strings.HasPrefix(p.Name(), "busybox.wasm.zst.") {
			b, err := files.ReadFile("module/" + p.Name())
			if err != nil {
				return nil, err
			}
			packed = append(packed, bytes.NewReader(b))
		}
	}
	z, err := zstd.NewReader(io.MultiReader(packed...), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	wasm, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("unpack the busybox module: %w", err)
	}
	return wasm, nil
})

// Applets returns the names of the commands, sorted.
func Applets() []string {
	b, err := files.ReadFile("module/applets.txt")
	if err != nil {
		panic(err) // it is embedded
	}
	return strings.Fields(string(b))
}
