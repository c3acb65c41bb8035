package dockertest

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
)

// dieWithParent makes the kernel end the service when the test is killed.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}

// unmount takes away a mount, if there is one.
func unmount(dir string) { syscall.Unmount(dir, syscall.MNT_DETACH) }

// mentioned tells whether a process has dir in its command line.
func mentioned(dir string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if line, err := os.ReadFile(f); err == nil && bytes.Contains(line, []byte(dir)) {
			return true
		}
	}
	return false
}
