package main

import (
	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/docker"
)

// drivers are the backends of this build. A build with others is a copy of
// this command with another list.
var drivers = backends.Drivers{
	docker.Driver,
}
