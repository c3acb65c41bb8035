package applets

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// Tools that run other programs.

// lookPath finds a program in PATH.
func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	err := error(syscall.ENOENT)
	for _, d := range filepath.SplitList(path) {
		if d == "" {
			d = "."
		}
		p := d + "/" + name
		i, e := sys.Stat(p)
		switch {
		case e != nil || i.IsDir():
		case i.StMode&0111 == 0:
			err = syscall.EACCES
		default:
			return p, nil
		}
	}
	return "", err
}

// launch describes a program for start. Nil files are this process's own.
type launch struct {
	args           []string
	env            []string // nil: this process's
	dir            string
	stdin          *os.File
	stdout, stderr *os.File
}

// start starts a program found in PATH; a script without #! is run by sh.
func (c *Ctx) start(l launch) (*sys.Proc, error) {
	c.flush()
	env := l.env
	if env == nil {
		env = os.Environ()
	}
	path, err := lookPath(l.args[0], os.Getenv("PATH"))
	if err != nil {
		return nil, err
	}
	std := func(f, def *os.File) *os.File {
		if f == nil {
			return def
		}
		return f
	}
	spec := &sys.Spec{Path: path, Args: l.args, Env: env, Dir: l.dir, Umask: -1,
		Files: map[int]*os.File{0: std(l.stdin, os.Stdin), 1: std(l.stdout, os.Stdout), 2: std(l.stderr, os.Stderr)}}
	p, err := sys.Start(spec)
	if errors.Is(err, syscall.ENOEXEC) {
		sh, e := lookPath("sh", os.Getenv("PATH"))
		if e != nil {
			return nil, err
		}
		spec.Path, spec.Args = sh, append([]string{"sh", path}, l.args[1:]...)
		p, err = sys.Start(spec)
	}
	return p, err
}

// startError is the exit status for a program that could not be started.
func startError(err error) int {
	if errors.Is(err, fs.ErrNotExist) {
		return 127
	}
	return 126
}

// run starts a program and waits for it.
func (c *Ctx) run(l launch) (int, error) {
	p, err := c.start(l)
	if err != nil {
		return startError(err), err
	}
	return p.Wait().Code, nil
}

// capture returns a program's output.
func (c *Ctx) capture(args []string) ([]byte, int) {
	r, w, err := sys.Pipe()
	if err != nil {
		c.fail("cannot create pipe: %s", Strerror(err))
		return nil, 1
	}
	p, err := c.start(launch{args: args, stdout: w})
	w.Close()
	defer r.Close()
	if err != nil {
		c.fail("%s: %s", args[0], Strerror(err))
		return nil, startError(err)
	}
	out, _ := io.ReadAll(r)
	return out, p.Wait().Code
}

func envTool(c *Ctx) {
	if len(c.args) > 0 && c.args[0] == "-" {
		c.args = append([]string{"-i"}, c.args[1:]...)
	}
	o := c.options("+iu:0C:S:v", "ignore-environment=i unset=u null=0 chdir=C split-string=S debug=v")
	env := c.environ()
	end, dir := "\n", ""
	unset := func(name string) {
		var out []string
		for _, kv := range env {
			if !strings.HasPrefix(kv, name+"=") {
				out = append(out, kv)
			}
		}
		env = out
	}
	for o.next() {
		switch o.opt {
		case "i":
			env = []string{}
		case "u":
			unset(o.arg)
		case "0":
			end = "\x00"
		case "C":
			dir = o.arg
		case "S":
			o.argv = append(strings.Fields(o.arg), o.argv...)
		}
	}
	args := o.args
	for len(args) > 0 && strings.Contains(args[0], "=") {
		name, _, _ := strings.Cut(args[0], "=")
		replaced := false
		for i, kv := range env {
			if strings.HasPrefix(kv, name+"=") {
				env = append([]string{}, env...)
				env[i], replaced = args[0], true
			}
		}
		if !replaced {
			env = append(env, args[0])
		}
		args = args[1:]
	}
	if len(args) == 0 {
		for _, kv := range env {
			c.print(kv + end)
		}
		return
	}
	if dir != "" {
		if err := os.Chdir(dir); err != nil {
			c.dieCode(125, "cannot change directory to %s: %s", quote(dir), Strerror(err))
		}
	}
	for _, kv := range env {
		if p, ok := strings.CutPrefix(kv, "PATH="); ok {
			os.Setenv("PATH", p)
		}
	}
	c.become(launch{args: args, env: env}, "%s: %s")
}

