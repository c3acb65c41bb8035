package modal

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

// A Secret is a text that no log, error or dump shows.
type Secret string

const redacted = "[redacted]"

func (s Secret) String() string               { return redacted }
func (s Secret) GoString() string             { return redacted }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// check reports why s cannot be half of a token. It does not show it.
func (s Secret) check() error {
	switch {
	case s == "":
		return errors.New("it is empty")
	case strings.ContainsFunc(string(s), func(r rune) bool { return r > unicode.MaxASCII || r <= ' ' || r == 0x7f }):
		return errors.New("it has blanks or characters that no token has")
	}
	return nil
}

// tokenShape is what Modal's token ids and secrets look like.
var tokenShape = regexp.MustCompile(`\ba[ks]-[A-Za-z0-9]{8,}`)

// hide takes tokens out of a text that somebody else wrote: this one, and
// whatever looks like one.
func (t token) hide(text string) string {
	for _, s := range []Secret{t.id, t.secret} {
		if s != "" {
			text = strings.ReplaceAll(text, string(s), redacted)
		}
	}
	return tokenShape.ReplaceAllString(text, redacted)
}

// A token is what Modal knows an account by.
type token struct {
	id, secret Secret // both or none
	own        bool   // the profile's, not the environment's
}

// fmt does not ask the fields for their own, since they are not exported.
func (t token) String() string   { return redacted }
func (t token) GoString() string { return redacted }

// token finds the token. It has none when neither the profile nor the
// environment has: then the SDK looks in its own file.
func (o *Options) token() (token, error) {
	id, err := half("modal_token_id", o.TokenID, o.TokenIDFile)
	if err != nil {
		return token{}, err
	}
	secret, err := half("modal_token_secret", o.TokenSecret, o.TokenSecretFile)
	if err != nil {
		return token{}, err
	}
	if id != "" && secret != "" {
		return token{id, secret, true}, nil
	}
	t := token{id: Secret(os.Getenv("MODAL_TOKEN_ID")), secret: Secret(os.Getenv("MODAL_TOKEN_SECRET"))}
	if t.id == "" || t.secret == "" {
		return token{}, nil
	}
	return t, nil
}

// half finds the id or the secret of a token.
func half(key string, value Secret, file string) (Secret, error) {
	if file == "" {
		return value, nil
	}
	s, err := readSecret(file)
	if err != nil {
		return "", fmt.Errorf("%s_file: %w", key, err)
	}
	return s, nil
}

// checkFile reports why a name cannot be that of a file with a secret.
func checkFile(name string) error {
	if name == "" || filepath.IsAbs(name) {
		return nil
	}
	if strings.ContainsRune(name, filepath.Separator) || name == "." || name == ".." {
		return fmt.Errorf("%q is neither an absolute path nor a name under $CREDENTIALS_DIRECTORY; write the whole path", name)
	}
	return nil
}

// maxSecret is how long a file with half of a token may be.
const maxSecret = 4 << 10

// readSecret reads a file that not everybody may read.
func readSecret(name string) (Secret, error) {
	path := name
	if !filepath.IsAbs(name) {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return "", fmt.Errorf("%s is a name under $CREDENTIALS_DIRECTORY, which is not set: use LoadCredential= in the unit, or an absolute path", name)
		}
		path = filepath.Join(dir, name)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a file", path)
	case info.Mode().Perm()&0o007 != 0 && filepath.IsAbs(name): // systemd guards its own by their directory
		return "", fmt.Errorf("every user of this machine can read %s: chmod o= it", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return "", err
	}
	s := Secret(strings.TrimSpace(string(data)))
	if err := s.check(); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}
