package docker

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/agent"
)

// A sandbox lives as long as its stream is open somewhere. So another daemon
// can go on with it if it is given the stream, and what follows.

// A ticket is the Data of a backends.Ticket.
type ticket struct {
	Engine    string        `json:"engine"` // its address
	Container string        `json:"container"`
	Name      string        `json:"name"`
	Memory    backends.Size `json:"memory"` // its limit, for the reason of a death
	Made      time.Time     `json:"made"`
	Agent     agent.State   `json:"agent"`
}

// Ticket returns the stream and what goes with it. A stream through TLS or SSH
// has state in this process, so such a sandbox ends with it.
func (s *sandbox) Ticket() (backends.Ticket, error) {
	if err := s.Err(); err != nil {
		return backends.Ticket{}, err
	}
	conn, ok := s.stream.raw.(interface{ File() (*os.File, error) })
	if !ok {
		return backends.Ticket{}, backends.ErrNoTicket
	}
	state, err := s.client.State()
	if err != nil {
		return backends.Ticket{}, err
	}
	data, err := json.Marshal(ticket{s.engine.at(), s.id, s.name, s.memory, s.made, state})
	if err != nil {
		return backends.Ticket{}, err
	}
	file, err := conn.File()
	if err != nil {
		if gone := s.Err(); gone != nil {
			err = gone
		}
		return backends.Ticket{}, err
	}
	return backends.Ticket{ID: s.name, Data: data, File: file}, nil
}

// Leave closes this process's end of the stream.
func (s *sandbox) Leave() {
	if s.Err() == nil {
		s.left.Store(true)
	}
	s.client.Leave()
	s.settle()
}

// Adopt goes on with a sandbox over its stream. It stays on its engine,
// whatever the profile names now; the profile's shell and variables hold.
func (b *Backend) Adopt(ctx context.Context, t backends.Ticket) (backends.Sandbox, error) {
	if t.File == nil {
		return nil, errors.New("adopt a container: its stream is missing")
	}
	conn, err := net.FileConn(t.File)
	_ = t.File.Close()
	if err != nil {
		return nil, fmt.Errorf("adopt a container: %w", err)
	}
	var data ticket
	if err := json.Unmarshal(t.Data, &data); err != nil || data.Container == "" {
		_ = conn.Close()
		return nil, fmt.Errorf("adopt a container: not one of our tickets: %w", cmp.Or(err, errors.New("no container")))
	}
	i := slices.IndexFunc(b.engines, func(e *engine) bool { return e.is(data.Engine) })
	if i < 0 {
		_ = conn.Close() // which ends it
		return nil, &backends.GoneError{Reason: "its profile uses another engine now"}
	}
	s := &sandbox{
		engine: b.engines[i],
		log:    b.log.With("sandbox", data.Name),
		stream: &stream{conn: conn, raw: conn, r: bufio.NewReaderSize(conn, 64<<10)},
		id:     data.Container,
		name:   data.Name,
		shell:  b.spec.Shell,
		env:    b.spec.Env,
		memory: data.Memory,
		made:   data.Made,
	}
	s.engine.count(+1)
	s.await(ctx)
	s.client, err = agent.Adopt(ctx, s.stream, s.stream.find, data.Agent, agent.Options{Log: s.log, Kill: s.ended})
	if err == nil {
		return s, nil
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	if gone := s.ended(clean); gone != nil && ctx.Err() == nil {
		return nil, gone
	}
	return nil, fmt.Errorf("adopt container %s: %w", data.Name, err)
}