// become runs a program as this one's end. The message gets the quoted name.
func (c *Ctx) become(l launch, format string) {
	code, err := c.run(l)
	if err != nil {
		c.warn(format, quote(l.args[0]), Strerror(err))
	}
	c.exit(code)
}

func nohup(c *Ctx) {
	o := c.options("+", "")
	for o.next() {
	}
	if len(o.args) == 0 {
		c.missing()
	}
	sys.Ignore(1)
	c.become(launch{args: o.args}, "failed to run command %s: %s")
}

func nice(c *Ctx) {
	o := c.options("+n:", "adjustment=n")
	for o.next() {
	}
	if len(o.args) == 0 {
		c.println(0)
		return
	}
	c.become(launch{args: o.args}, "%s: %s")
}

// setsid, stdbuf and busybox-like wrappers only run their command.
func setsid(c *Ctx) {
	o := c.options("+cfwi:o:e:", "input=i output=o error=e wait=w fork=f ctty=c")
	for o.next() {
	}
	if len(o.args) == 0 {
		c.missing()
	}
	c.become(launch{args: o.args}, "failed to execute %s: %s")
}

func timeout(c *Ctx) {
	o := c.options("+k:s:fpv", "kill-after=k signal=s foreground=f preserve-status=p verbose=v")
	sig, killAfter, preserve, verbose := 15, time.Duration(0), false, false
	for o.next() {
		switch o.opt {
		case "k":
			d, ok := seconds(o.arg)
			if !ok {
				c.warn("invalid time interval %s", quote(o.arg))
				c.usage()
			}
			killAfter = d
		case "s":
			if sig = sys.SignalNumber(o.arg); sig < 0 {
				c.warn("%s: invalid signal", quote(o.arg))
				c.usage()
			}
		case "p":
			preserve = true
		case "v":
			verbose = true
		}
	}
	if len(o.args) < 2 {
		c.missing()
	}
	limit, ok := seconds(o.args[0])
	if !ok {
		c.warn("invalid time interval %s", quote(o.args[0]))
		c.usage()
	}
	p, err := c.start(launch{args: o.args[1:]})
	if err != nil {
		c.dieCode(startError(err), "failed to run command %s: %s", quote(o.args[1]), Strerror(err))
	}
	done := make(chan sys.Status, 1)
	go func() { done <- p.Wait() }()
	var expired, kill <-chan time.Time
	if limit > 0 {
		expired = time.After(limit)
	}
	signals, stop := sys.Notify(15, 2, 1)
	defer stop()
	timedOut := false
	for {
		select {
		case st := <-done:
			c.code = st.Code
			if timedOut && !preserve {
				c.code = 124
				if st.Signal == 9 {
					c.code = 137
				}
			}
			return
		case s := <-signals:
			sys.Kill(p.Pid, s)
		case <-expired:
			timedOut, expired = true, nil
			if verbose {
				c.warn("sending signal %s to command %s", sys.SignalName(sig), quote(o.args[1]))
			}
			sys.Kill(p.Pid, sig)
			if killAfter > 0 {
				kill = time.After(killAfter)
			}
		case <-kill:
			kill = nil
			if verbose {
				c.warn("sending signal KILL to command %s", quote(o.args[1]))
			}
			sys.Kill(p.Pid, 9)
		}
	}
}

