package applets

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// The smallest tools.

func trueTool(*Ctx)    {}
func falseTool(c *Ctx) { c.code = 1 }

func yes(c *Ctx) {
	s := "y"
	if len(c.args) > 0 {
		s = strings.Join(c.args, " ")
	}
	block := bytes.Repeat([]byte(s+"\n"), 1+8192/(len(s)+1))
	for {
		c.out.Write(block)
	}
}

func basename(c *Ctx) {
	o := c.options("+as:z", "multiple=a suffix=s zero=z")
	multiple, suffix, end := false, "", "\n"
	for o.next() {
		switch o.opt {
		case "a":
			multiple = true
		case "s":
			multiple, suffix = true, o.arg
		case "z":
			end = "\x00"
		}
	}
	args := o.args
	switch {
	case len(args) == 0:
		c.missing()
	case !multiple && len(args) > 2:
		c.extra(args[2])
	case !multiple && len(args) == 2:
		suffix, args = args[1], args[:1]
	}
	for _, a := range args {
		b := path.Base(a)
		if a == "" {
			b = ""
		}
		if t := strings.TrimSuffix(b, suffix); t != "" {
			b = t
		}
		c.print(b + end)
	}
}

func dirname(c *Ctx) {
	o := c.options("z", "zero=z")
	end := "\n"
	for o.next() {
		end = "\x00"
	}
	if len(o.args) == 0 {
		c.missing()
	}
	for _, a := range o.args {
		c.print(dirOf(a) + end)
	}
}

func dirOf(a string) string {
	t := strings.TrimRight(a, "/")
	if t == "" && a != "" {
		return "/"
	}
	i := strings.LastIndexByte(t, '/')
	if i < 0 {
		return "."
	}
	if t = strings.TrimRight(t[:i], "/"); t == "" {
		return "/"
	}
	return t
}

func pwd(c *Ctx) {
	o := c.options("LP", "logical=L physical=P")
	logical := false
	for o.next() {
		logical = o.opt == "L"
	}
	if p := os.Getenv("PWD"); logical && p != "" {
		c.println(p)
		return
	}
	d, err := os.Getwd()
	if err != nil {
		c.die("%s", Strerror(err))
	}
	if real, err := filepath.EvalSymlinks(d); err == nil {
		d = real
	}
	c.println(d)
}

// seconds reads 1.5, 2m, 1h, 1d.
func seconds(s string) (time.Duration, bool) {
	f := 1.0
	if s != "" {
		if i := strings.IndexByte("smhd", s[len(s)-1]); i >= 0 {
			f, s = [...]float64{1, 60, 3600, 86400}[i], s[:len(s)-1]
		}
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil && s != "infinity" || n < 0 {
		return 0, false
	}
	if n*f > 1e9 {
		return 1e18, true
	}
	return time.Duration(n * f * 1e9), true
}

func sleep(c *Ctx) {
	args := c.operands()
	if len(args) == 0 {
		c.missing()
	}
	var total time.Duration
	for _, a := range args {
		d, ok := seconds(a)
		if !ok {
			c.warn("invalid time interval %s", quote(a))
			c.usage()
		}
		total += d
	}
	time.Sleep(total)
}

func printenv(c *Ctx) {
	o := c.options("+0", "null=0")
	end := "\n"
	for o.next() {
		end = "\x00"
	}
	if len(o.args) == 0 {
		for _, kv := range os.Environ() {
			c.print(kv + end)
		}
		return
	}
	for _, n := range o.args {
		if v, ok := os.LookupEnv(n); ok {
			c.print(v + end)
		} else {
			c.code = 1
		}
	}
}

func whoami(c *Ctx) {
	_, _, _, uid, _ := sys.Ids()
	c.println(userName(uid))
}

// idTool is id: there is one user.
func idTool(c *Ctx) {
	o := c.options("agGnruz", "user=u group=g groups=G name=n real=r zero=z")
	what, name := "", false
	for o.next() {
		switch o.opt {
		case "u", "g", "G":
			what = o.opt
		case "n":
			name = true
		}
	}
	_, _, _, uid, gid := sys.Ids()
	if len(o.args) > 0 {
		n, ok := lookupName("/etc/passwd", o.args[0])
		if !ok {
			c.die("%s: no such user", quote(o.args[0]))
		}
		uid, gid = n, n
	}
	switch {
	case what == "u" && name:
		c.println(userName(uid))
	case what == "u":
		c.println(uid)
	case what != "" && name:
		c.println(groupName(gid))
	case what != "":
		c.println(gid)
	default:
		c.printf("uid=%d(%s) gid=%d(%s) groups=%d(%s)\n", uid, userName(uid), gid, groupName(gid), gid, groupName(gid))
	}
}

func groups(c *Ctx) {
	_, _, _, _, gid := sys.Ids()
	c.println(groupName(gid))
}

// lookupID finds the name of an id in /etc/passwd or /etc/group.
func lookupID(file string, id int) string {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(line, ":", 4); len(f) > 2 && f[2] == strconv.Itoa(id) {
			return f[0]
		}
	}
	if id == 0 {
		return "root"
	}
	return strconv.Itoa(id)
}

