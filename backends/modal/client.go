package modal

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kilntainers/kilntainers/backends"
)

// throttleWait is how long the SDK goes on when Modal asks it to come back
// later. By itself it would go on for ever.
const throttleWait = 30 * time.Second

// A client is a connection to Modal with one token.
type client struct {
	*sdk.Client
	token token
	from  fingerprint
}

// A fingerprint tells whether there is another token than there was.
type fingerprint struct {
	token token
	file  [sha256.Size]byte // of the SDK's own file
}

// configFile is the SDK's own file, or "" where there can be none.
func configFile() string {
	if path := os.Getenv("MODAL_CONFIG_PATH"); path != "" {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".modal.toml")
}

// credentials finds what there is now.
func (o *Options) credentials() (f fingerprint, readable bool, err error) {
	f.token, err = o.token()
	if err != nil {
		return f, false, err
	}
	data, err := os.ReadFile(configFile())
	if err == nil && !f.token.own {
		f.file = sha256.Sum256(data)
	}
	return f, err == nil, nil
}

var errNoToken = errors.New("there is no token for Modal: set modal_token_id_file and modal_token_secret_file in the profile, " +
	"or $MODAL_TOKEN_ID and $MODAL_TOKEN_SECRET for the daemon, or run \"modal token set\" as the daemon's user, with its $HOME")

// connect makes a client. It does no I/O but reading files.
func connect(o *Options, log *slog.Logger) (*client, error) {
	from, readable, err := o.credentials()
	if err != nil {
		return nil, fmt.Errorf("read the token for Modal: %w", err)
	}
	t := from.token
	if t.id == "" && !readable {
		return nil, errNoToken
	}
	wait := throttleWait
	params := &sdk.ClientParams{
		TokenID:         string(t.id),
		TokenSecret:     string(t.secret),
		Logger:          slog.New(warnings{log.Handler()}),
		MaxThrottleWait: &wait,
	}
	if t.own || !readable {
		// Without this the SDK reads its own file, and fails where there is no
		// $HOME, as in a system service. A profile with a token of its own
		// wants nothing from there.
		zero(&params.Config)
	}
	c, err := sdk.NewClientWithOptions(params)
	if err != nil {
		return nil, explain(t, fmt.Errorf("set up the connection to Modal: %w", err))
	}
	return &client{Client: c, token: t, from: from}, nil
}

// zero points p to a new zero value, also one of a type that has no name here.
func zero[T any](p **T) { *p = new(T) }

// warnings passes on no less than warnings: at debug level the SDK logs the
// arguments of every command.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && w.Handler.Enabled(ctx, l)
}
func (w warnings) WithAttrs(a []slog.Attr) slog.Handler { return warnings{w.Handler.WithAttrs(a)} }
func (w warnings) WithGroup(name string) slog.Handler   { return warnings{w.Handler.WithGroup(name)} }

// An apiError is an error of Modal or its SDK in words an operator can act on.
type apiError struct {
	text string
	err  error
}

func (e *apiError) Error() string { return e.text }

// Unwrap is for the code of a gRPC status, not for printing: it may hold what
// Error must not show.
func (e *apiError) Unwrap() error { return e.err }

// explain says what an error of the SDK means. Most are a bare gRPC status.
func explain(t token, err error) error {
	if err == nil || errors.As(err, new(*apiError)) || errors.Is(err, backends.ErrGone) {
		return err
	}
	text := err.Error()
	doing := ""
	if s, ok := status.FromError(err); ok {
		// FromError writes what was wrapped around a status into its message.
		text = strings.TrimSpace(s.Message())
		if i := strings.Index(text, "rpc error: code = "); i >= 0 {
			doing = text[:i]
			_, text, _ = strings.Cut(text[i:], "desc = ")
		}
	}
	text = t.hide(text)
	switch status.Code(err) {
	case codes.Unauthenticated:
		text = fmt.Sprintf("Modal refuses the token (%s); make one with \"modal token new\", and see modal_token_id_file", text)
	case codes.PermissionDenied:
		text = fmt.Sprintf("the token may not do that at Modal (%s)", text)
	case codes.ResourceExhausted:
		text = fmt.Sprintf("Modal has no more for this account now (%s); try again later, or end other sandboxes", text)
	case codes.Unavailable, codes.DeadlineExceeded:
		text = fmt.Sprintf("Modal cannot be reached (%s); check the network and https://status.modal.com", text)
	default:
		if strings.Contains(text, "missing credentials") {
			return errNoToken
		}
	}
	return &apiError{doing + text, err}
}

// refused reports whether Modal did not know the token.
func refused(err error) bool { return status.Code(err) == codes.Unauthenticated }

// notFound reports whether what was asked for is not, or no more, there.
func notFound(err error) bool {
	return status.Code(err) == codes.NotFound || errors.As(err, new(sdk.NotFoundError))
}

// unmade reports whether err, of a call that makes something, says for certain
// that nothing was made.
func unmade(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.ResourceExhausted, codes.Unimplemented, codes.OutOfRange:
		return true
	}
	return false
}

// client returns the backend's connection. When stale is the present one, and
// there is another token by now, it makes a new connection; the old one stays
// for what uses it.
func (b *Backend) client(stale *client) (*client, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current != nil {
		if stale != b.current {
			return b.current, nil
		}
		if now, _, err := b.options.credentials(); err != nil || now == stale.from {
			return stale, err
		}
	}
	c, err := connect(b.options, b.log)
	if err != nil {
		return nil, err
	}
	if b.current != nil {
		b.log.Info("there is another token for Modal; using it")
	}
	b.clients = append(b.clients, c)
	b.current = c
	return c, nil
}

// gone is the GoneError of a sandbox whose main process ended with this code,
// as the SDK tells it (getReturnCode in sandbox.go).
func gone(code int, lived, limit time.Duration) *backends.GoneError {
	switch {
	case code == 124:
		return &backends.GoneError{Reason: fmt.Sprintf("it expired: its time was over (sandbox_timeout %v)", limit)}
	case code == 137:
		return &backends.GoneError{Reason: "it was terminated from outside, or by Modal"}
	}
	return &backends.GoneError{Reason: fmt.Sprintf("Modal ended it (code %d) after %v", code, lived.Round(time.Second))}
}
