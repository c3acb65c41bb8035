package main

import (
	"sync/atomic"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/docker"
	"github.com/kilntainers/kilntainers/backends/e2b"
	"github.com/kilntainers/kilntainers/backends/wasm"
)

// cacheDir is where the daemon's caches belong, once it knows.
var cacheDir atomic.Value

// drivers are the backends of this build. A build with others is a copy of
// this command with another list.
var drivers = append(backends.Drivers{
	docker.Driver,
	e2b.Driver,
}, wasm.Drivers(func() string { dir, _ := cacheDir.Load().(string); return dir })...)
