package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"

	"github.com/kilntainers/kilntainers/backends/agent"
)

// The agent comes in a named volume: that works with read-only root file
// systems, user namespaces, remote engines and Podman, and costs nothing at
// start. The volume is named after the agent's version, is shared by all
// daemons that use the engine, and is made by the engine together with the
// first container that mounts it.

// agentVolume is the volume's name.
func agentVolume() string { return "kilntainers-agent-" + agent.Digest() }

// agentMount mounts the volume in a sandbox, or, to be filled, in a container
// that is never started.
func agentMount(readOnly bool) mount.Mount {
	return mount.Mount{
		Type:     mount.TypeVolume,
		Source:   agentVolume(),
		Target:   agentDir,
		ReadOnly: readOnly,
		VolumeOptions: &mount.VolumeOptions{
			NoCopy: true, // nothing of the image goes into it
			Labels: map[string]string{labelMark: "true", labelAgent: agent.Digest()},
		},
	}
}

// bringAgent sees to it that the agent is in the volume of a container that is
// not started yet. It looks only once for each engine, until forgetAgent.
func (b *Backend) bringAgent(ctx context.Context, e *engine, id string) error {
	e.agentMu.Lock()
	defer e.agentMu.Unlock()
	if e.agentOK {
		return nil
	}
	k, err := e.what(ctx)
	if err != nil {
		return err
	}
	bin, err := agent.Binary(k.arch)
	if err != nil {
		return fmt.Errorf("the engine at %s: %w", e.at(), err)
	}
	for try := 1; ; try++ {
		there, err := hasAgent(ctx, e, id, bin)
		if err != nil {
			return fmt.Errorf("look for the agent: %w", explain(err))
		}
		if there {
			break
		}
		if err = b.fillVolume(ctx, e, bin); err == nil {
			break
		}
		// Another daemon may be filling it: Podman fails one of the two.
		if try == fillTries || ctx.Err() != nil {
			return fmt.Errorf("bring the agent in: %w", explain(err))
		}
		select {
		case <-time.After(fillPause):
		case <-ctx.Done():
		}
	}
	e.agentOK = true
	return nil
}

// How often, and how far apart, to try to fill the volume.
const (
	fillTries = 4
	fillPause = 250 * time.Millisecond
)

// forgetAgent makes the next bringAgent look again: somebody may have removed
// the volume.
func (e *engine) forgetAgent() {
	e.agentMu.Lock()
	defer e.agentMu.Unlock()
	e.agentOK = false
}

// hasAgent tells whether a container's volume holds these bytes, runnable.
func hasAgent(ctx context.Context, e *engine, id string, bin []byte) (bool, error) {
	body, _, err := e.CopyFromContainer(ctx, id, path.Join(agentDir, agent.Name))
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer body.Close()
	r := tar.NewReader(body)
	head, err := r.Next()
	if err != nil {
		return false, err
	}
	if head.Typeflag != tar.TypeReg || head.Size != int64(len(bin)) || head.Mode&0o111 != 0o111 {
		return false, nil
	}
	got, err := io.ReadAll(io.LimitReader(r, int64(len(bin))))
	return bytes.Equal(got, bin), err
}

// fillVolume copies the agent into the volume through a container that is
// never started.
func (b *Backend) fillVolume(ctx context.Context, e *engine, bin []byte) (err error) {
	name := b.newName()
	r := request{
		config: &container.Config{
			Image:      b.options.Image,
			Entrypoint: []string{path.Join(agentDir, agent.Name)},
			Labels:     labels(b.spec, name),
		},
		host: &container.HostConfig{
			NetworkMode: "none",
			LogConfig:   container.LogConfig{Type: "none"},
			Mounts:      []mount.Mount{agentMount(false)},
		},
	}
	id, err := e.create(ctx, r, name)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		if rerr := e.remove(ctx, id); err == nil {
			err = rerr
		}
	}()

	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: agent.Name, Mode: 0o755, Size: int64(len(bin)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	if _, err := w.Write(bin); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return e.CopyToContainer(ctx, id, agentDir, &archive, container.CopyToContainerOptions{})
}