// timeTool is time as a program; the shell has a keyword of its own.
func timeTool(c *Ctx) {
	o := c.options("+pvf:o:a", "portability=p verbose=v format=f output=o append=a")
	posix, format := false, ""
	for o.next() {
		switch o.opt {
		case "p":
			posix = true
		case "f":
			format = o.arg
		}
	}
	if len(o.args) == 0 {
		c.usage()
	}
	start := time.Now()
	code, err := c.run(launch{args: o.args})
	if err != nil {
		c.warn("cannot run %s: %s", o.args[0], Strerror(err))
	}
	d := time.Since(start).Seconds()
	switch {
	case format != "":
		fmt.Fprintln(c.err, strings.NewReplacer("%e", fmt.Sprintf("%.2f", d), "%E", fmt.Sprintf("%d:%05.2f", int(d)/60, d-float64(int(d)/60*60)), "%U", "0.00", "%S", "0.00", "%M", "0", "%P", "0%", "%C", strings.Join(o.args, " ")).Replace(format))
	case posix:
		fmt.Fprintf(c.err, "real %.2f\nuser 0.00\nsys 0.00\n", d)
	default:
		fmt.Fprintf(c.err, "real\t%dm %.2fs\nuser\t0m 0.00s\nsys\t0m 0.00s\n", int(d)/60, d-float64(int(d)/60*60))
	}
	c.code = code
}

func which(c *Ctx) {
	o := c.options("as", "all=a")
	all := false
	for o.next() {
		all = all || o.opt == "a"
	}
	if len(o.args) == 0 {
		c.code = 1
	}
	for _, n := range o.args {
		found := false
		dirs := filepath.SplitList(os.Getenv("PATH"))
		if strings.Contains(n, "/") {
			dirs = []string{""}
		}
		for _, d := range dirs {
			p := n
			if d != "" {
				p = d + "/" + n
			}
			if i, err := sys.Stat(p); err == nil && i.IsRegular() && i.StMode&0111 != 0 {
				c.println(p)
				found = true
				if !all {
					break
				}
			}
		}
		if !found {
			c.code = 1
		}
	}
}

// kill sends signals, for scripts that do not use the shell's own.
func kill(c *Ctx) {
	args := c.args
	sig := 15
	if len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "--" {
		name := strings.TrimPrefix(args[0], "-")
		args = args[1:]
		switch {
		case name == "l":
			for n := 1; n <= sys.LastSignal; n++ {
				c.print(sys.SignalName(n) + map[bool]string{true: "\n", false: " "}[n == sys.LastSignal])
			}
			return
		case (name == "s" || name == "n") && len(args) > 0:
			name, args = args[0], args[1:]
		}
		if sig = sys.SignalNumber(name); sig < 0 {
			c.die("unknown signal %s", name)
		}
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		c.die("not enough arguments")
	}
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err != nil {
			c.fail("failed to parse argument: '%s'", a)
			continue
		}
		if err := sys.Kill(pid, sig); err != nil {
			c.fail("sending signal to %d failed: %s", pid, Strerror(err))
		}
	}
}

// procInfo is a process as /proc shows it.
type procInfo struct {
	pid, ppid int
	state     string
	comm      string
	args      []string
}

func processes() []procInfo {
	entries, _ := os.ReadDir("/proc")
	var l []procInfo
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		p := procInfo{pid: pid}
		open, shut := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
		if open < 0 || shut < open {
			continue
		}
		p.comm = string(stat[open+1 : shut])
		if f := strings.Fields(string(stat[shut+1:])); len(f) > 1 {
			p.state = f[0]
			p.ppid, _ = strconv.Atoi(f[1])
		}
		cmd, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if len(cmd) > 0 {
			p.args = strings.Split(strings.TrimSuffix(string(cmd), "\x00"), "\x00")
		}
		l = append(l, p)
	}
	return l
}

