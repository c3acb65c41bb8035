package e2b

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kilntainers/kilntainers/backends"
)

// sweep ends, in every account that the profiles name, the sandboxes that
// other boots of this instance left.
func sweep(ctx context.Context, s backends.Sweep) (found []backends.Leftover, err error) {
	if s.Owner.Instance == "" {
		return nil, errors.New("sweep: the instance has no name")
	}
	type account struct {
		api string
		key Secret
	}
	var errs []error
	seen := map[account]bool{}
	for _, o := range s.Options {
		o := o.(*Options)
		key, err := o.key()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if a := (account{o.api(), key}); !seen[a] {
			seen[a] = true
			c := newClient(o)
			l, err := c.sweep(ctx, s)
			found = append(found, l...)
			errs = append(errs, err)
			c.close()
		}
	}
	return found, errors.Join(errs...)
}

func (c *client) sweep(ctx context.Context, s backends.Sweep) (found []backends.Leftover, err error) {
	list, err := c.list(ctx, metaInstance, s.Owner.Instance)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes at %s: %w", hostOf(c.api), explain(err))
	}
	var errs []error
	for _, b := range list {
		if b.Metadata[metaMark] != "true" || b.Metadata[metaBoot] == s.Owner.Boot || slices.Contains(s.Keep, b.ID) {
			continue
		}
		l := backends.Leftover{Kind: "sandbox", ID: b.ID, Profile: b.Metadata[metaProfile]}
		if !s.DryRun {
			err := c.kill(ctx, b.ID)
			l.Removed = err == nil
			if err != nil {
				errs = append(errs, fmt.Errorf("remove sandbox %s: %w", b.ID, explain(err)))
			}
		}
		found = append(found, l)
	}
	return found, errors.Join(errs...)
}
