package wasm

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
)

// BenchmarkBusybox reports create and exec in the words that every backend
// uses.
func BenchmarkBusybox(b *testing.B) {
	backendtest.Bench(b, backendtest.Target{Driver: driver(b, "go_busybox")})
}

// BenchmarkFigures are the figures that design.md, 10, sets for go_busybox.
func BenchmarkFigures(b *testing.B) {
	be := open(b, "go_busybox", nil, backends.Spec{})
	b.Run("echo", func(b *testing.B) { // ≤ 2 ms
		sb := create(b, be)
		for b.Loop() {
			sh(b, sb, "echo hi")
		}
	})
	b.Run("spawn", func(b *testing.B) { // ≤ 1 ms for each of ten processes
		sb := create(b, be)
		for b.Loop() {
			sh(b, sb, "for i in 1 2 3 4 5 6 7 8 9 10; do /bin/cat /dev/null; done")
		}
		b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N)/10, "ms/process")
	})
	b.Run("first", func(b *testing.B) { // create, exec, close
		for b.Loop() {
			sb, err := be.Create(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			sh(b, sb, "echo hi")
			sb.Close(b.Context())
		}
	})
	b.Run("hundred", func(b *testing.B) { // ≤ 0.3 s, ≤ 300 MiB
		debug.FreeOSMemory()
		before := resident(b)
		var all []backends.Sandbox
		for range 100 {
			all = append(all, create(b, be))
		}
		for b.Loop() {
			var wg sync.WaitGroup
			for _, sb := range all {
				wg.Go(func() { sh(b, sb, "echo hi") })
			}
			wg.Wait()
		}
		debug.FreeOSMemory()
		b.ReportMetric(float64(resident(b)-before)/1024, "MiB-more")
		b.ReportMetric(float64(resident(b))/1024, "MiB")
		runtime.KeepAlive(all)
	})
	b.Run("pipeline", func(b *testing.B) {
		sb := create(b, be)
		for b.Loop() {
			sh(b, sb, "seq 1 2000 | grep 7 | sort -rn | head -3")
		}
	})
}

// BenchmarkColdStart is the first exec after the daemon's start, with the
// compiled code in the cache: ≤ 0.6 s.
func BenchmarkColdStart(b *testing.B) {
	dir := b.TempDir()
	for i := range b.N + 1 {
		if i == 1 {
			b.ResetTimer()
		}
		ds := backends.Drivers(Drivers(func() string { return dir }))
		d, _ := ds.Lookup("go_busybox")
		be, err := d.Open(backends.Spec{}, d.Options(), testLog(b))
		if err != nil {
			b.Fatal(err)
		}
		sb, err := be.Create(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		sh(b, sb, "echo hi")
		sb.Close(b.Context())
		be.Close()
	}
	files, _ := filepath.Glob(filepath.Join(dir, "wasm", "*", "*"))
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(fi.Size())/(1<<20), "MiB-cache")
	}
}

// resident is the memory of this process in KiB.
func resident(b *testing.B) int {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip("needs /proc: ", err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		b.Fatal(err)
	}
	return n
}