func ps(c *Ctx) {
	var fields []string
	args := c.args
	full, noHeader := false, false
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "-o" && i+1 < len(args):
			i++
			fields = append(fields, strings.Split(args[i], ",")...)
		case strings.HasPrefix(a, "-o"):
			fields = append(fields, strings.Split(a[2:], ",")...)
		case a == "-p" && i+1 < len(args):
			i++
		case a == "--no-headers":
			noHeader = true
		case strings.ContainsAny(a, "fu"):
			full = true
		}
	}
	if fields == nil {
		fields = []string{"pid", "tty", "time", "cmd"}
		if full {
			fields = []string{"user", "pid", "ppid", "stat", "time", "args"}
		}
	}
	var rows [][]string
	head := make([]string, len(fields))
	for i, f := range fields {
		name, title, has := strings.Cut(f, "=")
		fields[i] = name
		head[i] = strings.ToUpper(name)
		if has {
			head[i] = title
			noHeader = noHeader || title == ""
		}
		switch name {
		case "args", "cmd", "command":
			head[i] = "COMMAND"
		}
	}
	if !noHeader {
		rows = append(rows, head)
	}
	for _, p := range processes() {
		row := make([]string, len(fields))
		cmd := strings.Join(p.args, " ")
		if cmd == "" {
			cmd = "[" + p.comm + "]"
		}
		for i, f := range fields {
			switch f {
			case "pid":
				row[i] = strconv.Itoa(p.pid)
			case "ppid":
				row[i] = strconv.Itoa(p.ppid)
			case "user":
				row[i] = "root"
			case "stat", "state", "s":
				row[i] = p.state
			case "comm":
				row[i] = p.comm
			case "args", "cmd", "command":
				row[i] = cmd
			case "time":
				row[i] = "00:00:00"
			case "tty":
				row[i] = "?"
			default:
				row[i] = "-"
			}
		}
		rows = append(rows, row)
	}
	widths := make([]int, len(fields))
	for _, r := range rows {
		for i, f := range r {
			widths[i] = max(widths[i], len(f))
		}
	}
	for _, r := range rows {
		var b strings.Builder
		for i, f := range r {
			switch {
			case i == len(r)-1:
				b.WriteString(f)
			case fields[i] == "pid" || fields[i] == "ppid":
				fmt.Fprintf(&b, "%*s ", widths[i], f)
			default:
				fmt.Fprintf(&b, "%-*s ", widths[i], f)
			}
		}
		c.println(b.String())
	}
}

// pgrep and pidof find processes by name.
func pgrep(c *Ctx) {
	o := c.options("fxlavn", "full=f exact=x list-name=l list-full=a inverse=v newest=n")
	var full, exact, list bool
	for o.next() {
		switch o.opt {
		case "f":
			full = true
		case "x":
			exact = true
		case "l", "a":
			list = true
		}
	}
	if len(o.args) == 0 {
		c.die("no matching criteria specified")
	}
	re := c.compile(o.args[0], 1, 0)
	c.code = 1
	for _, p := range processes() {
		text := p.comm
		if full {
			text = strings.Join(p.args, " ")
		}
		m := re.Find([]byte(text))
		if p.pid == os.Getpid() || m == nil || exact && m[1]-m[0] != len(text) {
			continue
		}
		c.code = 0
		switch {
		case c.name == "pkill":
			sys.Kill(p.pid, 15)
		case list:
			c.println(p.pid, text)
		default:
			c.println(p.pid)
		}
	}
}

func pidof(c *Ctx) {
	o := c.options("so:", "")
	single := false
	for o.next() {
		single = single || o.opt == "s"
	}
	var l []string
	for _, p := range processes() {
		for _, n := range o.args {
			if p.comm == n || len(p.args) > 0 && filepath.Base(p.args[0]) == n {
				l = append([]string{strconv.Itoa(p.pid)}, l...)
				break
			}
		}
	}
	if len(l) == 0 {
		c.exit(1)
	}
	if single {
		l = l[:1]
	}
	c.println(strings.Join(l, " "))
}

