package e2b

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
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

// hide takes the secret out of a text that somebody else wrote.
func (s Secret) hide(text string) string {
	if s == "" {
		return text
	}
	return strings.ReplaceAll(text, string(s), redacted)
}

// check reports why s cannot be a key. It does not show it.
func (s Secret) check() error {
	switch {
	case s == "":
		return errors.New("it is empty")
	case strings.ContainsFunc(string(s), func(r rune) bool { return r > unicode.MaxASCII || r <= ' ' || r == 0x7f }):
		return errors.New("it has blanks or characters that no key has")
	}
	return nil
}

// keyVariable is where E2B's own programs look for the key.
const keyVariable = "E2B_API_KEY"

// maxKey is how long a file with a key may be.
const maxKey = 4 << 10

// key finds the API key. It is called for each use, so that a key that was
// changed is used at once.
func (o *Options) key() (Secret, error) {
	switch {
	case o.APIKey != "":
		return o.APIKey, nil
	case o.APIKeyFile != "":
		return readKey(o.APIKeyFile)
	}
	k := Secret(strings.TrimSpace(os.Getenv(keyVariable)))
	if k == "" {
		return "", fmt.Errorf("there is no API key: set e2b_api_key_file or e2b_api_key in the profile, or $%s for the daemon", keyVariable)
	}
	if err := k.check(); err != nil {
		return "", fmt.Errorf("the API key in $%s: %w", keyVariable, err)
	}
	return k, nil
}

// checkKeyFile reports why a name cannot be that of a file with the key.
func checkKeyFile(name string) error {
	if name == "" || filepath.IsAbs(name) {
		return nil
	}
	if strings.ContainsRune(name, filepath.Separator) || name == "." || name == ".." {
		return fmt.Errorf("%q is neither an absolute path nor a name under $CREDENTIALS_DIRECTORY; write the whole path", name)
	}
	return nil
}

// readKey reads the key from a file that not everybody may read.
func readKey(name string) (Secret, error) {
	path := name
	if !filepath.IsAbs(name) {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return "", fmt.Errorf("the file of the API key, %s, is a name under $CREDENTIALS_DIRECTORY, which is not set: use LoadCredential= in the unit, or an absolute path", name)
		}
		path = filepath.Join(dir, name)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the API key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", fmt.Errorf("read the API key: %w", err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("read the API key: %s is not a file", path)
	case info.Mode().Perm()&0o007 != 0 && filepath.IsAbs(name): // systemd guards its own by their directory
		return "", fmt.Errorf("every user of this machine can read the API key in %s: chmod o= it", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return "", fmt.Errorf("read the API key: %w", err)
	}
	k := Secret(strings.TrimSpace(string(data)))
	if err := k.check(); err != nil {
		return "", fmt.Errorf("the API key in %s: %w", path, err)
	}
	return k, nil
}
