package modal

import (
	"context"
	"errors"
	"fmt"
	"slices"

	sdk "github.com/modal-labs/modal-client/go"

	"github.com/kilntainers/kilntainers/backends"
)

// sweep terminates, in every app that the profiles name, the sandboxes that
// other boots of this instance left.
func sweep(ctx context.Context, s backends.Sweep) (found []backends.Leftover, err error) {
	if s.Owner.Instance == "" {
		return nil, errors.New("sweep: the instance has no name")
	}
	type account struct {
		from fingerprint
		app  string
	}
	seen := map[account]bool{}
	var errs []error
	for _, o := range s.Options {
		o := o.(*Options)
		c, err := connect(o, s.Log)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if a := (account{c.from, o.AppName}); !seen[a] {
			seen[a] = true
			l, err := sweepApp(ctx, c, o.AppName, s)
			found = append(found, l...)
			errs = append(errs, explain(c.token, err))
		}
		c.Close()
	}
	return found, errors.Join(errs...)
}

func sweepApp(ctx context.Context, c *client, app string, s backends.Sweep) (found []backends.Leftover, err error) {
	a, err := c.Apps.FromName(ctx, app, nil)
	if notFound(err) {
		return nil, nil // nothing was ever made there
	}
	if err != nil {
		return nil, fmt.Errorf("look for the app %s: %w", app, err)
	}
	list, err := c.Sandboxes.List(ctx, &sdk.SandboxListParams{
		AppID: a.AppID,
		Tags:  map[string]string{tagMark: "true", tagInstance: s.Owner.Instance},
	})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes of the app %s: %w", app, err)
	}
	var errs []error
	for box, err := range list {
		if err != nil {
			return found, fmt.Errorf("list sandboxes of the app %s: %w", app, errors.Join(append(errs, err)...))
		}
		if slices.Contains(s.Keep, box.SandboxID) {
			continue
		}
		tags, err := box.GetTags(ctx, nil)
		if notFound(err) {
			continue // it has just ended
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read the tags of sandbox %s: %w", box.SandboxID, err))
			continue
		}
		// Modal's filter is not what keeps others' sandboxes alive.
		if tags[tagMark] != "true" || tags[tagInstance] != s.Owner.Instance || tags[tagBoot] == s.Owner.Boot {
			continue
		}
		l := backends.Leftover{Kind: "sandbox", ID: box.SandboxID, Profile: tags[tagProfile]}
		if !s.DryRun {
			err := terminate(ctx, box)
			l.Removed = err == nil
			if err != nil {
				errs = append(errs, fmt.Errorf("terminate sandbox %s: %w", box.SandboxID, err))
			}
		}
		found = append(found, l)
	}
	return found, errors.Join(errs...)
}
