package kernel

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Release is the version that uname -r shows.
const Release = "1.0-kilntainers"

// number is the device number, as Linux has it.
func (d device) number() uint64 {
	const mem = 1 << 8 // the major number of /dev/null and its like
	switch d {
	case devNull:
		return mem | 3
	case devZero:
		return mem | 5
	case devFull:
		return mem | 7
	case devRandom:
		return mem | 9
	}
	return 0
}

// mount makes a node of the kernel's own, unless the image has something
// else there.
func (sb *Sandbox) mount(path string, mode uint32, init func(*node)) {
	at, e := sb.fs.walk(nil, sb.fs.root, path, false)
	if e != ok || at.node != nil {
		return
	}
	sb.fs.create(at, mode, func(n *node) errno {
		if init != nil {
			init(n)
		}
		return ok
	})
}

func (sb *Sandbox) mountDevices() {
	sb.mount("/dev", sIFDIR|0o755, nil)
	for name, d := range map[string]device{
		"null": devNull, "zero": devZero, "full": devFull, "random": devRandom, "urandom": devRandom,
	} {
		sb.mount("/dev/"+name, sIFCHR|0o666, func(n *node) { n.device = d })
	}
	sb.mount("/dev/fd", sIFDIR|0o555, func(n *node) { n.virt = descriptors })
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		sb.mount("/dev/"+name, sIFLNK|0o777, func(n *node) { n.target = "fd/" + strconv.Itoa(i) })
	}
}

// descriptors is a directory of the descriptors of whoever looks.
var descriptors = virtual{
	lookup: func(p *Proc, name string) *node {
		number, err := strconv.Atoi(name)
		if p == nil || err != nil || number < 0 || number >= len(p.fds) || p.fds[number].openFile == nil {
			return nil
		}
		f := p.fds[number]
		mode := uint32(sIFIFO | 0o600)
		if f.node != nil {
			mode = f.node.mode
		}
		if mode&sIFMT == sIFDIR {
			mode = sIFREG | 0o600 // or it would be walked into
		}
		return &node{mode: mode, virt: virtual{fd: &f}}
	},
	list: func(p *Proc) (names []string) {
		for i, f := range p.fds {
			if f.openFile != nil {
				names = append(names, strconv.Itoa(i))
			}
		}
		return names
	},
}

// describe is where the link of a descriptor seems to lead. A file does not
// know its names.
func (sb *Sandbox) describe(f *openFile) string {
	switch n := f.node; {
	case f.pipe != nil || f.sink != nil:
		return "pipe:[0]"
	case n == nil:
		return "anon_inode:[0]"
	case n.is(sIFDIR) && n.dir != nil:
		return sb.fs.path(n)
	default:
		return fmt.Sprintf("file:[%d]", n.ino)
	}
}

// mountProc makes /proc: the part of Linux's that tools read.
func (sb *Sandbox) mountProc() {
	fixed := directoryNode(map[string]*node{
		"cpuinfo": textNode(func(*Proc) string {
			return "processor\t: 0\nmodel name\t: WebAssembly\ncpu MHz\t\t: 1000.000\n"
		}),
		"loadavg": textNode(func(*Proc) string {
			return fmt.Sprintf("0.00 0.00 0.00 1/%d %d\n", len(sb.procs), sb.lastPid)
		}),
		"meminfo": textNode(func(*Proc) string {
			total, free := sb.limits.Memory/1024, (sb.limits.Memory-sb.memory)/1024
			return fmt.Sprintf("MemTotal:%15d kB\nMemFree:%16d kB\nMemAvailable:%11d kB\nBuffers:%16d kB\nCached:%17d kB\nSwapTotal:%14d kB\nSwapFree:%15d kB\n",
				total, free, free, 0, 0, 0, 0)
		}),
		"mounts": textNode(func(*Proc) string {
			return "memory / memfs rw 0 0\nproc /proc proc rw 0 0\n"
		}),
		"stat": textNode(func(*Proc) string {
			return fmt.Sprintf("cpu  %d 0 0 0 0 0 0 0 0 0\nbtime %d\nprocesses %d\n", hundredths(sb.use.Load()), sb.boot.Unix(), sb.lastPid)
		}),
		"uptime": textNode(func(*Proc) string {
			return fmt.Sprintf("%.2f 0.00\n", time.Since(sb.boot).Seconds())
		}),
		"version": textNode(func(*Proc) string {
			return "Linux version " + Release + " (kilntainers) WebAssembly\n"
		}),
		"sys": directoryNode(map[string]*node{
			"kernel": directoryNode(map[string]*node{
				"hostname":  textNode(func(*Proc) string { return "sandbox\n" }),
				"osrelease": textNode(func(*Proc) string { return Release + "\n" }),
				"ostype":    textNode(func(*Proc) string { return "Linux\n" }),
				"pid_max":   textNode(func(*Proc) string { return strconv.Itoa(maxPid) + "\n" }),
			}),
		}),
		"self": linkNode(func(p *Proc) string {
			if p == nil {
				return ""
			}
			return strconv.Itoa(p.pid)
		}),
	}).virt
	sb.mount("/proc", sIFDIR|0o555, func(n *node) {
		n.virt = virtual{
			lookup: func(p *Proc, name string) *node {
				if pid, err := strconv.Atoi(name); err == nil && sb.procs[pid] != nil {
					return processNode(sb.procs[pid])
				}
				return fixed.lookup(p, name)
			},
			list: func(p *Proc) []string {
				names := slices.Clone(fixed.list(p))
				for _, p := range sb.list() {
					names = append(names, strconv.Itoa(p.pid))
				}
				return names
			},
		}
	})
}

