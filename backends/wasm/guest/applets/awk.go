package applets

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/benhoyt/goawk/interp"
	"github.com/benhoyt/goawk/parser"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/regex"
)

// awk is goawk with the options and the functions of gawk that scripts use.
func awk(c *Ctx) {
	o := c.options("+F:v:f:e:Vc:b", "field-separator=F assign=v file=f source=e version=V characters-as-bytes=b posix traditional re-interval")
	fs, hasFS, files := "", false, []string{}
	var vars []string
	src := ""
	for o.next() {
		switch o.opt {
		case "F":
			fs, hasFS = o.arg, true
		case "v":
			name, val, ok := strings.Cut(o.arg, "=")
			if !ok {
				c.dieCode(2, "`%s' argument to `-v' not in `var=value' form", o.arg)
			}
			text, _ := unescape(val, escPrintf)
			vars = append(vars, name, text)
		case "f":
			files = append(files, o.arg)
		case "e":
			src += o.arg + "\n"
		case "V":
			c.println("GoAWK 1.29.1 (kilntainers)")
			return
		}
	}
	args := o.args
	for _, f := range files {
		r, err := c.open(f)
		if err != nil {
			c.dieCode(2, "fatal: cannot open source file `%s' for reading: %s", f, Strerror(err))
		}
		data, _ := io.ReadAll(r)
		r.Close()
		src += string(data) + "\n"
	}
	if src == "" && len(files) == 0 {
		if len(args) == 0 {
			c.println(synopsis("awk"))
			c.exit(2)
		}
		src, args = args[0], args[1:]
	}
	if hasFS {
		if fs == "t" {
			fs = "\t"
		}
		text, _ := unescape(fs, escPrintf)
		vars = append(vars, "FS", text)
	}
	funcs := awkFuncs()
	prog, err := parser.ParseProgram([]byte(awkSplit(awkConstants(src))), &parser.ParserConfig{Funcs: funcs})
	if err != nil {
		var pe *parser.ParseError
		if errors.As(err, &pe) {
			c.dieCode(2, "cmd. line:%d: %s", pe.Position.Line, pe.Message)
		}
		c.dieCode(2, "%v", err)
	}
	code, err := interp.ExecProgram(prog, &interp.Config{
		Stdin: c.in, Output: c.out, Error: c.err, Argv0: "awk", Args: args, Vars: vars, Funcs: funcs,
		ShellCommand: []string{shell(), "-c"}, Environ: awkEnviron(), Chars: true,
	})
	if err != nil {
		c.dieCode(2, "%s", awkError(err))
	}
	c.code = code
}

// awkAssignsFS finds programs that set FS.
var awkAssignsFS = regexp.MustCompile(`\bFS[ \t]*=[^=]`)

// awkSplit lets a change of FS begin with the next record. goawk splits a
// record when a field is first used, with what FS is then; a first rule that
// uses one makes it early.
func awkSplit(src string) string {
	if awkAssignsFS.MatchString(src) {
		return "NF < 0 { } " + src
	}
	return src
}

// shell is the path of sh; os/exec cannot search for it on WASI.
func shell() string {
	p, err := lookPath("sh", os.Getenv("PATH"))
	if err != nil {
		return "/bin/sh"
	}
	return p
}

func awkEnviron() []string {
	l := []string{}
	for _, kv := range os.Environ() {
		if n, v, ok := strings.Cut(kv, "="); ok && n != "" {
			l = append(l, n, v)
		}
	}
	return l
}

// awkError words a run-time error as gawk does.
func awkError(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return fmt.Sprintf("fatal: cannot open file `%s' for reading: %s", pe.Path, Strerror(err))
	}
	return err.Error()
}

// awkFuncs are functions of gawk that goawk lacks. gensub cannot modify and
// strftime, systime and mktime are what scripts use of gawk's clock.
func awkFuncs() map[string]any {
	return map[string]any{
		"gensub":   awkGensub,
		"strftime": awkStrftime,
		"systime":  awkSystime,
		"mktime":   awkMktime,
		"and":      func(a, b float64) float64 { return float64(uint64(a) & uint64(b)) },
		"or":       func(a, b float64) float64 { return float64(uint64(a) | uint64(b)) },
		"xor":      func(a, b float64) float64 { return float64(uint64(a) ^ uint64(b)) },
		"lshift":   func(a, b float64) float64 { return float64(uint64(a) << uint64(b)) },
		"rshift":   func(a, b float64) float64 { return float64(uint64(a) >> uint64(b)) },
		"compl":    func(a float64) float64 { return float64(^uint64(a) & (1<<53 - 1)) },
		"strtonum": awkStrtonum,
	}
}

// awkGensub is gensub(re, replacement, "g" or number, text).
func awkGensub(re, repl, how, text string) (string, error) {
	r, err := regex.Compile(re, regex.Extended, regex.Escapes)
	if err != nil {
		return "", err
	}
	nth := 1
	all := strings.HasPrefix(how, "g") || strings.HasPrefix(how, "G")
	if !all {
		fmt.Sscan(how, &nth)
	}
	cmd := &sedCmd{}
	// In gensub \\0 is the match and & is too; the syntax is that of sed's s.
	cmd.repl = sedReplacement(repl)
	var out []byte
	at := 0
	for i, m := range r.All([]byte(text), -1) {
		if !all && i+1 != nth {
			continue
		}
		out = append(out, text[at:m[0]]...)
		out = cmd.replace(out, []byte(text), m)
		at = m[1]
	}
	return string(append(out, text[at:]...)), nil
}
