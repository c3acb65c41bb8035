package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/daemon"
	"github.com/kilntainers/kilntainers/profiles"
)

// compiled are the backends that compile what they run. Their caches can be
// filled before the daemon starts, as a package does when it is installed.
var compiled = []string{"go_busybox", "wasm"}

// warm compiles the modules of a configuration into its cache, and those of
// go_busybox in any case: some profile may come.
func warm(ctx context.Context, path string, stdout io.Writer, log *slog.Logger) error {
	if path == "" {
		path = profiles.Find()
	}
	conf, err := profiles.Load(path, drivers)
	if err != nil {
		return err
	}
	dir, err := daemon.CacheDir(conf.Daemon)
	if err != nil {
		return err
	}
	cacheDir.Store(dir)
	fmt.Fprintf(stdout, "compiling into %s\n", dir)
	busybox, _ := drivers.Lookup("go_busybox")
	if err := warmUp(ctx, stdout, log, "go_busybox", busybox, backends.Spec{}, busybox.Options()); err != nil {
		return err
	}
	for name, p := range conf.Profiles {
		if p.Backend == "go_busybox" || !slices.Contains(compiled, p.Backend) {
			continue
		}
		if err := warmUp(ctx, stdout, log, "profile "+name, p.Driver, p.Spec(backends.Owner{}), p.Options); err != nil {
			return err
		}
	}
	return nil
}

// warmUp compiles for one backend: that is done when its Check is.
func warmUp(ctx context.Context, stdout io.Writer, log *slog.Logger, what string, d backends.Driver, s backends.Spec, o backends.Options) error {
	began := time.Now()
	b, err := d.Open(s, o, log)
	if err == nil {
		err = b.Check(ctx)
		if cerr := b.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return fmt.Errorf("warm %s: %w", what, err)
	}
	fmt.Fprintf(stdout, "%s: ready after %v\n", what, time.Since(began).Round(time.Millisecond))
	return nil
}
