package main

import (
	"errors"

	"golang.org/x/sys/unix"
)

// forbidCore sees to it that the memory of this process is written nowhere: it
// holds the keys of clouds and what agents do. The limit is for what it starts,
// and for hosts that write cores to files; one that pipes them to a program,
// such as systemd-coredump, asks for no limit, and heeds only the other. That
// also closes /proc/PID/environ and ptrace(2) to other processes of the user;
// root can still debug the daemon.
func forbidCore() error {
	return errors.Join(
		unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0),
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}),
	)
}
