package applets

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strconv"
	"strings"

	"github.com/itchyny/gojq"
)

type jqOptions struct {
	raw, join, compact, slurp, null, rawIn, exit, tab, ascii, color, seq, nul bool
	indent                                                                    int
	names                                                                     []string
	values                                                                    []any
	named                                                                     map[string]any
	sorted                                                                    bool
	keys                                                                      *jqKeys
}

// jq is gojq with jq's command line. See jqKeys for the order of keys.
func jq(c *Ctx) {
	opt := &jqOptions{indent: 2, named: map[string]any{}}
	var operands, positional []string
	filter, fromFile, module := "", "", ""
	haveFilter := false
	rest := byte(0) // what operands are: 'a' --args, 'j' --jsonargs
	args := c.args
	need := func(name string, n int) []string {
		if len(args) < n {
			plural := ""
			if n > 1 {
				plural = "s"
			}
			c.dieCode(2, "error: --%s takes %s parameter%s (e.g. --%s name value)", name, map[int]string{1: "one", 2: "two"}[n], plural, name)
		}
		v := args[:n]
		args = args[n:]
		return v
	}
	bind := func(name string, v any) {
		opt.names, opt.values = append(opt.names, "$"+name), append(opt.values, v)
		opt.named[name] = v
	}
	onlyOperands := false
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		if onlyOperands || a == "-" || !strings.HasPrefix(a, "-") {
			if !haveFilter && fromFile == "" {
				filter, haveFilter = a, true
				continue
			}
			if rest != 0 {
				positional = append(positional, a)
			} else {
				operands = append(operands, a)
			}
			continue
		}
		if a == "--" {
			onlyOperands = true
			continue
		}
		if name, ok := strings.CutPrefix(a, "--"); ok {
			switch name {
			case "arg":
				v := need(name, 2)
				bind(v[0], v[1])
			case "argjson":
				v := need(name, 2)
				x, err := parseJSON([]byte(v[1]))
				if err != nil {
					c.dieCode(2, "Invalid JSON text passed to --argjson")
				}
				bind(v[0], x)
			case "slurpfile", "rawfile":
				v := need(name, 2)
				data, err := os.ReadFile(v[1])
				if err != nil {
					c.dieCode(2, "error: Bad JSON in --%s %s %s: Could not open %s: %s", name, v[0], v[1], v[1], Strerror(err))
				}
				if name == "rawfile" {
					bind(v[0], string(data))
					continue
				}
				list := []any{}
				for x, err := range jsonValues(bytes.NewReader(data)) {
					if err != nil {
						c.dieCode(2, "error: Bad JSON in --%s %s %s: %v", name, v[0], v[1], err)
					}
					list = append(list, x)
				}
				bind(v[0], list)
			case "args":
				rest = 'a'
			case "jsonargs":
				rest = 'j'
			case "indent":
				n, err := strconv.Atoi(need(name, 1)[0])
				if err != nil || n < 0 || n > 7 {
					c.dieCode(2, "Cannot indent more than 7 characters")
				}
				opt.indent = n
			case "from-file":
				fromFile = need(name, 1)[0]
			case "raw-output":
				opt.raw = true
			case "raw-output0":
				opt.raw, opt.nul = true, true
			case "join-output":
				opt.raw, opt.join = true, true
			case "compact-output":
				opt.compact = true
			case "slurp":
				opt.slurp = true
			case "null-input":
				opt.null = true
			case "raw-input":
				opt.rawIn = true
			case "exit-status":
				opt.exit = true
			case "ascii-output":
				opt.ascii = true
			case "color-output":
				opt.color = true
			case "tab":
				opt.tab = true
			case "sort-keys":
				opt.sorted = true
			case "monochrome-output", "unbuffered":
			case "seq":
				opt.seq = true
			case "help":
				c.help()
			case "version":
				c.println("jq-1.6 (gojq 0.12.20)")
				return
			default:
				c.jqUsage("Unknown arguments")
			}
			continue
		}
		for _, f := range a[1:] {
			switch f {
			case 'r':
				opt.raw = true
			case 'j':
				opt.raw, opt.join = true, true
			case 'c':
				opt.compact = true
			case 's':
				opt.slurp = true
			case 'n':
				opt.null = true
			case 'R':
				opt.rawIn = true
			case 'e':
				opt.exit = true
			case 'a':
				opt.ascii = true
			case 'C':
				opt.color = true
			case 'S':
				opt.sorted = true
			case 'M':
			case 'f':
				fromFile = need("from-file", 1)[0]
			case 'L':
				module = need("L", 1)[0]
			case 'h':
				c.help()
			case 'V':
				c.println("jq-1.6 (gojq 0.12.20)")
				return
			default:
				c.jqUsage("Unknown arguments")
			}
		}
	}
	if fromFile != "" {
		if haveFilter {
			operands = append([]string{filter}, operands...)
		}
		data, err := os.ReadFile(fromFile)
		if err != nil {
			c.dieCode(2, "error: Could not open %s: %s", fromFile, Strerror(err))
		}
		filter = string(data)
	} else if !haveFilter {
		c.jqUsage("")
	}
	list := []any{}
	for _, p := range positional {
		if rest == 'a' {
			list = append(list, p)
			continue
		}
		x, err := parseJSON([]byte(p))
		if err != nil {
			c.dieCode(2, "Invalid JSON text passed to --jsonargs")
		}
		list = append(list, x)
	}
	bind("__prog_args", list)
	opt.names, opt.values = opt.names[:len(opt.names)-1], opt.values[:len(opt.values)-1]
	delete(opt.named, "__prog_args")
	opt.names = append(opt.names, "$ARGS")
	opt.values = append(opt.values, map[string]any{"positional": list, "named": opt.named})

	query, err := gojq.Parse(filter)
	if err != nil {
		c.jqCompileError(filter, err)
	}
	opt.keys = newJQKeys(query)
	in := &jqInput{c: c, opt: opt, files: orStdin(operands)}
	options := []gojq.CompilerOption{gojq.WithEnvironLoader(os.Environ), gojq.WithVariables(opt.names), gojq.WithInputIter(in),
		gojq.WithFunction("input_filename", 0, 0, func(any, []any) any {
			if in.name == "" || in.name == "-" {
				return nil
			}
			return in.name
		})}
	if module != "" {
		options = append(options, gojq.WithModuleLoader(gojq.NewModuleLoader([]string{module})))
	}
	code, err := gojq.Compile(query, options...)
	if err != nil {
		c.jqCompileError(filter, err)
	}
	c.jqRun(code, in, opt)
}

