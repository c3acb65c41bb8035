//go:build !linux

package docker

import "syscall"

// dieWithParent exists on Linux only.
func dieWithParent() *syscall.SysProcAttr { return nil }
