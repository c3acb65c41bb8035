package docker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/volume"

	"github.com/kilntainers/kilntainers/backends"
)

// sweep removes from every engine that the profiles name the containers that
// other boots of this instance left, and agent volumes of other versions that
// no container uses. Those belong to nobody: a daemon that needs one fills it
// again.
func sweep(ctx context.Context, s backends.Sweep, connect func(*Options) ([]*engine, error)) (found []backends.Leftover, err error) {
	var errs []error
	seen := map[string]bool{}
	for _, o := range s.Options {
		engines, err := connect(o.(*Options))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range engines {
			if !seen[e.at()] {
				seen[e.at()] = true
				l, err := e.sweep(ctx, s)
				found = append(found, l...)
				errs = append(errs, err)
			}
			errs = append(errs, e.close())
		}
	}
	return found, errors.Join(errs...)
}

func (e *engine) sweep(ctx context.Context, s backends.Sweep) (found []backends.Leftover, err error) {
	if s.Owner.Instance == "" {
		return nil, errors.New("sweep: the instance has no name")
	}
	var errs []error
	list, err := e.ContainerList(ctx, container.ListOptions{
		All:     true, // those that were never started too
		Filters: filters.NewArgs(filters.Arg("label", labelInstance+"="+s.Owner.Instance)),
	})
	if err != nil {
		return nil, fmt.Errorf("list containers at %s: %w", e.at(), explain(err))
	}
	for _, c := range list {
		// The engine's filter is not what keeps others' containers alive.
		if c.Labels[labelMark] != "true" || c.Labels[labelInstance] != s.Owner.Instance || c.Labels[labelBoot] == s.Owner.Boot ||
			slices.Contains(s.Keep, c.Labels[labelSandbox]) {
			continue
		}
		l := backends.Leftover{Kind: "container", ID: c.Labels[labelSandbox], Profile: c.Labels[labelProfile]}
		if !s.DryRun {
			err := e.removeLeft(ctx, c.ID)
			l.Removed = err == nil
			errs = append(errs, err)
		}
		found = append(found, l)
	}

	volumes, err := e.VolumeList(ctx, volume.ListOptions{Filters: filters.NewArgs(filters.Arg("label", labelAgent))})
	if err != nil {
		return found, errors.Join(append(errs, fmt.Errorf("list volumes at %s: %w", e.at(), explain(err)))...)
	}
	for _, v := range volumes.Volumes {
		if v.Labels[labelMark] != "true" || !strings.HasPrefix(v.Name, "kilntainers-agent-") || v.Name == agentVolume() {
			continue
		}
		users, err := e.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("volume", v.Name))})
		if err != nil || len(users) > 0 {
			continue
		}
		l := backends.Leftover{Kind: "volume", ID: v.Name}
		if !s.DryRun {
			// Not by force: the engine refuses when it is in use after all.
			l.Removed = e.VolumeRemove(ctx, v.Name, false) == nil
		}
		found = append(found, l)
	}
	return found, errors.Join(errs...)
}

// removeLeft removes a leftover, and gives up on one after a while.
func (e *engine) removeLeft(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := e.remove(ctx, id); err != nil {
		return fmt.Errorf("remove container %.12s at %s: %w", id, e.at(), err)
	}
	return nil
}