// xargs builds command lines from its input.
func xargs(c *Ctx) {
	o := c.options("+0a:d:E:e::I:i::L:l::n:oP:prs:tx", "null=0 arg-file=a delimiter=d eof? replace? max-lines? max-args=n max-procs=P interactive=p no-run-if-empty=r max-chars=s verbose=t exit=x open-tty=o show-limits process-slot-var:")
	x := &xargser{c: c, perLine: -1, perCall: -1, procs: 1, chars: 128 << 10, delim: -1}
	file, eof := "", ""
	num := func(what string, least int) int {
		n, err := strconv.Atoi(o.arg)
		if err != nil {
			c.die("invalid number \"%s\" for -%s option", o.arg, what)
		}
		if n < least {
			c.die("value %s for -%s option should be >= %d", o.arg, what, least)
		}
		return n
	}
	for o.next() {
		switch o.opt {
		case "0":
			x.delim = 0
		case "a":
			file = o.arg
		case "d":
			t, _ := unescape(o.arg, escPrintf)
			if t == "" {
				c.die("Invalid input delimiter specification %s: the delimiter must be either a single character or an escape sequence starting with \\.", o.arg)
			}
			x.delim = int(t[0])
		case "E", "e", "eof":
			eof = o.arg
		case "I", "i", "replace":
			x.replace = o.arg
			if x.replace == "" {
				x.replace = "{}"
			}
			x.perCall, x.perLine = -1, -1
		case "L", "l", "max-lines":
			x.perLine = 1
			if o.arg != "" {
				x.perLine = num(o.opt, 1)
			}
			x.replace, x.perCall = "", -1
		case "n":
			x.perCall = num("n", 1)
			x.perLine = -1
			if x.replace != "" && x.perCall == 1 {
				x.perCall = -1
			} else {
				x.replace = ""
			}
		case "P":
			x.procs = num("P", 0)
		case "r":
			x.noEmpty = true
		case "s":
			x.chars = num("s", 1)
			x.hasChars = true
		case "t", "p":
			x.verbose = true
		case "x":
			x.strict = true
		}
	}
	x.cmd = o.args
	if len(x.cmd) == 0 {
		x.cmd = []string{"echo"}
	}
	in := c.in
	if file != "" {
		r, err := c.open(file)
		if err != nil {
			c.die("Cannot open input file %s: %s", quote(file), Strerror(err))
		}
		in = r
	} else if f, err := os.Open("/dev/null"); err == nil {
		x.stdin = f
	}
	x.read(in, eof)
	x.finish()
}

type xargser struct {
	c                  *Ctx
	cmd                []string
	replace            string
	perLine, perCall   int
	procs, chars       int
	delim              int // -1: blanks and quotes
	noEmpty, strict    bool
	verbose, hasChars  bool
	stdin              *os.File
	args               []string
	size, lines, calls int
	mu                 sync.Mutex
	running            chan struct{}
	wg                 sync.WaitGroup
	stop               bool
}

// read splits the input into items.
func (x *xargser) read(r io.Reader, eof string) {
	if x.delim >= 0 {
		for b := range records(r, byte(x.delim)) {
			x.item(strings.TrimSuffix(string(b), string(rune(x.delim))), true)
		}
		return
	}
	for b := range lines(r) {
		line := strings.TrimSuffix(string(b), "\n")
		if x.replace != "" {
			if t := strings.TrimLeft(line, " \t\v\f\r"); t != "" {
				x.item(x.unquote(t), true)
			}
			continue
		}
		// A line that ends in a blank goes on in the next.
		goesOn := strings.HasSuffix(line, " ") || strings.HasSuffix(line, "\t")
		words := x.split(line)
		for i, w := range words {
			if eof != "" && w == eof {
				return
			}
			x.item(w, i == len(words)-1 && !goesOn)
		}
	}
}

