package sh

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/applets"
)

// readLine reads up to a delimiter, which it does not return, and takes no
// byte beyond it: what follows is for the next reader of the file.
func (s *Shell) readLine(fd int, delim byte) (string, error) {
	f := s.fds[fd]
	if f == nil {
		return "", os.ErrClosed
	}
	pos, err := f.f.Seek(0, io.SeekCurrent)
	if err != nil {
		var line []byte
		var b [1]byte
		for {
			n, err := f.f.Read(b[:])
			if n == 1 {
				if b[0] == delim {
					return string(line), nil
				}
				line = append(line, b[0])
			}
			if err != nil {
				return string(line), err
			}
		}
	}
	// A file: read ahead and go back.
	var line []byte
	buf := make([]byte, 512)
	for {
		n, err := f.f.Read(buf)
		for i := range n {
			if buf[i] == delim {
				line = append(line, buf[:i]...)
				f.f.Seek(pos+int64(len(line))+1, io.SeekStart)
				return string(line), nil
			}
		}
		line = append(line, buf[:n]...)
		if err != nil {
			return string(line), err
		}
		if len(buf) < 1<<16 {
			buf = make([]byte, 2*len(buf))
		}
	}
}

func readBuiltin(s *Shell, args []string) int {
	var raw, toArray bool
	delim, fd, nchars, exact := byte('\n'), 0, -1, false
	var timeout time.Duration = -1
	array, prompt := "", ""
	args = args[1:]
options:
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		opt := args[0]
		args = args[1:]
		if opt == "--" {
			break
		}
		for i := 1; i < len(opt); i++ {
			c := opt[i]
			switch c {
			case 'r':
				raw = true
				continue
			case 's', 'e':
				continue
			}
			if strings.IndexByte("adnNptui", c) < 0 {
				s.errorf("read: -%c: invalid option", c)
				return 2
			}
			val := opt[i+1:]
			if val == "" {
				if len(args) == 0 {
					s.errorf("read: -%c: option requires an argument", c)
					return 2
				}
				val, args = args[0], args[1:]
			}
			switch c {
			case 'a':
				array, toArray = val, true
			case 'd':
				delim = 0
				if val != "" {
					delim = val[0]
				}
			case 'n', 'N':
				n, err := strconv.Atoi(val)
				if err != nil || n < 0 {
					s.errorf("read: %s: invalid number", val)
					return 1
				}
				nchars, exact = n, c == 'N'
			case 'p':
				prompt = val
			case 't':
				f, err := strconv.ParseFloat(val, 64)
				if err != nil || f < 0 {
					s.errorf("read: %s: invalid timeout specification", val)
					return 1
				}
				timeout = time.Duration(f * float64(time.Second))
			case 'u':
				n, err := strconv.Atoi(val)
				if err != nil || s.fds[n] == nil {
					s.errorf("read: %s: invalid file descriptor: Bad file descriptor", val)
					return 1
				}
				fd = n
			}
			continue options
		}
	}
	_ = prompt // shown on a terminal only
	for _, n := range args {
		if !validName(strings.SplitN(n, "[", 2)[0]) {
			s.errorf("read: `%s': not a valid identifier", n)
			return 1
		}
	}
	if s.fds[fd] == nil {
		s.errorf("read: read error: %d: Bad file descriptor", fd)
		return 1
	}
	line, status := s.readInput(fd, delim, nchars, exact, raw, timeout)
	if exact {
		name := "REPLY"
		if len(args) > 0 {
			name = args[0]
		}
		s.setString(name, line)
		return status
	}
	if toArray {
		v := s.modify(array)
		v.kind, v.set, v.val, v.keys, v.vals = indexed, true, "", nil, nil
		for i, w := range readFields(line, s.ifs(), -1, raw) {
			v.put(i, w)
		}
		return status
	}
	if len(args) == 0 {
		if !raw {
			line = unescapeRead(line)
		}
		s.setString("REPLY", line)
		return status
	}
	vals := readFields(line, s.ifs(), len(args), raw)
	for i, n := range args {
		val := ""
		if i < len(vals) {
			val = vals[i]
		}
		var err error
		if a := s.parseAssign(n + "=" + ""); a != nil && a.Index != nil {
			err = s.setElement(a.Name.Value, a.Index, val, false)
		} else {
			err = s.setString(n, val)
		}
		if err != nil {
			s.errorf("%v", err)
			return 1
		}
	}
	return status
}

// readInput gets the raw text for read.
func (s *Shell) readInput(fd int, delim byte, nchars int, exact, raw bool, timeout time.Duration) (string, int) {
	type result struct {
		line   string
		status int
	}
	get := func() result {
		if nchars == 0 {
			return result{"", 0}
		}
		if nchars > 0 {
			return s.readChars(fd, delim, nchars, exact, raw)
		}
		var all string
		for {
			line, err := s.readLine(fd, delim)
			all += line
			if err != nil {
				if err != io.EOF && !os.IsTimeout(err) {
					s.errorf("read: read error: %d: %s", fd, applets.Strerror(err))
				}
				return result{all, 1}
			}
			// A backslash joins lines.
			if raw || delim != '\n' || !oddBackslashes(all) {
				return result{all, 0}
			}
			all = all[:len(all)-1]
		}
	}
	var r result
	switch {
	case timeout > 0:
		ch := make(chan result, 1)
		f := s.fds[fd].f
		f.SetReadDeadline(time.Now().Add(timeout))
		go func() { ch <- get() }()
		select {
		case r = <-ch:
			f.SetReadDeadline(time.Time{})
		case <-time.After(timeout + 50*time.Millisecond):
			r = result{"", 142}
		}
		if r.status == 1 && s.fds[fd] != nil && r.line == "" {
			r.status = 142
			if _, err := f.Seek(0, io.SeekCurrent); err == nil {
				r.status = 1
			}
		}
	default:
		r = get()
	}
	return strings.ReplaceAll(r.line, "\x00", ""), r.status
}

