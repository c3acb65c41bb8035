package e2btest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// newSandbox is the body of a creation, as far as it matters here. What is
// missing is nil.
type newSandbox struct {
	Template string            `json:"templateID"`
	Timeout  int               `json:"timeout"`
	Metadata map[string]string `json:"metadata"`
	Env      map[string]string `json:"envVars"`
	Internet *bool             `json:"allow_internet_access"`
	Secure   bool              `json:"secure"`
	Network  struct {
		AllowOut           []string `json:"allowOut"`
		DenyOut            []string `json:"denyOut"`
		AllowPublicTraffic *bool    `json:"allowPublicTraffic"`
	} `json:"network"`
}

// control is the control plane: of spec/openapi.yml what a client of sandboxes
// needs.
func (s *Service) control() *http.ServeMux {
	m := http.NewServeMux()
	m.HandleFunc("POST /v2/sandboxes", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		old := s.old
		s.mu.Unlock()
		if old {
			refuse(w, http.StatusBadRequest, "method not allowed")
			return
		}
		s.create(w, r, true)
	})
	m.HandleFunc("POST /sandboxes", func(w http.ResponseWriter, r *http.Request) { s.create(w, r, false) })
	m.HandleFunc("GET /v2/sandboxes", s.list)
	m.HandleFunc("GET /sandboxes", s.list)
	m.HandleFunc("GET /sandboxes/{id}", s.withBox(s.get))
	m.HandleFunc("DELETE /sandboxes/{id}", s.withBox(func(w http.ResponseWriter, _ *http.Request, b *box) {
		s.remove(b)
		w.WriteHeader(http.StatusNoContent)
	}))
	m.HandleFunc("POST /sandboxes/{id}/timeout", s.withBox(s.setTimeout))
	m.HandleFunc("POST /v2/sandboxes/{id}/connect", s.withBox(func(w http.ResponseWriter, _ *http.Request, b *box) {
		json.NewEncoder(w).Encode(s.sandbox(b))
	}))
	m.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusBadRequest, "no matching operation was found")
	})
	return m
}

func (s *Service) withBox(f func(http.ResponseWriter, *http.Request, *box)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		s.mu.Lock()
		b := s.boxes[id]
		missing := b == nil || b.ended
		s.mu.Unlock()
		if missing {
			refuse(w, http.StatusNotFound, fmt.Sprintf("Sandbox %q doesn't exist or you don't have access to it", id))
			return
		}
		f(w, r, b)
	}
}

// create makes a sandbox. The newer call always secures its envd; the older
// only when told to, and lets it live for 15 seconds unless it is told more.
func (s *Service) create(w http.ResponseWriter, r *http.Request, v2 bool) {
	var in newSandbox
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		refuse(w, http.StatusBadRequest, "Error when parsing request: "+err.Error())
		return
	}
	if in.Timeout == 0 {
		in.Timeout = map[bool]int{true: 300, false: 15}[v2]
	}
	for _, a := range in.Network.AllowOut {
		if a[len(a)-1] > '9' && (len(in.Network.DenyOut) == 0 || in.Network.DenyOut[0] != "0.0.0.0/0") {
			refuse(w, http.StatusBadRequest, "When specifying allowed domains in allow out, you must include '0.0.0.0/0' in deny out to block all other traffic.")
			return
		}
	}
	if in.Template != "base" {
		refuse(w, http.StatusNotFound, fmt.Sprintf("template '%s' not found", in.Template))
		return
	}
	s.mu.Lock()
	full := s.limits.Sandboxes > 0 && len(s.boxes) >= s.limits.Sandboxes
	life := s.limits.Life
	s.made++
	number := s.made
	s.mu.Unlock()
	if full {
		refuse(w, http.StatusTooManyRequests, fmt.Sprintf("you have reached the maximum number of concurrent E2B sandboxes (%d)", s.limits.Sandboxes))
		return
	}
	timeout := time.Duration(in.Timeout) * time.Second
	if life > 0 && timeout > life {
		timeout = life
	}
	b, err := s.newBox(number, in, v2 || in.Secure, timeout)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	if err := s.initEnvd(b); err != nil {
		s.remove(b)
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(s.sandbox(b))
}

