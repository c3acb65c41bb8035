package e2b

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/kilntainers/kilntainers/backends"
)

// A client makes the calls of a control plane, for one account.
type client struct {
	api  string // its address, without a slash at the end
	key  func() (Secret, error)
	http *http.Client
	pace *pace

	old atomic.Bool // it is of a time before POST /v2/sandboxes
}

// What one call may take, and its answer. A sandbox is made in less than a
// second, as a rule.
const (
	callTimeout   = 30 * time.Second
	createTimeout = 90 * time.Second
	maxAnswer     = 8 << 20
)

func newClient(o *Options) *client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 64  // each running command has one, where there is no HTTP/2
	t.DisableCompression = true // so that what is bounded is what comes
	return &client{
		api:  o.api(),
		key:  o.key,
		pace: paceOf(o.api()),
		http: &http.Client{
			Transport: t,
			// net/http would send our two secret headers wherever a redirect points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// An apiError is a refusal, in the service's own words.
type apiError struct {
	Status  int
	Message string
	After   time.Duration // when to try again; 0 = it did not say
}

func (e *apiError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("the service answered %d %s: %s", e.Status, http.StatusText(e.Status), e.Message), ": ")
}

// A lostError is a call without an answer.
type lostError struct {
	host string
	sent bool // the service may have got it
	err  error
}

func (e *lostError) Error() string {
	if !e.sent {
		return fmt.Sprintf("cannot reach %s: %v", e.host, e.err)
	}
	return fmt.Sprintf("no answer from %s: %v", e.host, e.err)
}

func (e *lostError) Unwrap() error { return e.err }

// send sends a request and knows, when there is no answer, whether it was
// received.
func (c *client) send(req *http.Request) (*http.Response, error) {
	var sent atomic.Bool
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	res, err := c.http.Do(req.WithContext(ctx))
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // the rest is the request, which the caller knows
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, &lostError{host: req.URL.Host, sent: sent.Load(), err: err}
	}
	return res, nil
}

// call makes one call. Its errors are *apiError and *lostError, and what is
// wrong with the key.
func (c *client) call(ctx context.Context, method, path string, in, out any) (http.Header, error) {
	key, err := c.key()
	if err != nil {
		return nil, err
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.api+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-API-KEY", string(key))
	req.Header.Set("User-Agent", "kilntainers")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.send(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, &lostError{host: req.URL.Host, sent: true, err: err}
	}
	if res.StatusCode/100 != 2 {
		return nil, &apiError{
			Status:  res.StatusCode,
			Message: key.hide(messageOf(res, text)),
			After:   retryAfter(res.Header.Get("Retry-After")),
		}
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			return nil, &lostError{host: req.URL.Host, sent: true, err: fmt.Errorf("the answer is not what was asked for: %w", err)}
		}
	}
	return res.Header, nil
}

// messageOf is what a refusal says, in one line. The control plane sends
// {"code":401,"message":"…"}, and envd too; Connect sends {"code":"not_found",
// "message":"…"}; a proxy sends what it likes.
func messageOf(res *http.Response, text []byte) string {
	if to := res.Header.Get("Location"); to != "" && res.StatusCode/100 == 3 {
		return "it points elsewhere, which is not followed; is the address right?"
	}
	var e struct {
		Message string `json:"message"`
		Error   any    `json:"error"`
	}
	switch err := json.Unmarshal(text, &e); {
	case err == nil && e.Message != "":
		return oneLine(e.Message)
	case err == nil && e.Error != nil:
		return oneLine(fmt.Sprint(e.Error))
	case strings.Contains(res.Header.Get("Content-Type"), "html"):
		return ""
	}
	return oneLine(string(text))
}

// oneLine makes one short line of what somebody else wrote.
func oneLine(s string) string {
	const most = 300
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return s
}

// retryAfter reads the header of that name, in which E2B sends seconds.
func retryAfter(h string) time.Duration {
	n, err := strconv.Atoi(h)
	if err != nil || n < 0 || n > 86400 {
		return 0
	}
	return max(time.Duration(n)*time.Second, time.Millisecond)
}

func isStatus(err error, status int) bool {
	var e *apiError
	return errors.As(err, &e) && e.Status == status
}

// again tells whether a call that may be made twice is worth another try.
func again(err error) bool {
	var refused *apiError
	var lost *lostError
	switch {
	case errors.As(err, &refused):
		return refused.Status >= 500 || refused.Status == http.StatusConflict || refused.throttled()
	case errors.As(err, &lost):
		return true
	}
	return false
}

// unmade tells whether a creation failed in a way that says that nothing was
// made, and is worth another try. Any other failure that is not a refusal
// leaves it open.
func unmade(err error) bool {
	var refused *apiError
	var lost *lostError
	switch {
	case errors.As(err, &refused):
		return refused.Status == http.StatusServiceUnavailable || refused.throttled()
	case errors.As(err, &lost):
		return !lost.sent
	}
	return false
}

