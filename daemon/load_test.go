package daemon

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// openFiles counts the descriptors of this process.
func openFiles(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc, as Linux has it")
	}
	return len(fds)
}

// 1,000 idle sessions and 200 with a sandbox: no goroutine and no descriptor
// is left after they end.
func TestManySessions(t *testing.T) {
	r := start(t, onePython)
	r.wire("python", "").legacy().sh("true") // what is made once is made now
	goroutines, files := 0, openFiles(t)
	for range 20 { // what starts late starts now
		goroutines = max(goroutines, runtime.NumGoroutine())
		time.Sleep(10 * time.Millisecond)
	}
	wires := make([]*wire, 1200)
	var wg sync.WaitGroup
	for part := range 8 {
		wg.Go(func() {
			for i := part; i < len(wires); i += 8 {
				wires[i] = r.wire("python", "").legacy()
				if i%6 == 0 {
					wires[i].sh("true")
				}
			}
		})
	}
	wg.Wait()
	if n := r.fake.Live(); n != 201 {
		t.Errorf("%d sandboxes, want 201", n)
	}
	for _, w := range wires {
		_ = w.Close()
	}
	eventually(t, "the sandboxes are gone", func() bool { return r.fake.Live() == 1 })
	settle(t, goroutines)
	eventually(t, "the descriptors are closed", func() bool { return openFiles(t) <= files })
}

// BenchmarkIdleSession tells what a shim costs that does nothing: bytes of
// the daemon's heap and stacks. The client in the same process keeps a
// descriptor, which counts too.
func BenchmarkIdleSession(b *testing.B) {
	r := start(b, onePython)
	const n = 500
	for b.Loop() {
		before := memory()
		wires := make([]*wire, n)
		for i := range wires {
			wires[i] = r.wire("python", "").legacy()
			wires[i].lines = nil // the client's buffers
		}
		b.ReportMetric(float64(memory()-before)/n, "B/session")
		for _, w := range wires {
			_ = w.Close()
		}
	}
	b.ReportMetric(0, "ns/op")
}

// memory is what the heap and the stacks hold after a collection.
func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// BenchmarkThroughput is calls through the shim's connection from 16 clients
// at once, of a command that costs nothing. The clients share the machine.
func BenchmarkThroughput(b *testing.B) {
	r := start(b, onePython)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		w := r.wire("python", "").legacy()
		for pb.Next() {
			w.sh("true")
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

// BenchmarkReload is the time to put a configuration with 100 changed
// profiles in service, from reading the file on.
func BenchmarkReload(b *testing.B) {
	conf := func(i int) string {
		var s strings.Builder
		for p := range 100 {
			fmt.Fprintf(&s, "[profiles.p%d]\nbackend = \"fake\"\ndescription = \"edit %d\"\ntimeout = %d\n", p, i, 60+i%60)
		}
		return s.String()
	}
	r := start(b, conf(0))
	client := r.client()
	i := 0
	for b.Loop() {
		b.StopTimer()
		i++
		r.write(conf(i))
		b.StartTimer()
		res, err := client.Post("http://k/-/reload", "", nil)
		if err != nil || res.StatusCode != 200 {
			b.Fatal(res, err)
		}
		_ = res.Body.Close()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/reload")
	b.ReportMetric(0, "ns/op")
}
