package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"

	"github.com/kilntainers/kilntainers/backends"
)

// ensureImage has the image on e when it returns: it pulls as the profile says
// and reports how far that is. It returns the user that the image sets.
func (b *Backend) ensureImage(ctx context.Context, e *engine) (user string, err error) {
	if b.options.Pull == "always" {
		if err := b.pull(ctx, e); err != nil {
			return "", err
		}
	}
	img, err := e.ImageInspect(ctx, b.options.Image)
	if errdefs.IsNotFound(err) {
		if b.options.Pull == "never" {
			return "", b.absent(e)
		}
		if err := b.pull(ctx, e); err != nil {
			return "", err
		}
		img, err = e.ImageInspect(ctx, b.options.Image)
	}
	if err != nil {
		return "", fmt.Errorf("look for the image %s: %w", b.options.Image, explain(err))
	}
	if img.Config != nil {
		user = img.Config.User
	}
	return user, e.runs(ctx, b.options.Image, img)
}

// absent is the error of an image that is not there and may not be pulled.
func (b *Backend) absent(e *engine) error {
	return fmt.Errorf("the image %s is not on the engine at %s, and pull is \"never\"; pull it there, or set pull = \"missing\"", b.options.Image, e.at())
}

// runs reports why an image cannot run on e. Podman starts a foreign one
// without a word, and its programs fail one by one.
func (e *engine) runs(ctx context.Context, name string, img image.InspectResponse) error {
	k, err := e.what(ctx)
	if err != nil {
		return err
	}
	if img.Os != "" && img.Os != "linux" {
		return fmt.Errorf("the image %s is for %s; a sandbox needs one for Linux", name, img.Os)
	}
	if a := goArch(img.Architecture); a != "" && a != k.arch {
		return fmt.Errorf("the image %s is for %s, and the engine at %s runs %s; name an image for %s", name, a, e.at(), k.arch, k.arch)
	}
	return nil
}

// A pull is an image on its way to an engine. Every Create that needs it waits
// for the same one; it is broken off when none is left.
type pull struct {
	done chan struct{} // closed after err is set
	err  error
	stop context.CancelFunc

	waiting int // guarded by engine.mu

	mu     sync.Mutex
	layers map[string]layer
}

// A layer of the image, as far as the engine told.
type layer struct{ fetched, size, unpacked, unpackSize int64 }

// reportEvery is the time between two reports of a pull.
const reportEvery = 250 * time.Millisecond

func (b *Backend) pull(ctx context.Context, e *engine) error {
	e.mu.Lock()
	p := e.pulling
	if p == nil {
		pctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		p = &pull{done: make(chan struct{}), stop: stop, layers: map[string]layer{}}
		e.pulling = p
		go func() {
			defer close(p.done)
			p.err = e.pullImage(pctx, b.options.Image, p)
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.pulling == p {
				e.pulling = nil
			}
		}()
	}
	p.waiting++
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		p.waiting--
		last := p.waiting == 0
		if last && e.pulling == p {
			e.pulling = nil // nobody may join what is being broken off
		}
		e.mu.Unlock()
		if last {
			p.stop()
			<-p.done
		}
	}()

	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	backends.Report(ctx, p.progress(b.options.Image))
	for {
		select {
		case <-p.done:
			return p.err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			backends.Report(ctx, p.progress(b.options.Image))
		}
	}
}

// progress sums up the layers: bytes fetched, then bytes unpacked.
func (p *pull) progress(name string) backends.Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	var l layer
	for _, one := range p.layers {
		l.fetched += one.fetched
		l.size += one.size
		l.unpacked += one.unpacked
		l.unpackSize += one.unpackSize
	}
	if l.size > 0 && l.fetched == l.size && l.unpackSize > 0 {
		return backends.Progress{Message: "unpacking " + name, Done: l.unpacked, Total: l.unpackSize}
	}
	return backends.Progress{Message: "pulling " + name, Done: l.fetched, Total: l.size}
}

// A pullEvent is one line of a pull, as Docker sends them (moby,
// pkg/jsonmessage). An error can come after an HTTP status of 200.
type pullEvent struct {
	ID             string
	Status         string
	Error          string
	ErrorDetail    struct{ Message string }
	ProgressDetail struct{ Current, Total int64 }
}