// throttled tells a rate limit from the limit on sandboxes at once, which has
// the same status and says nothing about when.
func (e *apiError) throttled() bool { return e.Status == http.StatusTooManyRequests && e.After > 0 }

// How often a call is tried, and for how long a service may put us off: after
// that its answer is passed on to whoever waits.
const (
	maxTries = 5
	maxAfter = 30 * time.Second
)

// repeat makes a call until it succeeds, worth says no, it was tried often
// enough, or ctx ends.
func repeat(ctx context.Context, worth func(error) bool, call func() error) error {
	for n := 0; ; n++ {
		err := call()
		if err == nil || n == maxTries-1 || !worth(err) {
			return err
		}
		wait := 200 * time.Millisecond << n
		var refused *apiError
		if errors.As(err, &refused) {
			if refused.After > maxAfter {
				return err
			}
			wait = max(wait, refused.After)
		}
		if sleep(ctx, wait+rand.N(wait/4)) != nil {
			return err
		}
	}
}

// idempotent makes a call that may be made twice.
func (c *client) idempotent(ctx context.Context, method, path string, in, out any) (h http.Header, err error) {
	err = repeat(ctx, again, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, fmt.Errorf("it took longer than %v", callTimeout))
		defer cancel()
		h, err = c.call(ctx, method, path, in, out)
		return err
	})
	return h, err
}

// A newSandbox is the body of a creation: NewSandboxV2, NewSandbox in
// openapi.yml.
type newSandbox struct {
	Template string            `json:"templateID"`
	Timeout  int               `json:"timeout"` // seconds
	Metadata map[string]string `json:"metadata"`
	Internet bool              `json:"allow_internet_access"`
	Network  network           `json:"network"`
	Pause    bool              `json:"autoPause"` // false: what has expired is gone

	// Secure is for the older call; the newer knows nothing else. Without it
	// envd obeys whoever knows the sandbox's id.
	Secure bool `json:"secure,omitempty"`
}

// network has PublicTraffic false: otherwise whatever listens in a sandbox is
// served to the whole world.
type network struct {
	AllowOut      []string `json:"allowOut,omitempty"`
	DenyOut       []string `json:"denyOut,omitempty"`
	PublicTraffic bool     `json:"allowPublicTraffic"`
}

// A created sandbox.
type created struct {
	ID      string `json:"sandboxID"`
	Token   Secret `json:"envdAccessToken"`
	Version string `json:"envdVersion"`
	Domain  string `json:"domain"` // "" = the service's own
}

// create makes a sandbox. Once a call is on its way it is not given up when
// ctx ends, or nobody would know whether there is one. When create fails,
// nothing is left; should that not be certain, it is said in the log, and the
// service ends what there may be after in.Timeout.
func (c *client) create(ctx context.Context, in newSandbox, log *slog.Logger) (out created, err error) {
	err = repeat(ctx, unmade, func() error {
		if err := c.pace.wait(ctx); err != nil {
			return err
		}
		call, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), createTimeout, fmt.Errorf("it took longer than %v", createTimeout))
		defer cancel()
		out = created{}
		err := c.postSandbox(call, in, &out)
		if err == nil {
			if err = out.check(); err != nil {
				err = &lostError{host: hostOf(c.api), sent: true, err: err}
			}
		}
		if e := (*apiError)(nil); errors.As(err, &e) && e.After > 0 {
			c.pace.hold(min(e.After, maxAfter))
		}
		return err
	})
	var refused *apiError
	switch {
	case err == nil, unmade(err), errors.As(err, &refused) && refused.Status < 500:
	case errors.As(err, &refused), errors.As(err, new(*lostError)):
		c.takeBack(ctx, in, log)
	}
	return out, err
}

// postSandbox makes one try, with the newer call or else with the older.
func (c *client) postSandbox(ctx context.Context, in newSandbox, out *created) error {
	if !c.old.Load() {
		_, err := c.call(ctx, http.MethodPost, "/v2/sandboxes", in, out)
		if !unknownCall(err) {
			return err
		}
	}
	in.Secure = true
	_, err := c.call(ctx, http.MethodPost, "/sandboxes", in, out)
	if err == nil {
		c.old.Store(true)
	}
	return err
}