func (c *Ctx) jqUsage(msg string) {
	if msg != "" {
		fmt.Fprintf(c.err, "jq: %s\n", msg)
	}
	fmt.Fprint(c.err, "Usage:\tjq [OPTIONS] FILTER [FILES...]\n\tjq [OPTIONS] --args FILTER [ARGUMENTS...]\n\tjq [OPTIONS] --jsonargs FILTER [JSON_VALUES...]\nUse jq --help for help with command-line options\n")
	c.exit(2)
}

func (c *Ctx) jqCompileError(filter string, err error) {
	fmt.Fprintf(c.err, "jq: error: %v\n%s\njq: 1 compile error\n", err, filter)
	c.exit(3)
}

func (c *Ctx) jqRun(code *gojq.Code, in *jqInput, opt *jqOptions) {
	var last any
	printed := false
	run := func(v any) {
		iter := code.Run(v, opt.values...)
		for {
			x, ok := iter.Next()
			if !ok {
				return
			}
			if err, ok := x.(error); ok {
				c.jqError(err)
				return
			}
			last, printed = x, true
			c.jqPrint(x, opt)
		}
	}
	if opt.null {
		run(nil)
	} else {
		for {
			v, ok := in.Next()
			if !ok {
				break
			}
			if err, bad := v.(error); bad {
				c.flush()
				fmt.Fprintf(c.err, "jq: error (at %s): %v\n", in.where(), err)
				c.code = 2
				break
			}
			run(v)
		}
	}
	if opt.exit && c.code == 0 {
		switch {
		case !printed:
			c.code = 4
		case last == nil || last == false:
			c.code = 1
		}
	}
}

