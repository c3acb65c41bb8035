package docker

import (
	"context"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
)

// target is the driver on one engine, for the conformance suite.
func target(host, image string) backendtest.Target {
	options := func() *Options {
		o := defaults()
		o.DockerHost = Hosts{host}
		o.Image = image
		o.Memory = 256 << 20
		o.PidsLimit = 128
		return o
	}
	return backendtest.Target{
		Driver:  Driver,
		Options: func(testing.TB) backends.Options { return options() },
		Failing: func(testing.TB) backends.Options {
			o := options()
			o.User = "nobody-of-this-name" // found out at the start of the container
			return o
		},
		Leftovers: func(t testing.TB, o backends.Owner) []string { return leftovers(t, host, o.Instance) },
		Destroy: func(t testing.TB, o backends.Owner, id string) {
			c := dockertest.Client(t, host)
			defer c.Close()
			err := c.ContainerRemove(context.Background(), id, container.RemoveOptions{Force: true, RemoveVolumes: true})
			if err != nil {
				t.Error(err)
			}
		},
		Limits: backendtest.Limits{Memory: 256 << 20, Pids: 128},
	}
}

// leftovers lists the containers of an instance.
func leftovers(t testing.TB, host, instance string) (names []string) {
	t.Helper()
	c := dockertest.Client(t, host)
	defer c.Close() // at once: the suite counts goroutines
	list, err := c.ContainerList(context.Background(), container.ListOptions{
		All:     true,
		Filters: filters.NewArgs(filters.Arg("label", labelInstance+"="+instance)),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		names = append(names, c.Labels[labelSandbox]+" ("+c.State+")")
	}
	return names
}

func TestConformanceDocker(t *testing.T) {
	host := dockertest.Docker(t)
	backendtest.Run(t, target(host, dockertest.Image(t, host)))
}

func TestConformancePodman(t *testing.T) {
	host := dockertest.Podman(t)
	backendtest.Run(t, target(host, dockertest.Image(t, host)))
}
