package kernel

import (
	"bytes"
	"context"
	"strings"

	"github.com/kilntainers/kilntainers/backends/wasm/meter"
)

// maxRequest bounds a spawn request, and so arguments and environment.
const maxRequest = 4 << 20

// maxScripts is how many #! lines lead to an interpreter.
const maxScripts = 4

// program finds what runs a file: the file itself, or the interpreter that its
// first line names, with the arguments it gets. unlocked runs what takes long.
func (sb *Sandbox) program(ctx context.Context, unlocked func(func()), dir *node, path string, argv []string) (*Program, []string, errno) {
	for range maxScripts + 1 {
		n, e := sb.fs.find(nil, dir, path, true)
		switch {
		case e != ok:
			return nil, nil, e
		case !n.is(sIFREG) || n.mode&0o111 == 0:
			return nil, nil, eACCES
		case n.prog != nil:
			return n.prog, argv, ok
		}
		var head [256]byte
		line := head[:n.data.readAt(head[:], 0)]
		if bytes.HasPrefix(line, []byte("\x00asm")) {
			g, e := sb.guestProgram(ctx, unlocked, n)
			return g, argv, e
		}
		if !bytes.HasPrefix(line, []byte("#!")) {
			return nil, nil, eNOEXEC
		}
		line, _, _ = bytes.Cut(line[2:], []byte("\n"))
		interpreter, arg, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		if interpreter == "" {
			return nil, nil, eNOEXEC
		}
		next := []string{interpreter}
		if arg = strings.TrimSpace(arg); arg != "" {
			next = append(next, arg)
		}
		argv = append(append(next, path), argv[min(1, len(argv)):]...)
		path = interpreter
	}
	return nil, nil, eLOOP
}

// guestProgram compiles a module that was written in the sandbox.
func (sb *Sandbox) guestProgram(ctx context.Context, unlocked func(func()), n *node) (*Program, errno) {
	if !sb.limits.GuestModules {
		return nil, ePERM
	}
	// Compiled code is the daemon's memory, about five times the module's
	// size.
	size := n.data.size
	if size > sb.limits.Memory/8-sb.guestBytes {
		return nil, eNOMEM
	}
	sb.guestBytes += size
	wasm := make([]byte, size)
	n.data.readAt(wasm, 0)
	n.opens++
	defer func() {
		n.opens--
		sb.fs.drop(n)
	}()
	changed := n.mtime
	var g *Program
	var err error
	unlocked(func() {
		g, err = sb.kernel.loadOptions(ctx, wasm, meter.Options{Hostile: true, Instructions: sb.limits.Fuel > 0})
	})
	if err != nil {
		sb.guestBytes -= size
		return nil, eNOEXEC
	}
	if sb.closed {
		sb.kernel.Release(g)
		return nil, eNOEXEC
	}
	sb.guests = append(sb.guests, g)
	if n.mtime == changed {
		n.prog = g
	}
	return g, ok
}

// context ends when the process is killed.
func (p *Proc) context() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-p.dead:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// request decodes what spawn and exec are asked for (ABI.md, 3).
func (p *Proc) request(b []byte) (*execution, errno) {
	if len(b) > maxRequest {
		return nil, e2BIG
	}
	d := decoder{b: b}
	x := &execution{group: d.u32()&1 != 0}
	path, dirPath := d.str(), d.str()
	x.file = path
	x.argv, x.env = d.list(), d.list()
	n := int(d.u32())
	if d.bad || n > 256 || len(d.b) != 4*n || dirPath == "" || dirPath[0] != '/' {
		return nil, eINVAL
	}
	if len(x.argv) == 0 {
		x.argv = []string{path}
	}
	fs := &p.sb.fs
	var e errno
	if x.cwd, e = fs.find(p, fs.root, dirPath, true); e != ok {
		return nil, e
	}
	if !x.cwd.is(sIFDIR) {
		return nil, eNOTDIR
	}
	ctx, cancel := p.context()
	defer cancel()
	if x.program, x.argv, e = p.sb.program(ctx, p.unlocked, x.cwd, path, x.argv); e != ok {
		return nil, e
	}
	p.check()
	x.size = int64(x.program.size) + stringsSize(x.argv, x.env)
	x.fds = make([]fd, n)
	for i := range x.fds {
		number := int32(d.u32())
		if number < 0 {
			continue
		}
		f, e := p.fd(uint32(number))
		if e != ok {
			for _, f := range x.fds {
				if f.openFile != nil {
					f.refs--
				}
			}
			return nil, e
		}
		x.fds[i] = fd{openFile: f.retain()}
	}
	return x, ok
}

// decoder takes the parts of a request off the front.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) u32() uint32 {
	if len(d.b) < 4 {
		d.bad, d.b = true, nil
		return 0
	}
	v := le.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

func (d *decoder) str() string {
	n := d.u32()
	if uint64(n) > uint64(len(d.b)) || bytes.IndexByte(d.b[:n], 0) >= 0 {
		d.bad, d.b = true, nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) list() []string {
	n := d.u32()
	if uint64(n) > uint64(len(d.b)/4) {
		d.bad = true
		return nil
	}
	l := make([]string, n)
	for i := range l {
		l[i] = d.str()
	}
	return l
}

func appendList(b []byte, l []string) []byte {
	b = le.AppendUint32(b, uint32(len(l)))
	for _, s := range l {
		b = append(le.AppendUint32(b, uint32(len(s))), s...)
	}
	return b
}