func (x *xargser) unquote(s string) string {
	return strings.Join(x.quoted(s, false), "")
}

func (x *xargser) split(s string) []string { return x.quoted(s, true) }

// quoted handles ' " and \; with blanks it splits words.
func (x *xargser) quoted(s string, blanks bool) []string {
	var out []string
	var b strings.Builder
	open := false
	for i := 0; i < len(s); i++ {
		switch ch := s[i]; {
		case ch == '\'' || ch == '"':
			end := strings.IndexByte(s[i+1:], ch)
			if end < 0 {
				kind := "double"
				if ch == '\'' {
					kind = "single"
				}
				x.wait()
				x.c.die("unmatched %s quote; by default quotes are special to xargs unless you use the -0 option", kind)
			}
			b.WriteString(s[i+1 : i+1+end])
			i += end + 1
			open = true
		case ch == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
			open = true
		case blanks && (ch == ' ' || ch == '\t'):
			if open {
				out = append(out, b.String())
				b.Reset()
				open = false
			}
		default:
			b.WriteByte(ch)
			open = true
		}
	}
	if open || !blanks {
		out = append(out, b.String())
	}
	return out
}

func (x *xargser) item(s string, endOfLine bool) {
	if x.stop {
		return
	}
	if x.replace != "" {
		args := make([]string, len(x.cmd))
		for i, a := range x.cmd {
			args[i] = strings.ReplaceAll(a, x.replace, s)
		}
		x.call(args)
		return
	}
	base := 0
	for _, a := range x.cmd {
		base += len(a) + 1
	}
	if len(x.args) > 0 && base+x.size+len(s)+1 > x.chars {
		x.callArgs()
	}
	if base+len(s)+1 > x.chars {
		x.wait()
		x.c.die("argument line too long")
	}
	x.args = append(x.args, s)
	x.size += len(s) + 1
	if endOfLine {
		x.lines++
	}
	if x.perCall > 0 && len(x.args) >= x.perCall || x.perLine > 0 && x.lines >= x.perLine {
		x.callArgs()
	}
}

func (x *xargser) callArgs() {
	args := append(append([]string{}, x.cmd...), x.args...)
	x.args, x.size, x.lines = nil, 0, 0
	x.call(args)
}

func (x *xargser) call(args []string) {
	x.calls++
	if x.verbose {
		x.c.flush()
		fmt.Fprintln(x.c.err, strings.Join(args, " "))
	}
	if x.procs == 1 {
		code, err := x.c.run(launch{args: args, stdin: x.stdin})
		x.ended(args[0], code, err)
		return
	}
	if x.running == nil {
		n := x.procs
		if n == 0 {
			n = 32
		}
		x.running = make(chan struct{}, n)
	}
	x.running <- struct{}{}
	p, err := x.c.start(launch{args: args, stdin: x.stdin})
	if err != nil {
		<-x.running
		x.ended(args[0], startError(err), err)
		return
	}
	x.wg.Add(1)
	go func() {
		defer x.wg.Done()
		x.ended(args[0], p.Wait().Code, nil)
		<-x.running
	}()
}

// ended turns a command's status into that of xargs.
func (x *xargser) ended(name string, code int, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case err != nil:
		x.c.warn("%s: %s", name, Strerror(err))
		x.c.code, x.stop = code, true
	case code == 255:
		x.c.warn("%s: exited with status 255; aborting", name)
		x.c.code, x.stop = 124, true
	case code > 128:
		x.c.warn("%s: terminated by signal %d", name, code-128)
		x.c.code, x.stop = 125, true
	case code != 0:
		x.c.code = 123
	}
}

func (x *xargser) wait() { x.wg.Wait() }

func (x *xargser) finish() {
	if !x.stop && (len(x.args) > 0 || x.calls == 0 && !x.noEmpty && x.replace == "") {
		x.callArgs()
	}
	x.wait()
}
