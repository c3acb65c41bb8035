// Command guest is the program that the tests of the kernel run inside it. Its
// first argument, or its name, says what it does.
package main

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func fatal(what string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
	os.Exit(1)
}

func check(what string, err error) {
	if err != nil {
		fatal(what, err)
	}
}

var sink any

func main() {
	args := os.Args
	if path.Base(args[0]) == "guest" {
		args = args[1:]
	}
	name, args := path.Base(args[0]), args[1:]
	switch name {
	case "true":
	case "exit":
		n, _ := strconv.Atoi(args[0])
		os.Exit(n)
	case "echo":
		fmt.Println(strings.Join(args, " "))
	case "warn":
		fmt.Fprintln(os.Stderr, strings.Join(args, " "))
	case "env":
		env := os.Environ()
		slices.Sort(env)
		fmt.Println(strings.Join(env, "\n"))
	case "pwd":
		dir, err := os.Getwd()
		check("getwd", err)
		fmt.Println(dir)
	case "cat":
		if len(args) == 0 {
			_, err := io.Copy(os.Stdout, os.Stdin)
			check("copy", err)
		}
		for _, a := range args {
			f, err := os.Open(a)
			check("open", err)
			_, err = io.Copy(os.Stdout, f)
			check("copy", err)
			f.Close()
		}
	case "ls":
		entries, err := os.ReadDir(args[0])
		check("readdir", err)
		for _, e := range entries {
			fmt.Println(e.Name(), e.Type())
		}
	case "write":
		check("write", os.WriteFile(args[0], []byte(args[1]), 0o666))
	case "sleep":
		d, _ := time.ParseDuration(args[0])
		time.Sleep(d)
	case "spin":
		for {
		}
	case "recurse":
		fmt.Println(recurse(0))
	case "bomb": // memory
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
			sink = all
		}
	case "forks":
		for {
			if _, err := spawn([]string{"forks"}, -1, -1, -1); err != nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
	case "fds":
		n := 0
		var open []*os.File
		for {
			f, err := os.Open("/dev/null")
			if err != nil {
				fmt.Println(n, err)
				return
			}
			open = append(open, f)
			sink = open
			n++
		}
	case "inodes":
		for n := 0; ; n++ {
			if err := os.WriteFile(fmt.Sprintf("/tmp/%d", n), nil, 0o666); err != nil {
				fmt.Println(n > 0, err)
				return
			}
		}
	case "fill":
		f, err := os.Create("/tmp/fill")
		check("create", err)
		n, b := 0, make([]byte, 1<<20)
		for err == nil {
			var k int
			k, err = f.Write(b)
			n += k
		}
		fmt.Println(n>>20, err)
	case "flood":
		w := bufio.NewWriterSize(os.Stdout, 64<<10)
		for {
			w.WriteString("yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\n")
		}
	case "count": // bytes of standard input
		n, err := io.Copy(io.Discard, os.Stdin)
		check("read", err)
		fmt.Println(n)
	case "random":
		var b [8]byte
		rand.Read(b[:])
		fmt.Printf("%x\n", b)
	case "pid":
		var b [20]byte
		kilnIDs(unsafe.Pointer(&b[0]))
		fmt.Println(int32(le.Uint32(b[:])))
	case "bg": // leaves a process behind
		c, err := spawn(args, 0, 1, 2)
		check("spawn", err)
		fmt.Println(c.pid)
	case "run": // waits for one
		c, err := spawn(args, 0, 1, 2)
		check("spawn", err)
		status, signal := c.wait()
		fmt.Println("status", status, "signal", signal)
	case "exec":
		req := request(args, 0, 1, 2)
		check("exec", syscall.Errno(kilnExec(unsafe.Pointer(&req[0]), uint32(len(req)))))
	case "pipeline": // a , b , c
		pipeline(args)
	case "kill":
		pid, _ := strconv.Atoi(args[0])
		sig, _ := strconv.Atoi(args[1])
		if e := kilnKill(int32(pid), int32(sig)); e != 0 {
			fatal("kill", syscall.Errno(e))
		}
	case "trap": // says which signals came, until TERM
		trap()
	case "fifo":
		if e := kilnMkfifo(-100, ptr(args[0]), uint32(len(args[0])), 0o666); e != 0 {
			fatal("mkfifo", syscall.Errno(e))
		}
	case "chmod":
		mode, _ := strconv.ParseUint(args[0], 8, 32)
		if e := kilnChmod(-100, ptr(args[1]), uint32(len(args[1])), 1, uint32(mode)); e != 0 {
			fatal("chmod", syscall.Errno(e))
		}
	case "stat":
		var b [80]byte
		if e := kilnStat(-100, ptr(args[0]), uint32(len(args[0])), 0, unsafe.Pointer(&b[0])); e != 0 {
			fatal("stat", syscall.Errno(e))
		}
		fmt.Printf("%o links %d size %d\n", le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint64(b[40:]))
	case "moves": // in one call; then again and again
		moves(args[0])
		for len(args) > 1 {
			moves(args[0])
		}
	case "files":
		files()
	case "escape":
		escape(args[0])
	default:
		fmt.Fprintf(os.Stderr, "%s: no such test\n", name)
		os.Exit(127)
	}
}

