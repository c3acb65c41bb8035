package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/kilntainers/kilntainers/daemon"
)

func psCommand() command {
	return command{
		name:    "ps",
		summary: "list the sandboxes that there are",
		listing: true,
		detail:  "You see your own; root and the user that runs the daemon see everybody's.\n",
		run:     showSandboxes,
	}
}

func showSandboxes(ctx context.Context, c *cli, _ []string) error {
	status, raw, err := c.status(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(raw["sandboxes"])
	}
	t := newTable("SANDBOX", "PROFILE", "BACKEND", "USER", "SESSION", "AGE", "STATE", "CALLS")
	now := status.Started.Add(time.Duration(status.Uptime) * time.Second) // by the daemon's clock
	for _, s := range status.Sandboxes {
		state := "idle " + short(time.Duration(s.IdleSeconds)*time.Second)
		if s.Running > 0 {
			state = fmt.Sprintf("running %d", s.Running)
		}
		t.row(shortID(s.ID), s.Profile, s.Backend, userName(s.Principal), s.Session, short(now.Sub(s.Created)), state, fmt.Sprint(s.Execs))
	}
	return t.print(c.stdout)
}

// userName names the user of a Unix socket; a token has its name already.
func userName(principal string) string {
	if uid, ok := strings.CutPrefix(principal, "uid:"); ok {
		if u, err := user.LookupId(uid); err == nil {
			return u.Username
		}
	}
	return principal
}

func profilesCommand() command {
	return command{
		name:    "profiles",
		summary: "list the profiles in service, and what is wrong with their files",
		listing: true,
		run:     showProfiles,
	}
}

func showProfiles(ctx context.Context, c *cli, _ []string) error {
	status, raw, err := c.status(ctx)
	if err != nil {
		return err
	}
	if c.json {
		err = c.printJSON(raw["profiles"])
	} else {
		t := newTable("PROFILE", "BACKEND", "SESSIONS", "SANDBOXES", "WARM", "FROM", "DESCRIPTION")
		for _, p := range status.Profiles {
			t.row(p.Name, p.Backend, fmt.Sprint(p.Sessions), of(p.Sandboxes, p.MaxSandboxes), of(p.Warm, p.Pool), p.Source, p.Description)
		}
		err = t.print(c.stdout)
	}
	if err != nil {
		return err
	}
	for _, p := range status.Profiles {
		if p.Problem != "" {
			fmt.Fprintf(c.stderr, "kilntainers: profile %s: %s\n", p.Name, printable(p.Problem))
		}
	}
	if len(status.Config.Problems) > 0 {
		inForce := "the last good one, loaded " + status.Config.Loaded.Local().Format(time.DateTime) + ", is in force"
		if status.Config.Partial {
			inForce = "what they do not concern is served"
		}
		fmt.Fprintf(c.stderr, "kilntainers: the configuration on disk has problems; %s:\n", inForce)
		c.printProblems(status.Config.Problems)
	}
	c.printRestart(status.Config.RestartNeeded)
	return nil
}

// of writes a count and what it may reach.
func of(n, limit int) string {
	if limit == 0 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d/%d", n, limit)
}

func checkCommand() command {
	return command{
		name:    "check",
		summary: "ask every backend whether a sandbox could be made now",
		listing: true,
		detail:  "Exit status 1 if one could not. To check configuration files: kilntainersd check.\n",
		run:     checkBackends,
	}
}

func checkBackends(ctx context.Context, c *cli, _ []string) error {
	var raw map[string]json.RawMessage
	if err := c.ask(ctx, http.MethodPost, "/-/check", &raw); err != nil {
		return err
	}
	var profiles []daemon.ProfileCheck
	if err := json.Unmarshal(raw["profiles"], &profiles); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	failed := slices.ContainsFunc(profiles, func(p daemon.ProfileCheck) bool { return !p.OK })
	var err error
	if c.json {
		err = c.printJSON(raw["profiles"])
	} else {
		t := newTable("PROFILE", "BACKEND", "RESULT")
		for _, p := range profiles {
			result := "ok"
			if !p.OK {
				result = "FAILED: " + p.Error
			}
			t.row(p.Name, p.Backend, result)
		}
		err = t.print(c.stdout)
	}
	if err == nil && failed {
		err = exitError{status: 1}
	}
	return err
}

func reloadCommand() command {
	return command{
		name:    "reload",
		summary: "have the daemon read its configuration now, and say what is wrong with it",
		listing: true,
		detail:  "The daemon also reads a file that changes by itself. Exit status 1 if there is a\nproblem: then nothing changes. systemctl reload kilntainers does the same.\n",
		run:     reload,
	}
}

