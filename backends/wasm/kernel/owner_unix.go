//go:build unix

package kernel

import (
	"os"
	"syscall"
)

func ownedByUs(fi os.FileInfo) bool {
	st, found := fi.Sys().(*syscall.Stat_t)
	return found && int(st.Uid) == os.Geteuid()
}