//go:noinline
func recurse(n int) int { return recurse(n+1) + n }

func pipeline(args []string) {
	in := int32(0)
	var all []child
	for len(args) > 0 {
		n := slices.Index(args, ",")
		last := n < 0
		if last {
			n = len(args)
		}
		out, next := int32(1), int32(-1)
		if !last {
			next, out = pipe()
		}
		c, err := spawn(args[:n], in, out, 2)
		check("spawn", err)
		all = append(all, c)
		if in != 0 {
			syscall.Close(int(in))
		}
		if out != 1 {
			syscall.Close(int(out))
		}
		in = next
		args = args[min(n+1, len(args)):]
	}
	for _, c := range all {
		status, signal := c.wait()
		fmt.Fprintln(os.Stderr, "status", status, "signal", signal)
	}
}

func trap() {
	var fd int32
	kilnSigfd(&fd)
	for _, sig := range []int32{10, 15} {
		kilnSigaction(sig, 2)
	}
	kilnSigaction(1, 1)
	f := os.NewFile(uintptr(fd), "signals")
	fmt.Println("ready")
	for {
		var b [4]byte
		_, err := f.Read(b[:])
		check("read", err)
		fmt.Println("signal", le.Uint32(b[:]))
		if le.Uint32(b[:]) == 15 {
			return
		}
	}
}