// initEnvd tells a real envd its token, as E2B's orchestrator does.
func (s *Service) initEnvd(b *box) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.envdURL == "" {
		return nil
	}
	body, err := json.Marshal(map[string]any{"accessToken": b.token, "defaultUser": "user", "envVars": b.in.Env, "timestamp": time.Now()})
	if err != nil {
		return err
	}
	res, err := http.Post(s.envdURL+"/init", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("init of envd: %s", res.Status)
	}
	return nil
}

// sandbox is Sandbox, the answer to a creation.
func (s *Service) sandbox(b *box) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]any{"sandboxID": b.id, "templateID": b.in.Template, "clientID": "deprecated", "envdVersion": envdVersion, "domain": nil}
	if b.token != "" {
		out["envdAccessToken"] = b.token
	}
	return out
}

// detail is SandboxDetail, and but for the token ListedSandbox.
func (s *Service) detail(b *box) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := "running"
	if b.paused {
		state = "paused"
	}
	return map[string]any{
		"sandboxID": b.id, "templateID": b.in.Template, "clientID": "deprecated", "envdVersion": envdVersion,
		"state": state, "startedAt": b.born.UTC(), "endAt": b.endAt.UTC(), "metadata": b.in.Metadata,
		"cpuCount": 2, "memoryMB": 512, "diskSizeMB": 1024, "domain": nil, "volumeMounts": []any{},
		"envdAccessToken": b.token,
	}
}

func (s *Service) get(w http.ResponseWriter, _ *http.Request, b *box) {
	json.NewEncoder(w).Encode(s.detail(b))
}

// list answers a page. The filter is a query of its own inside of the query,
// with names and values escaped once more.
func (s *Service) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	want, err := url.ParseQuery(q.Get("metadata"))
	if err != nil {
		refuse(w, http.StatusBadRequest, "Error when parsing metadata query")
		return
	}
	page := []map[string]any{}
	limit, skip := 100, 0
	if n, err := strconv.Atoi(q.Get("limit")); err == nil {
		limit = n
	}
	if n, err := strconv.Atoi(q.Get("nextToken")); err == nil {
		skip = n
	}
	more := false
next:
	for _, b := range s.all() {
		for k, vs := range want {
			k, _ = url.QueryUnescape(k)
			v, _ := url.QueryUnescape(vs[0])
			if got, ok := b.in.Metadata[k]; !ok || got != v {
				continue next
			}
		}
		if skip > 0 {
			skip--
			continue
		}
		if more = len(page) == limit; more {
			break
		}
		d := s.detail(b)
		delete(d, "envdAccessToken")
		page = append(page, d)
	}
	if more {
		before, _ := strconv.Atoi(q.Get("nextToken"))
		w.Header().Set("X-Next-Token", strconv.Itoa(before+len(page)))
	}
	json.NewEncoder(w).Encode(page)
}

// setTimeout puts the end off, or on, as far as the account may.
func (s *Service) setTimeout(w http.ResponseWriter, r *http.Request, b *box) {
	var in struct{ Timeout int }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Timeout < 0 {
		refuse(w, http.StatusBadRequest, "Error when parsing request")
		return
	}
	s.mu.Lock()
	end := time.Now().Add(time.Duration(in.Timeout) * time.Second)
	last := b.born.Add(s.limits.Life)
	if s.limits.Life > 0 && end.After(last) {
		if s.limits.Refuse {
			s.mu.Unlock()
			refuse(w, http.StatusBadRequest, "Max instance length exceeded")
			return
		}
		end = last
	}
	b.endAt = end
	b.timer.Reset(time.Until(end))
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}