func (p *pull) note(v pullEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.layers[v.ID]
	switch v.Status {
	case "Downloading":
		l.fetched = max(0, v.ProgressDetail.Current)
		l.size = max(l.size, l.fetched, v.ProgressDetail.Total)
	case "Download complete", "Verifying Checksum":
		l.fetched = l.size
	case "Extracting":
		l.fetched = l.size
		l.unpacked = max(0, v.ProgressDetail.Current)
		l.unpackSize = max(l.unpackSize, l.unpacked, v.ProgressDetail.Total)
	case "Pull complete":
		l.fetched, l.unpacked = l.size, l.unpackSize
	default:
		return
	}
	if len(p.layers) < 1000 {
		p.layers[v.ID] = l
	}
}

// pullImage pulls and reads the events to their end.
func (e *engine) pullImage(ctx context.Context, name string, p *pull) error {
	ref, err := reference.ParseAnyReference(name)
	if err != nil {
		return err
	}
	named, ok := ref.(reference.Named)
	if !ok {
		return fmt.Errorf("the image %s is not on the engine at %s, and an id cannot be pulled; pull it by its name", name, e.at())
	}
	auth, err := registryAuth(named)
	if err != nil {
		return err
	}
	body, err := e.ImagePull(ctx, reference.TagNameOnly(named).String(), image.PullOptions{RegistryAuth: auth})
	if err != nil {
		return pullError(name, auth != "", err)
	}
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var v pullEvent
		switch err := d.Decode(&v); {
		case err == io.EOF:
			return nil
		case err != nil:
			return pullError(name, auth != "", err)
		case v.Error != "" || v.ErrorDetail.Message != "":
			if v.ErrorDetail.Message == "" {
				v.ErrorDetail.Message = v.Error
			}
			return pullError(name, auth != "", errors.New(v.ErrorDetail.Message))
		}
		p.note(v)
	}
}

// pullError adds what to do. Engines pass on the texts of registries and tell
// the cases apart by them alone.
func pullError(name string, login bool, err error) error {
	err = explain(err)
	if unreachable(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	text := strings.ToLower(err.Error())
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	var what string
	switch {
	case has("no basic auth credentials", "unauthorized", "authentication required", "incorrect username or password", "status: 401", "status code 401", "403 forbidden"):
		if login {
			what = "the registry refused the login in the docker config of the daemon's user; log in again (docker login)"
		} else {
			what = "the registry wants a login; run docker login as the daemon's user"
		}
	case has("denied"):
		what = "there is no such image, or it needs a login; check the name, or run docker login as the daemon's user"
	case has("manifest unknown", "not found", "no such", "does not exist", "name unknown") && !has("no such host", "lookup "):
		what = "the registry has no such image; check its name and tag"
	case has("no such host", "lookup ", "connection refused", "i/o timeout", "no route to host", "network is unreachable",
		"deadline exceeded", "client.timeout", "tls:", "x509:", "server gave http response"):
		what = "the engine cannot reach the registry; check its network and proxy"
	default:
		return fmt.Errorf("pull %s: %w", name, err)
	}
	return fmt.Errorf("pull %s: %s: %w", name, what, err)
}

// registryAuth is the login for the registry of an image from the docker
// config of the daemon's user, encoded for the API; "" when there is none.
// Podman's API looks into its own logins when it is given none.
func registryAuth(named reference.Named) (string, error) {
	file, err := config.Load(configDir())
	if err != nil {
		return "", fmt.Errorf("read the logins of docker: %w", err)
	}
	domain := reference.Domain(named)
	if domain == "docker.io" {
		domain = "https://index.docker.io/v1/" // the key that docker login uses
	}
	a, err := file.GetAuthConfig(domain)
	if err != nil {
		return "", fmt.Errorf("look up the login for %s: %w", domain, err)
	}
	if a.Username == "" && a.IdentityToken == "" && a.RegistryToken == "" && a.Auth == "" {
		return "", nil
	}
	return registry.EncodeAuthConfig(registry.AuthConfig{
		Username:      a.Username,
		Password:      a.Password,
		Auth:          a.Auth,
		ServerAddress: a.ServerAddress,
		IdentityToken: a.IdentityToken,
		RegistryToken: a.RegistryToken,
	})
}
