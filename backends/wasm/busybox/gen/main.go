// Command gen builds ../guest into the files of ../busybox/module. It is run
// by go generate, in the directory of package busybox.
//
// What it makes depends on the sources and on the version of Go alone.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/kilntainers/kilntainers/backends/wasm/kernel"
)

// partSize is less than 1 MiB, the most a file of the repository may have.
const partSize = 1000 << 10

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	wasm, err := build(ctx)
	if err != nil {
		return err
	}
	applets, err := list(ctx, wasm)
	if err != nil {
		return err
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	packed := z.EncodeAll(wasm, nil)

	old, err := filepath.Glob("module/*")
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("module", 0o755); err != nil {
		return err
	}
	for i := 0; len(packed) > 0; i++ {
		n := min(len(packed), partSize)
		if err := os.WriteFile(fmt.Sprintf("module/busybox.wasm.zst.%d", i), packed[:n], 0o644); err != nil {
			return err
		}
		packed = packed[n:]
	}
	return os.WriteFile("module/applets.txt", applets, 0o644)
}

// build compiles the guest. See ABI.md, 6, for why it is built as a library.
func build(ctx context.Context) ([]byte, error) {
	dir, err := os.MkdirTemp("", "busybox-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "busybox.wasm")
	run := func(env []string, args ...string) error {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = filepath.Join("..", "guest")
		cmd.Env = append(append(os.Environ(), "GOFLAGS=-mod=readonly", "CGO_ENABLED=0"), env...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		return cmd.Run()
	}
	// What the guest needs and Go's library for wasip1 lacks.
	if err := run(nil, "run", "./overlay", dir); err != nil {
		return nil, fmt.Errorf("write overlay: %w", err)
	}
	err = run([]string{"GOOS=wasip1", "GOARCH=wasm", "GOWASM="}, "build", "-trimpath", "-buildvcs=false",
		"-overlay", filepath.Join(dir, "overlay.json"), "-buildmode=c-shared", "-ldflags=-s -w", "-o", out, ".")
	if err != nil {
		return nil, fmt.Errorf("build guest: %w", err)
	}
	return os.ReadFile(out)
}

// list asks the module which commands it has.
func list(ctx context.Context, wasm []byte) ([]byte, error) {
	k, err := kernel.New("", slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return nil, err
	}
	defer k.Close()
	g, err := k.Load(ctx, wasm, kernel.LoadOptions{})
	if err != nil {
		return nil, err
	}
	defer k.Release(g)
	sb := k.NewSandbox(kernel.Limits{Memory: 256 << 20, Bytes: 1 << 20, Inodes: 100, Processes: 4, Files: 64},
		[]kernel.File{{Path: "/bin", Dir: true}, {Path: "/bin/busybox", Program: g}})
	defer sb.Close()
	var out bytes.Buffer
	r, err := sb.Exec(ctx, kernel.Command{Argv: []string{"/bin/busybox", "--list"}, Dir: "/", Stdout: &out, Stderr: os.Stderr})
	if err != nil {
		return nil, err
	}
	if r.Status != 0 || out.Len() == 0 {
		return nil, fmt.Errorf("busybox --list: status %d, %d bytes", r.Status, out.Len())
	}
	return out.Bytes(), nil
}
