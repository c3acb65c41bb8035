package sh

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/applets"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// Main is the program sh, bash or ash. self is the file of this program, which
// runs scripts without #!.
func Main(args, env []string, self string) int {
	s := New(args[0], env, self)
	status := s.main(args[1:])
	s.outlive(status)
	return status
}

// outlive stays for the background subshells that run on goroutines of this
// process, when the script is over. Nobody waits for that.
func (s *Shell) outlive(status int) {
	for _, j := range s.jobs {
		if !j.finished() && s.shared.subs[j.pid] != nil {
			sys.Detach(status)
			<-j.done
		}
	}
}

func (s *Shell) main(args []string) int {
	var command, readStdin bool
	for len(args) > 0 {
		a := args[0]
		if len(a) < 2 || a[0] != '-' && a[0] != '+' {
			if a == "-" {
				args = args[1:]
			}
			break
		}
		args = args[1:]
		if a == "--" {
			break
		}
		if strings.HasPrefix(a, "--") {
			switch a {
			case "--posix":
				s.opt[2] = true
			case "--norc", "--noprofile", "--login", "--restricted", "--verbose":
			case "--rcfile", "--init-file":
				if len(args) > 0 {
					args = args[1:]
				}
			case "--version":
				fmt.Fprintln(s.writer(1), "GNU bash, version 5.2.15(1)-release compatible shell of kilntainers (mvdan.cc/sh syntax)")
				return 0
			case "--help":
				fmt.Fprintln(s.writer(1), "Usage: "+s.name+" [-abefhkmnpuvxBCEHPT] [-o option] [-c command | file | -s] [argument...]")
				return 0
			default:
				fmt.Fprintf(s.stderr(), "%s: %s: invalid option\n", s.name, a)
				return 2
			}
			continue
		}
		flags := a[:1]
		for _, c := range a[1:] {
			switch {
			case c == 'c' && a[0] == '-':
				command = true
			case c == 's' && a[0] == '-':
				readStdin = true
			case c == 'l' || c == 'i':
			case c == 'O' && len(args) > 0:
				s.shopt[args[0]] = a[0] == '-'
				args = args[1:]
			case c == 'o':
				if len(args) == 0 || !s.setLong(args[0], a[0] == '-') {
					fmt.Fprintf(s.stderr(), "%s: %s: invalid option name\n", s.name, strings.Join(args, " "))
					return 2
				}
				args = args[1:]
			default:
				flags += string(c)
			}
		}
		if len(flags) > 1 {
			if _, _, st := s.setOptions([]string{flags}, s.name); st != 0 {
				return st
			}
		}
	}
	s.opt['c'], s.opt['s'] = command, readStdin
	if command {
		if len(args) == 0 {
			fmt.Fprintf(s.stderr(), "%s: -c: option requires an argument\n", s.name)
			return 2
		}
		text := args[0]
		args = args[1:]
		if len(args) > 0 {
			s.name = args[0]
			args = args[1:]
		}
		s.params = args
		return s.Run(strings.NewReader(text), s.name+": -c")
	}
	if len(args) > 0 && !readStdin {
		return s.runFile(args[0], args[1:])
	}
	s.opt['s'] = true
	s.params = args
	return s.Run(s.stdinReader(), s.name)
}

// runFile runs a script.
func (s *Shell) runFile(name string, args []string) int {
	f, err := os.Open(s.path(name))
	if err != nil {
		if !strings.Contains(name, "/") {
			if p, e := s.find(name); e == nil {
				f, err = os.Open(p.path)
			}
		}
	}
	if err == nil {
		if st, e := f.Stat(); e == nil && st.IsDir() {
			fmt.Fprintf(s.stderr(), "%s: %s: Is a directory\n", s.name, name)
			return 126
		}
	}
	if err != nil {
		if s.ash {
			fmt.Fprintf(s.stderr(), "%s: can't open '%s': %s\n", s.name, name, applets.Strerror(err))
			return 2
		}
		fmt.Fprintf(s.stderr(), "%s: %s: %s\n", s.name, name, applets.Strerror(err))
		return 127
	}
	defer f.Close()
	s.name, s.script, s.params = name, true, args
	return s.Run(bufio.NewReader(f), name)
}

// stdinReader gives the parser one line at a time, so that commands of the
// script can read the lines after them.
func (s *Shell) stdinReader() io.Reader { return &lineReader{s: s} }

type lineReader struct {
	s   *Shell
	buf string
	err error
}

func (r *lineReader) Read(p []byte) (int, error) {
	if r.buf == "" {
		if r.err != nil {
			return 0, r.err
		}
		line, err := r.s.readLine(0, '\n')
		r.buf, r.err = line, err
		if err == nil {
			r.buf += "\n"
		}
		if r.buf == "" {
			return 0, r.err
		}
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}
