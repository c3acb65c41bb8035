package sh

import (
	"os"
	"sort"
	"strings"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// glob lists the files that match pattern p, sorted.
func (s *Shell) glob(p string) []string {
	start := ""
	for strings.HasPrefix(p, "/") {
		start, p = start+"/", p[1:]
	}
	var out []string
	s.globIn(start, p, &out)
	sort.Strings(out)
	return out
}

// globIn matches the rest of a pattern below the directory prefix, which is
// "" or ends with a slash.
func (s *Shell) globIn(prefix, p string, out *[]string) {
	part, rest, more := splitPath(p)
	for strings.HasPrefix(rest, "/") {
		part, rest = part+"/", rest[1:]
	}
	slashes := part[len(strings.TrimRight(part, "/")):]
	part = strings.TrimRight(part, "/")
	if !hasMeta(part) {
		name := prefix + unescapePattern(part)
		if more {
			s.globIn(name+slashes+"/", rest, out)
			return
		}
		if _, err := sys.Lstat(s.path(name)); err == nil {
			*out = append(*out, name)
		}
		return
	}
	if part == "**" && s.shopt["globstar"] {
		s.globStar(prefix, rest, more, out)
		return
	}
	for _, e := range s.entries(prefix) {
		name := e.Name()
		if !s.matchName(part, name) {
			continue
		}
		if !more {
			*out = append(*out, prefix+name)
		} else if s.isDir(prefix + name) {
			if rest == "" {
				*out = append(*out, prefix+name+slashes+"/")
			} else {
				s.globIn(prefix+name+slashes+"/", rest, out)
			}
		}
	}
	if strings.HasPrefix(part, ".") { // . and .. are not in listings
		for _, name := range []string{".", ".."} {
			if match(part, name, false) && more && rest != "" {
				s.globIn(prefix+name+"/", rest, out)
			}
		}
	}
}

// globStar is the ** element: no directory, or any number of them.
func (s *Shell) globStar(prefix, rest string, more bool, out *[]string) {
	if more && rest != "" {
		s.globIn(prefix, rest, out)
	} else if prefix != "" {
		*out = append(*out, prefix)
	}
	for _, e := range s.entries(prefix) {
		name := e.Name()
		if name[0] == '.' && !s.shopt["dotglob"] {
			continue
		}
		if e.IsDir() {
			if more || rest != "" {
				s.globStar(prefix+name+"/", rest, more, out)
				continue
			}
			*out = append(*out, prefix+name)
			var below []string
			s.globStar(prefix+name+"/", rest, more, &below)
			for _, b := range below {
				if b != prefix+name+"/" {
					*out = append(*out, b)
				}
			}
		} else if !more {
			*out = append(*out, prefix+name)
		}
	}
}

func (s *Shell) matchName(p, name string) bool {
	if name[0] == '.' && !s.shopt["dotglob"] && !strings.HasPrefix(p, ".") && !strings.HasPrefix(p, `\.`) {
		return false
	}
	return match(p, name, s.shopt["nocaseglob"])
}

func (s *Shell) entries(prefix string) []os.DirEntry {
	if prefix == "" {
		prefix = "."
	}
	l, _ := os.ReadDir(s.path(prefix))
	return l
}

func (s *Shell) isDir(name string) bool {
	i, err := sys.Stat(s.path(name))
	return err == nil && i.IsDir()
}

// splitPath cuts a pattern at its first slash outside brackets.
func splitPath(p string) (part, rest string, more bool) {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			if i+1 < len(p) && p[i+1] != '/' {
				i++
			}
		case '/':
			return p[:i], p[i+1:], true
		}
	}
	return p, "", false
}