// moves moves as much as a call takes, with one buffer of 4 MiB named 1024
// times, and says how much that was.
func moves(call string) {
	buf, list := make([]byte, 4<<20), make([]byte, 8*1024)
	for i := range 1024 {
		le.PutUint32(list[8*i:], uint32(uintptr(unsafe.Pointer(&buf[0]))))
		le.PutUint32(list[8*i+4:], uint32(len(buf)))
	}
	name := "/dev/zero"
	if strings.HasSuffix(call, "write") {
		name = "/dev/null"
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	check("open", err)
	defer f.Close()
	fd, vectors, moved := int32(f.Fd()), unsafe.Pointer(&list[0]), uint32(0)
	var e uint32
	switch call {
	case "read":
		e = fdRead(fd, vectors, 1024, &moved)
	case "write":
		e = fdWrite(fd, vectors, 1024, &moved)
	case "pread":
		e = fdPread(fd, vectors, 1024, 0, &moved)
	case "pwrite":
		e = fdPwrite(fd, vectors, 1024, 0, &moved)
	}
	fmt.Println(call, syscall.Errno(e), moved)
}

// files goes through what a file system must do and says what is wrong.
func files() {
	want := func(what string, got, want any) {
		if fmt.Sprint(got) != fmt.Sprint(want) {
			fmt.Printf("%s: got %v, want %v\n", what, got, want)
		}
	}
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	check("mkdir", os.MkdirAll("/tmp/d/e/f", 0o777))
	check("chdir", os.Chdir("/tmp/d"))
	check("write", os.WriteFile("a", []byte("one"), 0o666))
	want("read", read("/tmp/d/a"), "one")
	check("symlink", os.Symlink("../a", "e/l"))
	want("read symlink", read("e/l"), "one")
	target, _ := os.Readlink("e/l")
	want("readlink", target, "../a")
	check("remove", os.Remove("e/l"))
	check("symlink", os.Symlink("loop", "loop"))
	want("loop", read("loop"), "open loop: Too many symbolic links")
	check("link", os.Link("a", "b"))
	f, err := os.OpenFile("a", os.O_APPEND|os.O_RDWR, 0)
	check("open", err)
	f.WriteString("two")
	want("read hard link", read("b"), "onetwo")
	check("remove", os.Remove("a"))
	check("remove", os.Remove("b"))
	f.Seek(0, 0)
	b, _ := io.ReadAll(f)
	want("read removed", string(b), "onetwo")
	f.Close()
	check("write", os.WriteFile("x", []byte("x"), 0o666))
	check("write", os.WriteFile("y", []byte("y"), 0o666))
	check("rename", os.Rename("x", "y"))
	want("renamed over", read("y"), "x")
	want("rename into itself", os.Rename("e", "e/f/g"), "rename e e/f/g: Invalid argument")
	want("rmdir full", os.Remove("e"), "remove e: Directory not empty")
	check("truncate", os.Truncate("y", 1<<20))
	fi, _ := os.Stat("y")
	want("size", fi.Size(), 1<<20)
	g, _ := os.OpenFile("y", os.O_RDWR, 0)
	g.WriteAt([]byte("end"), 200000)
	part := make([]byte, 5)
	g.ReadAt(part, 199998)
	want("hole", string(part), "\x00\x00end")
	large := make([]byte, 5<<20+3)
	rand.Read(large)
	n, err := g.WriteAt(large, 7)
	want("large write", n, len(large))
	want("large write", err, nil)
	again := make([]byte, len(large))
	n, _ = syscall.Pread(int(g.Fd()), again, 7)
	want("large read at an offset", n, len(large))
	want("the same", string(again) == string(large), true)
	again = make([]byte, len(large)+7)
	n, _ = syscall.Read(int(g.Fd()), again) // from the start: the offset was left alone
	want("large read", n, len(again))
	want("the same", string(again[7:]) == string(large), true)
	want("random", func() int { r, _ := os.Open("/dev/urandom"); n, _ := r.Read(again); return n }(), len(again))
	when := time.Unix(1000000000, 123456789)
	check("chtimes", os.Chtimes("y", when, when))
	fi, _ = os.Stat("y")
	want("mtime", fi.ModTime().UnixNano(), when.UnixNano())
	_, err = os.Open("y/z")
	want("file as directory", err, "open y/z: Not a directory")
	want("long name", os.Mkdir(strings.Repeat("n", 256), 0), "mkdir "+strings.Repeat("n", 256)+": File name too long")
	check("many", os.Mkdir("many", 0o777))
	for i := range 500 {
		check("many", os.WriteFile(fmt.Sprint("many/", i), nil, 0o666))
	}
	dir, _ := os.Open("many")
	seen := 0
	for {
		names, err := dir.Readdirnames(7)
		for _, n := range names {
			check("remove", os.Remove("many/"+n))
			seen++
		}
		if err != nil {
			break
		}
	}
	want("removed while reading", seen, 500)
	want("empty now", os.Remove("many"), nil)
	check("removeall", os.RemoveAll("/tmp/d"))
	fmt.Println("done")
}

// escape tries to leave: outside is the absolute path of a file of the host.
func escape(outside string) {
	bad := func(what string, err error) {
		if err == nil {
			fmt.Println("ESCAPED:", what)
		}
	}
	up := strings.Repeat("../", 20)
	try := func(what, name string) {
		_, err := os.ReadFile(name)
		bad("read "+what, err)
		bad("write "+what, func() error {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err == nil {
				f.Close()
			}
			return err
		}())
		_, err = os.Stat(name)
		bad("stat "+what, err)
		// A symbolic link itself may be linked and moved; it must lead
		// nowhere from there either.
		if os.Link(name, "/tmp/linked") == nil {
			_, err := os.ReadFile("/tmp/linked")
			bad("link "+what, err)
			os.Remove("/tmp/linked")
		}
		if os.Rename(name, "/tmp/renamed") == nil {
			_, err := os.ReadFile("/tmp/renamed")
			bad("rename "+what, err)
			check("rename back", os.Rename("/tmp/renamed", name))
		}
	}
	try("absolute path", outside)
	try("dots", up+outside)
	try("dots after a directory", "/tmp/"+up+outside)
	try("proc root", "/proc/self/root"+outside)
	try("proc cwd", "/proc/self/cwd/"+up+outside)
	try("descriptor", "/dev/fd/3/"+up+outside)
	for i, target := range []string{outside, up + outside, "/proc/self/cwd/" + up + outside} {
		name := fmt.Sprint("/tmp/link", i)
		check("symlink", os.Symlink(target, name))
		try("symlink to "+target, name)
		check("symlink", os.Symlink(path.Dir(target), name+"d"))
		try("symlink to directory of "+target, name+"d/"+path.Base(target))
	}
	for fd := range 2000 {
		// Absolute and climbing paths from every descriptor there may be.
		for _, p := range []string{outside, up + outside} {
			if n, err := syscall.Openat(fd, p, 0, 0); err == nil {
				fmt.Println("ESCAPED: openat", fd, n)
			}
		}
	}
	fmt.Println("done")
}
