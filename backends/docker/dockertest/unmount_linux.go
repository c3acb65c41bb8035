package dockertest

import "syscall"

// unmount takes away a mount, if there is one.
func unmount(dir string) { syscall.Unmount(dir, syscall.MNT_DETACH) }
