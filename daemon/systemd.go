package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

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
func (d *Daemon) summary() string {
	sessions, sandboxes := 0, 0
	for _, ep := range d.table.all() {
		sessions += ep.sessionCount()
		sandboxes += d.table.limits.count(ep.name)
	}
	config := d.reloader.status()
	s := fmt.Sprintf("profiles: %d, sessions: %d, sandboxes: %d", d.table.served(), sessions, sandboxes)
	switch n := len(config.Problems); {
	case n == 1:
		s += "; the configuration has a problem: " + config.Problems[0]
	case n > 1:
		s += fmt.Sprintf("; the configuration has %d problems, the first: %s", n, config.Problems[0])
	}
	return s
}

// watchdog tells systemd that the daemon is well for as long as it answers on
// its own socket, and keeps the status line current. Without WatchdogSec= in
// the unit it does nothing.
func (d *Daemon) watchdog(ctx context.Context, l *listener) error {
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return nil
	}
	client := &http.Client{Timeout: interval / 3, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, l.Addr().Network(), l.Addr().String())
		},
	}}
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := answers(ctx, client); err != nil {
			d.log.Error("the daemon does not answer itself", "error", err)
			continue
		}
		d.notify(sd.SdNotifyWatchdog + "\n" + notifyStatus(d.summary()))
	}
}

// answers asks the daemon whether it is healthy.
func answers(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/-/healthy", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}