// jqError reports a run-time error and goes on with the next input.
func (c *Ctx) jqError(err error) {
	c.flush()
	var halt *gojq.HaltError
	if errors.As(err, &halt) {
		switch v := halt.Value().(type) {
		case nil:
		case string:
			fmt.Fprint(c.err, v)
		default:
			b, _ := gojq.Marshal(v)
			fmt.Fprintf(c.err, "%s\n", b)
		}
		c.exit(halt.ExitCode())
	}
	fmt.Fprintf(c.err, "jq: error (at <stdin>:0): %s\n", strings.TrimPrefix(err.Error(), "error: "))
	c.code = 5
}

func (c *Ctx) jqPrint(v any, opt *jqOptions) {
	if opt.seq {
		c.out.WriteByte(0x1e)
	}
	if s, ok := v.(string); ok && opt.raw {
		c.print(s)
	} else {
		w := &jsonWriter{opt: opt}
		w.value(v, 0)
		c.out.Write(w.b.Bytes())
	}
	switch {
	case opt.nul:
		c.out.WriteByte(0)
	case !opt.join:
		c.out.WriteByte('\n')
	}
}

// jqInput reads the JSON values of the files.
type jqInput struct {
	c     *Ctx
	opt   *jqOptions
	files []string
	name  string
	pull  func() (any, error)
	done  bool
	line  int
}

func (in *jqInput) where() string {
	if in.name == "-" || in.name == "" {
		return "<stdin>:" + strconv.Itoa(in.line)
	}
	return in.name + ":" + strconv.Itoa(in.line)
}

// open starts the next file.
func (in *jqInput) open() bool {
	for len(in.files) > 0 {
		in.name = in.files[0]
		in.files = in.files[1:]
		r, err := in.c.open(in.name)
		if err != nil {
			in.c.flush()
			fmt.Fprintf(in.c.err, "jq: error: Could not open %s: %s\n", in.name, Strerror(err))
			in.c.code = 2
			continue
		}
		if in.opt.rawIn {
			src := newLineSource(r, '\n')
			in.pull = func() (any, error) {
				line, ok := src.next()
				if !ok {
					return nil, io.EOF
				}
				return line, nil
			}
			return true
		}
		dec := json.NewDecoder(r)
		dec.UseNumber()
		in.pull = func() (any, error) { return in.opt.keys.read(dec) }
		return true
	}
	return false
}

// Next makes jqInput a gojq.Iter, which input and inputs read from.
func (in *jqInput) Next() (any, bool) {
	if in.opt.slurp {
		if in.done {
			return nil, false
		}
		in.done = true
		if in.opt.rawIn {
			var b strings.Builder
			for _, n := range in.files {
				if r, err := in.c.open(n); err == nil {
					io.Copy(&b, r)
				}
			}
			return b.String(), true
		}
		list := []any{}
		for {
			v, ok := in.one()
			if !ok {
				return list, true
			}
			if err, bad := v.(error); bad {
				return err, true
			}
			list = append(list, v)
		}
	}
	return in.one()
}

func (in *jqInput) one() (any, bool) {
	for {
		if in.pull == nil && !in.open() {
			return nil, false
		}
		v, err := in.pull()
		switch {
		case err == io.EOF:
			in.pull = nil
			continue
		case err != nil:
			in.pull, in.files = nil, nil
			return errors.New(jsonError(err)), true
		}
		return v, true
	}
}

func jsonError(err error) string {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return "Unfinished JSON term"
	}
	return err.Error()
}