func lookupName(file, name string) (int, bool) {
	if n, err := strconv.Atoi(name); err == nil {
		return n, true
	}
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(line, ":", 4); len(f) > 2 && f[0] == name {
			n, err := strconv.Atoi(f[2])
			return n, err == nil
		}
	}
	return 0, name == "root"
}

func userName(id int) string  { return lookupID("/etc/passwd", id) }
func groupName(id int) string { return lookupID("/etc/group", id) }

// kernelFile reads a line of /proc/sys/kernel.
func kernelFile(name, def string) string {
	b, err := os.ReadFile("/proc/sys/kernel/" + name)
	if err != nil {
		return def
	}
	return strings.TrimSpace(string(b))
}

func hostname(c *Ctx) {
	o := c.options("fsiId", "fqdn=f short=s")
	for o.next() {
	}
	c.println(kernelFile("hostname", "sandbox"))
}

func uname(c *Ctx) {
	o := c.options("asnrvmpio", "all=a kernel-name=s nodename=n kernel-release=r kernel-version=v machine=m processor=p hardware-platform=i operating-system=o")
	want := ""
	for o.next() {
		if o.opt == "a" {
			want = "snrvmo"
		} else if !strings.Contains(want, o.opt) {
			want += o.opt
		}
	}
	if want == "" {
		want = "s"
	}
	var l []string
	for _, f := range []struct{ letter, text string }{{"s", kernelFile("ostype", "Linux")}, {"n", kernelFile("hostname", "sandbox")},
		{"r", kernelFile("osrelease", "6.1.0-kiln")}, {"v", kernelFile("version", "#1 kilntainers")}, {"m", machine}, {"p", "unknown"}, {"i", "unknown"}, {"o", "GNU/Linux"}} {
		if strings.Contains(want, f.letter) {
			l = append(l, f.text)
		}
	}
	c.println(strings.Join(l, " "))
}

func arch(c *Ctx) { c.println(machine) }

func nproc(c *Ctx) {
	o := c.options("", "all ignore:")
	for o.next() {
	}
	c.println(1)
}

func tty(c *Ctx) {
	c.println("not a tty")
	c.code = 1
}

func clearTool(c *Ctx) { c.print("\x1b[H\x1b[2J\x1b[3J") }

func uptime(c *Ctx) {
	b, _ := os.ReadFile("/proc/uptime")
	up, _ := strconv.ParseFloat(strings.Fields(string(b) + " 0")[0], 64)
	c.printf(" %s up %d min,  0 users,  load average: 0.00, 0.00, 0.00\n", time.Now().Format("15:04:05"), int(up)/60)
}

func tee(c *Ctx) {
	o := c.options("aip", "append=a ignore-interrupts=i output-error?")
	flags := os.O_TRUNC
	for o.next() {
		if o.opt == "a" {
			flags = os.O_APPEND
		}
	}
	var outs []*os.File
	for _, n := range o.args {
		f, err := os.OpenFile(n, os.O_WRONLY|os.O_CREATE|flags, 0o666)
		if err != nil {
			c.fail("%s: %s", n, Strerror(err))
			continue
		}
		defer f.Close()
		outs = append(outs, f)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := c.in.Read(buf)
		for _, f := range outs {
			if _, e := f.Write(buf[:n]); e != nil {
				c.fail("%s: %s", f.Name(), Strerror(e))
			}
		}
		c.out.Write(buf[:n])
		c.flush()
		if err != nil {
			return
		}
	}
}

