package docker

import "syscall"

// dieWithParent makes the kernel end a child when the daemon is killed.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