func oddBackslashes(s string) bool {
	n := 0
	for n < len(s) && s[len(s)-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

func (s *Shell) readChars(fd int, delim byte, n int, exact, raw bool) (r struct {
	line   string
	status int
}) {
	var b [1]byte
	var line []byte
	for utf8.RuneCount(line) < n || !utf8.FullRune(line[lastRune(line):]) {
		k, err := s.fds[fd].f.Read(b[:])
		if k == 1 {
			if b[0] == delim && !exact {
				break
			}
			line = append(line, b[0])
		}
		if err != nil {
			r.status = 1
			break
		}
	}
	r.line = string(line)
	return r
}

func lastRune(b []byte) int {
	i := len(b) - 1
	for i > 0 && !utf8.RuneStart(b[i]) {
		i--
	}
	return max(i, 0)
}

func unescapeRead(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		} else if s[i] == '\\' {
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// readFields splits a line into at most n fields (-1: any number); the last
// one keeps its delimiters.
func readFields(line, ifs string, n int, raw bool) []string {
	isWS := func(c byte) bool { return (c == ' ' || c == '\t' || c == '\n') && strings.IndexByte(ifs, c) >= 0 }
	isIFS := func(c byte) bool { return strings.IndexByte(ifs, c) >= 0 }
	var out []string
	i := 0
	for i < len(line) && isWS(line[i]) {
		i++
	}
	for i < len(line) {
		if n > 0 && len(out) == n-1 {
			rest := lastField(line[i:], isWS, isIFS, raw)
			return append(out, rest)
		}
		var b strings.Builder
		for i < len(line) {
			c := line[i]
			if c == '\\' && !raw {
				i++
				if i < len(line) {
					b.WriteByte(line[i])
					i++
				}
				continue
			}
			if isIFS(c) {
				break
			}
			b.WriteByte(c)
			i++
		}
		out = append(out, b.String())
		for i < len(line) && isWS(line[i]) {
			i++
		}
		if i < len(line) && isIFS(line[i]) && !isWS(line[i]) {
			i++
			for i < len(line) && isWS(line[i]) {
				i++
			}
		}
	}
	return out
}

// lastField trims white space, and one delimiter if it is the only one.
func lastField(s string, isWS, isIFS func(byte) bool, raw bool) string {
	end := len(s)
	for end > 0 && isWS(s[end-1]) && !(end > 1 && s[end-2] == '\\' && !raw) {
		end--
	}
	s = s[:end]
	// A single field followed by one delimiter loses it.
	if end > 0 && isIFS(s[end-1]) && !isWS(s[end-1]) {
		t := s[:end-1]
		n := len(t)
		for n > 0 && isWS(t[n-1]) {
			n--
		}
		only := true
		for i := 0; i < n; i++ {
			if t[i] == '\\' && !raw {
				i++
			} else if isIFS(t[i]) {
				only = false
			}
		}
		if only {
			s = t[:n]
		}
	}
	if raw {
		return s
	}
	return unescapeRead(s)
}

// mapfile reads lines into an array.
func mapfileBuiltin(s *Shell, args []string) int {
	trim, delim, fd, count, origin, skip, keep := false, byte('\n'), 0, 0, 0, 0, false
	args2, err := getopts(args[1:], "td:n:O:s:u:C:c:", func(c byte, val string) error {
		n, _ := strconv.Atoi(val)
		switch c {
		case 't':
			trim = true
		case 'd':
			delim = 0
			if val != "" {
				delim = val[0]
			}
		case 'n':
			count = n
		case 'O':
			origin, keep = n, true
		case 's':
			skip = n
		case 'u':
			fd = n
		}
		return nil
	})
	if err != nil {
		s.errorf("%s: %v", args[0], err)
		return 2
	}
	name := "MAPFILE"
	if len(args2) > 0 {
		name = args2[0]
	}
	if s.fds[fd] == nil {
		s.errorf("%s: %d: invalid file descriptor: Bad file descriptor", args[0], fd)
		return 1
	}
	v := s.modify(name)
	v.kind, v.set = indexed, true
	if !keep {
		v.val, v.keys, v.vals = "", nil, nil
	}
	for i, n := origin, 0; count == 0 || n < count; n++ {
		line, err := s.readLine(fd, delim)
		if err != nil && line == "" {
			break
		}
		if !trim && err == nil {
			line += string(delim)
		}
		if n < skip {
			if count > 0 {
				count++
			}
			continue
		}
		v.put(i, line)
		i++
		if err != nil {
			break
		}
	}
	return 0
}

// getopts parses a builtin's options; letters followed by ':' take a value.
func getopts(args []string, spec string, f func(c byte, val string) error) ([]string, error) {
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		opt := args[0][1:]
		args = args[1:]
		if opt == "-" {
			break
		}
		for opt != "" {
			c, val := opt[0], ""
			opt = opt[1:]
			p := strings.IndexByte(spec, c)
			if p < 0 || c == ':' {
				return nil, fmt.Errorf("-%c: invalid option", c)
			}
			if p+1 < len(spec) && spec[p+1] == ':' {
				if val, opt = opt, ""; val == "" {
					if len(args) == 0 {
						return nil, fmt.Errorf("-%c: option requires an argument", c)
					}
					val, args = args[0], args[1:]
				}
			}
			if err := f(c, val); err != nil {
				return nil, err
			}
		}
	}
	return args, nil
}