func syncTool(*Ctx) {}

func mktemp(c *Ctx) {
	o := c.options("dqtup:", "directory=d quiet=q dry-run=u tmpdir? suffix:")
	var dir, quiet, dry, useTmp bool
	base, suffix := "", ""
	for o.next() {
		switch o.opt {
		case "d":
			dir = true
		case "q":
			quiet = true
		case "u":
			dry = true
		case "t":
			useTmp = true
		case "p", "tmpdir":
			base, useTmp = o.arg, true
		case "suffix":
			suffix = o.arg
		}
	}
	tmpl := "tmp.XXXXXXXXXX"
	if len(o.args) == 0 {
		useTmp = true
	} else {
		tmpl = o.args[0]
	}
	if useTmp && base == "" {
		if base = os.Getenv("TMPDIR"); base == "" {
			base = "/tmp"
		}
	}
	end := strings.LastIndexByte(tmpl, 'X') + 1
	suffix = tmpl[end:] + suffix
	tmpl = tmpl[:end]
	start := len(strings.TrimRight(tmpl, "X"))
	if len(tmpl)-start < 3 {
		c.die("too few X's in template %s", quote(tmpl+suffix))
	}
	name := tmpl[:start]
	if useTmp {
		name = strings.TrimSuffix(base, "/") + "/" + name
	}
	var err error
	for range 100 {
		p := name + randomName(len(tmpl)-start) + suffix
		switch {
		case dry:
			if _, err = sys.Lstat(p); err == nil {
				continue
			}
			err = nil
		case dir:
			if err = os.Mkdir(p, 0o700); err == nil {
				sys.Chmod(p, 0o700)
			}
		default:
			var f *os.File
			if f, err = os.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
				f.Close()
				sys.Chmod(p, 0o600)
			}
		}
		if err == nil {
			c.println(p)
			return
		}
		if !os.IsExist(err) {
			break
		}
	}
	if quiet {
		c.exit(1)
	}
	kind := "file"
	if dir {
		kind = "directory"
	}
	c.die("failed to create %s via template %s: %s", kind, quote(name+tmpl[start:]+suffix), Strerror(err))
}

// randomName makes the X part of a temporary name.
func randomName(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	b := make([]byte, n)
	sys.Random(b)
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b)
}

// randomInt is a number in [0, n), from the kernel: a generator with a state
// of its own would give the same numbers in every process of a snapshot.
func randomInt(n int64) int64 {
	if n <= 1 {
		return 0
	}
	var b [8]byte
	limit := math.MaxUint64 - math.MaxUint64%uint64(n) // below it every result is as likely
	for {
		sys.Random(b[:])
		if v := binary.LittleEndian.Uint64(b[:]); v < limit {
			return int64(v % uint64(n))
		}
	}
}

func rev(c *Ctx) {
	for _, r := range c.inputs(c.operands()) {
		for b := range lines(r) {
			line, nl := strings.CutSuffix(string(b), "\n")
			rs := []rune(line)
			for i, j := 0, len(rs)-1; i < j; i, j = i+1, j-1 {
				rs[i], rs[j] = rs[j], rs[i]
			}
			c.print(string(rs))
			if nl {
				c.out.WriteByte('\n')
			}
		}
	}
}

func tac(c *Ctx) {
	o := c.options("brs:", "before=b regex=r separator=s")
	sep := "\n"
	for o.next() {
		if o.opt == "s" {
			sep = o.arg
		}
	}
	for _, r := range c.inputs(o.args) {
		data, _ := io.ReadAll(r)
		parts := strings.SplitAfter(string(data), sep)
		for i := len(parts) - 1; i >= 0; i-- {
			c.print(parts[i])
		}
	}
}

// helpTool lists the tools.
func helpTool(c *Ctx) {
	c.println("The commands of this sandbox (COMMAND --help for the usage of one):")
	line := ""
	for _, n := range Names() {
		if len(line)+len(n)+1 > 78 {
			c.println(line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += n
	}
	c.println(line)
	c.println("The shell is compatible with bash. There is no network, no package manager and no terminal.")
}