// hundredths turns nanoseconds into the clock ticks of /proc.
func hundredths(ns int64) int64 { return ns / 1e7 }

func textNode(text func(p *Proc) string) *node {
	return &node{mode: sIFREG | 0o444, virt: virtual{text: text}}
}

func linkNode(link func(p *Proc) string) *node {
	return &node{mode: sIFLNK | 0o777, virt: virtual{link: link}}
}

func directoryNode(files map[string]*node) *node {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return &node{mode: sIFDIR | 0o555, virt: virtual{
		lookup: func(_ *Proc, name string) *node {
			n := files[name]
			if n == nil {
				return nil
			}
			copied := *n // each look completes its own
			return &copied
		},
		list: func(*Proc) []string { return names },
	}}
}

// processNode is /proc/PID.
func processNode(of *Proc) *node {
	sb := of.sb
	comm := func() string {
		name := of.file
		name = name[strings.LastIndexByte(name, '/')+1:]
		return name[:min(len(name), 15)]
	}
	zeros := func(list []string) string {
		var b strings.Builder
		for _, s := range list {
			b.WriteString(s)
			b.WriteByte(0)
		}
		return b.String()
	}
	n := directoryNode(map[string]*node{
		"cmdline": textNode(func(*Proc) string { return zeros(of.argv) }),
		"comm":    textNode(func(*Proc) string { return comm() + "\n" }),
		"cwd":     linkNode(func(*Proc) string { return sb.fs.path(of.cwd) }),
		"environ": textNode(func(*Proc) string { return zeros(of.env) }),
		"exe":     linkNode(func(*Proc) string { return sb.paths[of.program] }),
		"stat": textNode(func(*Proc) string {
			return fmt.Sprintf("%d (%s) %c %d %d %d 0 -1 0 0 0 0 0 %d 0 0 0 20 0 1 0 %d %d %d 0\n",
				of.pid, comm(), of.state(), of.ppid, of.pgid, of.pgid, hundredths(of.cpu.Load()),
				hundredths(int64(of.start.Sub(sb.boot))), of.memory, of.memory/4096)
		}),
		"status": textNode(func(*Proc) string {
			return fmt.Sprintf("Name:\t%s\nState:\t%c\nPid:\t%d\nPPid:\t%d\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nVmSize:\t%d kB\nVmRSS:\t%d kB\nThreads:\t1\nSigIgn:\t%016x\nSigCgt:\t%016x\n",
				comm(), of.state(), of.pid, of.ppid, of.memory/1024, of.memory/1024, of.ignored, of.caught)
		}),
	})
	fixed := n.virt
	n.virt.list = func(p *Proc) []string { return append(slices.Clone(fixed.list(p)), "fd") }
	n.virt.lookup = func(p *Proc, name string) *node {
		switch {
		case name != "fd":
			return fixed.lookup(p, name)
		case of != p: // another's descriptors are its own affair
			return directoryNode(nil)
		}
		return &node{mode: sIFDIR | 0o555, virt: descriptors}
	}
	return n
}
