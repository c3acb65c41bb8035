package mcptest

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/daemon"
)

// TestQuickClient uses a session as soon as a byte of the answer that names it
// is written. The suite found the session unknown in one run of ten.
func TestQuickClient(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	h := daemon.MCPHandler(newFixture(log), log)
	post := func(w http.ResponseWriter, session, body string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		if session != "" {
			r.Header.Set("Mcp-Session-Id", session)
		}
		h.ServeHTTP(w, r)
	}
	pinged := make(chan *httptest.ResponseRecorder, 1)
	post(&quick{ResponseRecorder: httptest.NewRecorder(), written: func(header http.Header) {
		got := make(chan struct{})
		go func() {
			w := httptest.NewRecorder()
			post(w, header.Get("Mcp-Session-Id"), `{"jsonrpc":"2.0","id":2,"method":"ping"}`)
			pinged <- w
			close(got)
		}()
		// A refusal comes at once. What is let in waits for the end of this
		// write, which holds the session's lock.
		select {
		case <-got:
		case <-time.After(100 * time.Millisecond):
		}
	}}, "", initialize)
	w := <-pinged
	if body := w.Body.String(); w.Code != http.StatusOK || !strings.Contains(body, `"id":2`) {
		t.Errorf("ping in the new session: %d %s", w.Code, body)
	}
}

// A quick is a client's end that tells of the first byte.
type quick struct {
	*httptest.ResponseRecorder
	written func(http.Header)
}

func (q *quick) Write(b []byte) (int, error) {
	if f := q.written; f != nil {
		q.written = nil
		f(q.Header())
	}
	return q.ResponseRecorder.Write(b)
}