func reload(ctx context.Context, c *cli, _ []string) error {
	var raw json.RawMessage
	if err := c.ask(ctx, http.MethodPost, "/-/reload", &raw, http.StatusUnprocessableEntity); err != nil {
		return err
	}
	var res daemon.ReloadResult
	if err := json.Unmarshal(raw, &res); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	switch {
	case c.json:
		if err := c.printJSON(raw); err != nil {
			return err
		}
	case !res.OK:
		c.printProblems(res.Problems)
	case !res.Changed:
		fmt.Fprintln(c.stdout, "nothing changed")
	default:
		var parts []string
		for _, change := range []struct {
			word  string
			names []string
		}{{"added", res.Added}, {"updated", res.Updated}, {"removed", res.Removed}} {
			if len(change.names) > 0 {
				parts = append(parts, change.word+" "+strings.Join(change.names, ", "))
			}
		}
		if len(parts) == 0 {
			parts = []string{"no profile changed"}
		}
		fmt.Fprintln(c.stdout, "reloaded: "+strings.Join(parts, "; "))
	}
	if !c.json {
		c.printRestart(res.RestartNeeded)
	}
	if !res.OK {
		return exitError{1, errors.New("the configuration was not reloaded; the last good one stays in force")}
	}
	return nil
}

func cleanupCommand() command {
	var dryRun bool
	return command{
		name:    "cleanup",
		summary: "remove what earlier runs of the daemon left behind",
		listing: true,
		detail:  "The daemon does this by itself when it starts and every ten minutes. Only what its\nown state directory made is touched, and nothing that is in use. Exit status 1 if\nsomething could not be removed, or an engine not be asked.\n",
		flags:   func(fs *pflag.FlagSet) { fs.BoolVar(&dryRun, "dry-run", false, "only list it") },
		run:     func(ctx context.Context, c *cli, _ []string) error { return cleanup(ctx, c, dryRun) },
	}
}

func cleanup(ctx context.Context, c *cli, dryRun bool) error {
	var raw json.RawMessage
	if err := c.ask(ctx, http.MethodPost, fmt.Sprintf("/-/cleanup?dry_run=%t", dryRun), &raw); err != nil {
		return err
	}
	var res daemon.CleanupResult
	if err := json.Unmarshal(raw, &res); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	stays := false
	t := newTable("BACKEND", "KIND", "ID", "PROFILE", "RESULT")
	for _, l := range res.Leftovers {
		result := "removed"
		switch {
		case res.DryRun:
			result = "left behind"
		case !l.Removed:
			result, stays = "NOT REMOVED", true
		}
		t.row(l.Backend, l.Kind, shortID(l.ID), l.Profile, result)
	}
	var err error
	switch {
	case c.json:
		err = c.printJSON(raw)
	case len(res.Leftovers) == 0:
		_, err = fmt.Fprintln(c.stdout, "nothing is left behind")
	default:
		err = t.print(c.stdout)
	}
	c.printProblems(res.Problems)
	if err == nil && (stays || len(res.Problems) > 0) {
		err = exitError{status: 1}
	}
	return err
}

func versionCommand() command {
	return command{
		name:    "version",
		summary: "print the version of this command and of the daemon",
		listing: true,
		run:     showVersion,
	}
}

func showVersion(ctx context.Context, c *cli, _ []string) error {
	status, _, err := c.status(ctx)
	if c.json {
		v := map[string]string{"kilntainers": versionString()}
		if err == nil {
			v["kilntainersd"] = status.Version
		}
		raw, _ := json.Marshal(v) // strings always encode
		return errors.Join(c.printJSON(raw), err)
	}
	fmt.Fprintln(c.stdout, "kilntainers "+versionString())
	if err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "kilntainersd %s (pid %d, up %s)\n", printable(status.Version), status.PID, short(time.Duration(status.Uptime)*time.Second))
	return nil
}

// status asks for the daemon's status: as we know it, and as it came.
func (c *cli) status(ctx context.Context) (s daemon.Status, raw map[string]json.RawMessage, err error) {
	var whole json.RawMessage
	if err := c.ask(ctx, http.MethodGet, "/-/status", &whole); err != nil {
		return s, nil, err
	}
	if err := errors.Join(json.Unmarshal(whole, &s), json.Unmarshal(whole, &raw)); err != nil {
		return s, nil, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return s, raw, nil
}

func (c *cli) printProblems(problems []string) {
	for _, p := range problems {
		fmt.Fprintln(c.stderr, printable(p))
	}
}

func (c *cli) printRestart(keys []string) {
	if len(keys) > 0 {
		fmt.Fprintf(c.stderr, "kilntainers: takes effect at the daemon's next start: %s\n", printable(strings.Join(keys, ", ")))
	}
}
