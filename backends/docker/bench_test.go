package docker

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
	"github.com/kilntainers/kilntainers/backends/pool"
)

func BenchmarkDocker(b *testing.B) {
	host := dockertest.Docker(b)
	backendtest.Bench(b, target(host, dockertest.Image(b, host)))
}

func BenchmarkPodman(b *testing.B) {
	host := dockertest.Podman(b)
	backendtest.Bench(b, target(host, dockertest.Image(b, host)))
}

// BenchmarkBeside compares with what it is to replace, in one run:
//
//	Create  a sandbox, against the engine's own create and start of an idle
//	        container of the same configuration (x-engine)
//	Exec    bash -c 'echo hi', against the same by docker exec (x-cli) and by
//	        fork and exec on this machine (x-host)
func BenchmarkBeside(b *testing.B) {
	for _, e := range []struct {
		name string
		host func(testing.TB) string
	}{{"Docker", dockertest.Docker}, {"Podman", dockertest.Podman}} {
		b.Run(e.name, func(b *testing.B) { benchBeside(b, e.host(b)) })
	}
}

// BenchmarkPool is what the first call of a session waits for when a sandbox
// is warm: taking it and running bash in it.
func BenchmarkPool(b *testing.B) {
	host := dockertest.Docker(b)
	p := pool.New(openBackend(b, host, nil), pool.Options{Size: 2})
	ctx := context.Background()
	var took []time.Duration
	for b.Loop() {
		for p.Warm() == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		var s backends.Sandbox
		took = append(took, span(func() {
			var err error
			if s, err = p.Create(ctx); err != nil {
				b.Fatal(err)
			}
			if _, err := s.Exec(ctx, backends.Exec{Command: "echo hi"}); err != nil {
				b.Fatal(err)
			}
		}))
		if err := s.Close(ctx); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(took), "p50-ms")
	if err := p.Close(); err != nil {
		b.Fatal(err)
	}
}

func benchBeside(b *testing.B, host string) {
	back := openBackend(b, host, nil)
	warm := create(b, back) // the agent is in its volume now
	ctx := context.Background()
	b.Run("Create", func(b *testing.B) {
		var ours, theirs []time.Duration
		for b.Loop() {
			var s backends.Sandbox
			ours = append(ours, span(func() {
				var err error
				if s, err = back.Create(ctx); err != nil {
					b.Fatal(err)
				}
			}))
			if err := s.Close(ctx); err != nil {
				b.Fatal(err)
			}
			theirs = append(theirs, idle(b, back))
		}
		b.ReportMetric(ms(ours), "p50-ms")
		b.ReportMetric(ms(theirs), "engine-ms")
		b.ReportMetric(ms(ours)/ms(theirs), "x-engine")
	})
	b.Run("Exec", func(b *testing.B) {
		var ours, cli, here []time.Duration
		for b.Loop() {
			var out bytes.Buffer
			ours = append(ours, span(func() {
				if _, err := warm.Exec(ctx, backends.Exec{Args: []string{"bash", "-c", "echo hi"}, Stdout: &out}); err != nil || out.String() != "hi\n" {
					b.Fatal(out.String(), err)
				}
			}))
			here = append(here, span(func() { command(b, "bash", "-c", "echo hi") }))
		}
		// Not between the others: engines are busy for a while after an exec.
		for range 20 {
			cli = append(cli, span(func() {
				command(b, "docker", "-H", host, "exec", warm.id, "bash", "-c", "echo hi")
			}))
		}
		b.ReportMetric(ms(ours), "p50-ms")
		b.ReportMetric(ms(here), "host-ms")
		b.ReportMetric(ms(cli), "cli-ms")
		b.ReportMetric(ms(ours)/ms(here), "x-host")
		b.ReportMetric(ms(cli)/ms(ours), "x-cli")
	})
}

// idle makes, starts and removes a container like a sandbox, but one that
// sleeps, and returns the time of the first two.
func idle(b *testing.B, back *Backend) time.Duration {
	ctx := context.Background()
	e := back.engines[0]
	name := back.newName()
	r := newRequest(back.spec, back.options, name)
	if k, err := e.what(ctx); err != nil {
		b.Fatal(err)
	} else if k.podman {
		r.forPodman(back.flags, "")
	}
	r.config.Entrypoint = []string{"sleep", "60"}
	took := span(func() {
		if _, err := e.ContainerCreate(ctx, r.config, r.host, nil, nil, name); err != nil {
			b.Fatal(err)
		}
		if err := e.ContainerStart(ctx, name, container.StartOptions{}); err != nil {
			b.Fatal(err)
		}
	})
	if err := e.remove(ctx, name); err != nil {
		b.Fatal(err)
	}
	return took
}

func span(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func command(b *testing.B, args ...string) {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "hi" {
		b.Fatal(fmt.Errorf("%s: %w: %s", args, err, out))
	}
}

// ms is the median in milliseconds.
func ms(d []time.Duration) float64 {
	d = slices.Sorted(slices.Values(d))
	return float64(d[len(d)/2].Microseconds()) / 1000
}
