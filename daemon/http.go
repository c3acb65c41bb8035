package daemon

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/profiles"
)

// routes are the daemon's addresses. only is the one profile that a listener
// is for, or "" for all.
func (d *Daemon) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/mcp/{profile}", d.profile(func(w http.ResponseWriter, r *http.Request, ep *endpoint, from *caller) {
		ep.http.serve(w, r, from)
	}))
	mux.Handle("/stdio/{profile}", d.profile(func(w http.ResponseWriter, r *http.Request, ep *endpoint, from *caller) {
		if d.stopping.Load() {
			refuseHTTP(w, http.StatusServiceUnavailable, "the daemon is stopping; try again in a moment")
			return
		}
		ep.serveStdio(w, r, from)
	}))
	mux.HandleFunc("GET /-/healthy", d.healthy)
	mux.HandleFunc("GET /-/ready", d.ready)
	mux.Handle("GET /-/status", d.known(d.status))
	mux.Handle("GET /-/metrics", d.known(d.serveMetrics))
	mux.Handle("POST /-/reload", d.known(d.serveReload))
	mux.Handle("POST /-/cleanup", d.known(d.serveCleanup))
	mux.Handle("POST /-/check", d.known(d.serveCheck))
	return d.guard(mux)
}

// guard is in front of every route: foreign origins are refused, and a bug
// ends one request only.
func (d *Daemon) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				d.log.Error("panic in a request; this is a bug", "path", r.URL.Path, "panic", v, "stack", stack())
				panic(http.ErrAbortHandler)
			}
		}()
		if d.stopping.Load() {
			w = lastAnswer{w}
		}
		if err := checkOrigin(r); err != nil {
			refuseHTTP(w, http.StatusForbidden, err.Error())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// A lastAnswer tells the client to close its connection. The SDK asks for the
// opposite, so it is said as late as possible.
type lastAnswer struct{ http.ResponseWriter }

func (w lastAnswer) WriteHeader(status int) {
	w.Header().Set("Connection", "close")
	w.ResponseWriter.WriteHeader(status)
}

func (w lastAnswer) Write(b []byte) (int, error) {
	w.Header().Set("Connection", "close") // after WriteHeader it does nothing
	return w.ResponseWriter.Write(b)
}

func (w lastAnswer) Flush() {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController do the rest.
func (w lastAnswer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// known passes on only requests whose sender is known.
func (d *Daemon) known(next func(http.ResponseWriter, *http.Request, *caller)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := d.access.authenticate(r)
		if from == nil {
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuseHTTP(w, http.StatusUnauthorized, "a bearer token is required here, one of [tokens] in the daemon's configuration; send it as: Authorization: Bearer …")
			return
		}
		next(w, r, from)
	})
}

// profile finds the endpoint of a route and asks whether the caller may use
// it.
func (d *Daemon) profile(next func(http.ResponseWriter, *http.Request, *endpoint, *caller)) http.Handler {
	return d.known(func(w http.ResponseWriter, r *http.Request, from *caller) {
		name := r.PathValue("profile")
		ep := d.table.lookup(name)
		if only := onlyProfile(r.Context()); ep == nil || only != "" && only != name {
			refuseHTTP(w, http.StatusNotFound, fmt.Sprintf("unknown profile %q; %s", name, d.offer(r, from)))
			return
		}
		svc := ep.svc.Load()
		if svc == nil || !from.may(name, svc.allow) {
			remedy := "to add you to its allow list"
			if len(from.tokens) > 0 && !slices.ContainsFunc(from.tokens, func(t profiles.Token) bool { return t.Permits(name) }) {
				remedy = "to add it to the token's profiles"
			}
			refuseHTTP(w, http.StatusForbidden, fmt.Sprintf("%s may not use profile %q; ask the operator %s. %s", from.display(), name, remedy, d.offer(r, from)))
			return
		}
		defer d.conns.used()
		next(w, r, ep, from)
	})
}

// offer names the profiles that a caller may use.
func (d *Daemon) offer(r *http.Request, from *caller) string {
	var names []string
	for _, ep := range d.visible(r, from) {
		names = append(names, ep.name)
	}
	if len(names) == 0 {
		return "this daemon has none for you"
	}
	return "this daemon has: " + strings.Join(names, ", ")
}

// visible returns the endpoints in service that a caller may use here.
func (d *Daemon) visible(r *http.Request, from *caller) []*endpoint {
	only := onlyProfile(r.Context())
	return slices.DeleteFunc(d.table.all(), func(ep *endpoint) bool {
		svc := ep.svc.Load()
		return svc == nil || only != "" && only != ep.name || !from.may(ep.name, svc.allow)
	})
}

// refuseHTTP answers with one line for people.
func refuseHTTP(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, text)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}

// newHTTPServer has the time limits that streams allow.
func (d *Daemon) newHTTPServer() *http.Server {
	return &http.Server{
		Handler:           d.routes(),
		BaseContext:       baseContext,
		ConnContext:       withPeer,
		ConnState:         d.conns.track,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug), // what clients do wrong
	}
}

func stack() string { return string(debug.Stack()) }