func parseJSON(b []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

func jsonValues(r io.Reader) func(func(any, error) bool) {
	return func(yield func(any, error) bool) {
		dec := json.NewDecoder(r)
		dec.UseNumber()
		for {
			var v any
			err := dec.Decode(&v)
			if err == io.EOF || !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// jsonWriter prints values in jq's layout.
type jsonWriter struct {
	b   bytes.Buffer
	opt *jqOptions
}

func (w *jsonWriter) newline(depth int) {
	switch {
	case w.opt.compact || w.opt.indent == 0 && !w.opt.tab:
	case w.opt.tab:
		w.b.WriteString("\n" + strings.Repeat("\t", depth))
	default:
		w.b.WriteString("\n" + strings.Repeat(" ", depth*w.opt.indent))
	}
}

func (w *jsonWriter) paint(code, s string) {
	if w.opt.color {
		w.b.WriteString("\x1b[" + code + "m" + s + "\x1b[0m")
	} else {
		w.b.WriteString(s)
	}
}

func (w *jsonWriter) value(v any, depth int) {
	switch v := v.(type) {
	case nil:
		w.paint("1;30", "null")
	case bool:
		w.paint("0;39", strconv.FormatBool(v))
	case string:
		w.paint("0;32", w.quoted(v))
	case []any:
		if len(v) == 0 {
			w.paint("1;39", "[]")
			return
		}
		w.b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				w.b.WriteByte(',')
			}
			w.newline(depth + 1)
			w.value(e, depth+1)
		}
		w.newline(depth)
		w.b.WriteByte(']')
	case map[string]any:
		if len(v) == 0 {
			w.paint("1;39", "{}")
			return
		}
		w.b.WriteByte('{')
		names := w.opt.keys.names
		if w.opt.sorted {
			names = sortedNames
		}
		for i, k := range names(v) {
			if i > 0 {
				w.b.WriteByte(',')
			}
			w.newline(depth + 1)
			w.paint("34;1", w.quoted(k))
			w.b.WriteByte(':')
			if !w.opt.compact {
				w.b.WriteByte(' ')
			}
			w.value(v[k], depth+1)
		}
		w.newline(depth)
		w.b.WriteByte('}')
	default:
		w.paint("0;39", jsonNumber(v))
	}
}

func sortedNames(m map[string]any) []string {
	l := make([]string, 0, len(m))
	for k := range m {
		l = append(l, k)
	}
	sortStrings(l)
	return l
}

// jsonNumber prints a number as jq 1.6 does: 17 digits at most.
func jsonNumber(v any) string {
	var f float64
	switch n := v.(type) {
	case int:
		return strconv.Itoa(n)
	case *big.Int:
		return n.String()
	case json.Number:
		if !strings.ContainsAny(n.String(), ".eE") {
			return n.String()
		}
		f, _ = n.Float64()
	case float64:
		f = n
	default:
		b, _ := gojq.Marshal(v)
		return string(b)
	}
	switch {
	case f != f:
		return "null"
	case f > 1.7976931348623157e308:
		return "1.7976931348623157e+308"
	case f < -1.7976931348623157e308:
		return "-1.7976931348623157e+308"
	case f == float64(int64(f)) && f > -1e17 && f < 1e17:
		return strconv.FormatInt(int64(f), 10)
	}
	s := strconv.FormatFloat(f, 'g', 17, 64)
	if t := strconv.FormatFloat(f, 'g', -1, 64); len(t) < len(s) {
		s = t
	}
	// C's exponents have two digits at least, as Go's; 1e-05 becomes 0.00001.
	if m, e, ok := strings.Cut(s, "e-0"); ok && len(m) > 0 && len(e) == 1 && e[0] <= '5' {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return s
}

// quoted is a JSON string; only what must be escaped is.
func (w *jsonWriter) quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case strings.ContainsRune("\b\f\n\r\t", r):
			b.WriteByte('\\')
			b.WriteByte("bfnrt"[strings.IndexRune("\b\f\n\r\t", r)])
		case r < ' ' || r == 127:
			fmt.Fprintf(&b, "\\u%04x", r)
		case w.opt.ascii && r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, "\\u%04x\\u%04x", 0xd800+r>>10, 0xdc00+r&0x3ff)
		case w.opt.ascii && r > 126:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}
