//go:build !linux

package dockertest

import "syscall"

// Podman's service runs on Linux only.
func dieWithParent() *syscall.SysProcAttr { return nil }
func unmount(string)                      {}
func mentioned(string) bool               { return false }