// sandboxID is how the name of a sandbox looks. It goes into addresses.
var sandboxID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*$`)

// check reports why there cannot be such a sandbox.
func (c created) check() error {
	if !sandboxID.MatchString(c.ID) || c.Domain != "" && !domainName.MatchString(c.Domain) {
		return fmt.Errorf("a sandbox named %q at %q cannot be", oneLine(c.ID), oneLine(c.Domain))
	}
	return nil
}

// unknownCall tells a control plane that has no such call from one that has
// no such template. One of August 2026 says 400 "method not allowed".
func unknownCall(err error) bool {
	var e *apiError
	if !errors.As(err, &e) {
		return false
	}
	text := strings.ToLower(e.Message)
	switch e.Status {
	case http.StatusBadRequest:
		return text == "method not allowed" || text == "no matching operation was found"
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return !strings.Contains(text, "template") && !strings.Contains(text, "tag ")
	}
	return false
}

// takeBack looks for a sandbox whose creation was not answered, and ends it.
func (c *client) takeBack(ctx context.Context, in newSandbox, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	nonce := in.Metadata[metaSandbox]
	for _, wait := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second} {
		if sleep(ctx, wait) != nil {
			break
		}
		found, err := c.list(ctx, metaSandbox, nonce)
		if err != nil {
			break
		}
		for _, l := range found {
			if err = c.kill(ctx, l.ID); err != nil {
				log.Error("a sandbox is left over; the service ends it by itself", "sandbox", l.ID, "error", err)
			}
		}
		if len(found) > 0 {
			return
		}
	}
	log.Warn("a creation was not answered; what it may have made, the service ends by itself",
		"nonce", nonce, "after", backends.Duration(time.Duration(in.Timeout)*time.Second))
}

// kill ends a sandbox. One that is gone already is fine.
func (c *client) kill(ctx context.Context, id string) error {
	_, err := c.idempotent(ctx, http.MethodDelete, "/sandboxes/"+url.PathEscape(id), nil, nil)
	if isStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

// renew lets a sandbox live for d from now on.
func (c *client) renew(ctx context.Context, id string, d time.Duration) error {
	body := map[string]int{"timeout": int(d / time.Second)}
	_, err := c.idempotent(ctx, http.MethodPost, "/sandboxes/"+url.PathEscape(id)+"/timeout", body, nil)
	return err
}

// A listed sandbox: ListedSandbox and SandboxDetail in openapi.yml.
type listed struct {
	ID       string            `json:"sandboxID"`
	State    string            `json:"state"` // "running" or "paused"
	EndAt    time.Time         `json:"endAt"`
	Metadata map[string]string `json:"metadata"`
	Token    Secret            `json:"envdAccessToken"` // only of get

	left time.Duration // until EndAt, by the service's clock; only of get
}

// get tells how a sandbox is. One that is gone is an *apiError with status
// 404.
func (c *client) get(ctx context.Context, id string) (l listed, err error) {
	h, err := c.idempotent(ctx, http.MethodGet, "/sandboxes/"+url.PathEscape(id), nil, &l)
	if err != nil {
		return l, err
	}
	now := time.Now()
	if date, err := http.ParseTime(h.Get("Date")); err == nil && now.Sub(date).Abs() > 2*time.Second {
		now = date // it has whole seconds only, so it is used where that is better than nothing
	}
	l.left = l.EndAt.Sub(now)
	return l, nil
}

// list returns the sandboxes that have a value in their metadata.
func (c *client) list(ctx context.Context, key, value string) (all []listed, err error) {
	// The filter is a query inside of the query, escaped once more.
	filter := url.Values{url.QueryEscape(key): {url.QueryEscape(value)}}.Encode()
	q := url.Values{"metadata": {filter}, "state": {"running,paused"}, "limit": {"100"}}
	const mostPages = 1000
	for range mostPages {
		var page []listed
		h, err := c.idempotent(ctx, http.MethodGet, "/v2/sandboxes?"+q.Encode(), nil, &page)
		if len(all) == 0 && unknownCall(err) {
			_, err = c.idempotent(ctx, http.MethodGet, "/sandboxes?"+url.Values{"metadata": {filter}}.Encode(), nil, &page)
			h = http.Header{}
		}
		if err != nil {
			return all, err
		}
		for _, l := range page {
			if l.Metadata[key] == value && sandboxID.MatchString(l.ID) { // whatever the service took the filter for
				all = append(all, l)
			}
		}
		token := h.Get("X-Next-Token")
		if token == "" {
			return all, nil
		}
		q.Set("nextToken", token)
	}
	return all, errors.New("the service's list of sandboxes does not end")
}

// explain says what to do about a failure, to the model and the operator.
func explain(err error) error {
	var e *apiError
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Status == http.StatusUnauthorized:
		return fmt.Errorf("the API key was refused: check e2b_api_key_file, e2b_api_key or $%s, and that the key belongs to this service: %w", keyVariable, err)
	case e.Status == http.StatusForbidden:
		return fmt.Errorf("the account may not do this; is it blocked, or the template another team's? %w", err)
	case e.throttled():
		return fmt.Errorf("the service is asked for too much at once, try again in %v: %w", backends.Duration(e.After), err)
	case e.Status == http.StatusTooManyRequests:
		return fmt.Errorf("the account has as many sandboxes as it may have at once; end some, or lower max_sandboxes: %w", err)
	case e.Status >= 500:
		return fmt.Errorf("the service has a problem of its own; try again: %w", err)
	}
	return err
}
