package profiles

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// A source is one TOML file.
type source struct {
	name  string         // as problems name it
	table map[string]any // nil when it could not be read or parsed
	lines map[string]int // see index

	// blind says that nobody knows what [defaults] were meant to be: the file
	// is unreadable, or has them under a wrong name or in a wrong place.
	blind bool
}

// line returns the line of a key, or of the nearest table or array that it is
// in.
func (s *source) line(key string) int {
	for ; key != ""; key = parent(key) {
		if n := s.lines[key]; n > 0 {
			return n
		}
	}
	return 0
}

// parent cuts the last part off a key: "a.b[0]" is in "a.b", which is in "a".
func parent(key string) string {
	return key[:max(0, strings.LastIndexAny(key, ".["))]
}

// head returns the first part of a key: "a" of "a.b[0]".
func head(key string) string {
	if i := strings.IndexAny(key, ".["); i > 0 {
		return key[:i]
	}
	return key
}

// parse makes a source of data; data is nil when it could not be read.
func (l *loader) parse(name string, data []byte) *source {
	s := &source{name: name, blind: true}
	if data == nil {
		return s
	}
	table := map[string]any{}
	md, err := toml.Decode(string(data), &table)
	if err != nil {
		var pe toml.ParseError
		line, text := 0, err.Error()
		if errors.As(err, &pe) {
			// Position.Line is one too many when the line break is what is wrong.
			at := min(max(pe.Position.Start, 0), len(data))
			line = 1 + bytes.Count(data[:at], []byte("\n"))
			text = strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(strings.TrimSuffix(pe.Message, "."))
		}
		if strings.HasPrefix(text, "expected value but found") {
			text = "expected a value; put a string in quotes" // and show nothing of it
		}
		l.bad(s, line, "", "not TOML: "+text)
		return s
	}
	s.table, s.lines, s.blind = table, index(string(data), md), false
	return s
}

// dropIns returns the paths of profiles.d/*.toml beside the main file, sorted.
// Names that begin with a dot are not meant: editors leave such.
func dropIns(main string) ([]string, error) {
	dir := filepath.Join(filepath.Dir(main), "profiles.d")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".toml") && !strings.HasPrefix(name, ".") {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths, nil
}

// maxFile is the size of the largest file that is read.
const maxFile = 4 << 20

// readFile reads a regular file of at most maxFile bytes.
func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, errors.New("cannot be read: " + cause(err))
	case info.IsDir():
		return nil, errors.New("is a directory; name a file")
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file; it is read again at each reload")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, errors.New("cannot be read: " + cause(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, errors.New("cannot be read: " + cause(err))
	case len(data) > maxFile:
		return nil, errors.New("is larger than 4 MiB; split it up in profiles.d")
	}
	return data, nil
}

// cause is the text of err without the operation and the path.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return err.Error()
}
