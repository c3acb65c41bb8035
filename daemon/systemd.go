package daemon

import (
	"fmt"
	"strings"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// What the service manager is told; see sd_notify(3). Without one nothing
// happens.

func notifyReady(status string) string { return sd.SdNotifyReady + "\n" + notifyStatus(status) }

// notifyStatus is the line that systemctl status shows.
func notifyStatus(status string) string { return "STATUS=" + strings.ReplaceAll(status, "\n", " ") }

// notifyReloading carries the time that Type=notify-reload asks for.
func notifyReloading() string {
	return sd.SdNotifyReloading + "\n" + strings.TrimSuffix(sd.SdNotifyMonotonicUsec(), "\n")
}

func notifyStopping() string { return sd.SdNotifyStopping }

// summary is the state of the daemon in one line.
func (r *reloader) summary() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.conf.Profiles)
	s := fmt.Sprintf("serving %d profiles", n)
	if n == 1 {
		s = "serving 1 profile"
	}
	switch len(r.problems) {
	case 0:
	case 1:
		s += "; the configuration on disk has a problem: " + r.problems[0]
	default:
		s += fmt.Sprintf("; the configuration on disk has %d problems, the first: %s", len(r.problems), r.problems[0])
	}
	return s
}
