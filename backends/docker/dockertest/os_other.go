//go:build !linux

package dockertest

// unmount is needed on Linux only, where Podman runs.
func unmount(string) {}

func mentioned(string) bool { return false }
