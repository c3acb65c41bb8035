package kernel

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

func newFS(bytes, inodes int64) *fileSystem {
	fs := &fileSystem{now: time.Now, quota: quota{bytes: bytes, inodes: inodes, fileMax: bytes}}
	fs.root, _ = fs.make(sIFDIR | 0o755)
	fs.root.nlink, fs.root.dir.parent = 1, fs.root
	return fs
}

// cost adds up what the tree below n should have been charged.
func (fs *fileSystem) cost(n *node, seen map[*node]bool) (used, inodes int64) {
	if seen[n] {
		return 0, 0
	}
	seen[n] = true
	used, inodes = n.data.cost+int64(len(n.target)), 1
	if n.is(sIFDIR) {
		for name, e := range n.dir.byName {
			u, i := fs.cost(e.n, seen)
			used, inodes = used+u+entryCost+int64(len(name)), inodes+i
		}
	}
	return used, inodes
}

// Whatever is done to a file system, in whatever order, its quota is what is
// in it, and what is in it is a tree.
func FuzzFileSystem(f *testing.F) {
	f.Add([]byte("0a1b2c3d"))
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		b := make([]byte, 300)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	names := []string{"a", "b", "/a", "a/b", "b/a", "/a/../b", "a/", ".", "..", "l", "l/a", "/b/b", "l/..", "a/b/c"}
	f.Fuzz(func(t *testing.T, ops []byte) {
		fs := newFS(400_000, 20)
		dirs := []*node{fs.root}
		var open []*node
		next := func() int {
			if len(ops) == 0 {
				return 0
			}
			c := ops[0]
			ops = ops[1:]
			return int(c)
		}
		for len(ops) > 0 {
			op := next() % 12
			dir := dirs[next()%len(dirs)]
			at, e := fs.walk(nil, dir, names[next()%len(names)], op == 9)
			if e != ok {
				continue
			}
			switch op {
			case 0:
				fs.create(at, sIFREG|0o644, nil)
			case 1:
				if n, e := fs.create(at, sIFDIR|0o755, nil); e == ok {
					dirs = append(dirs, n)
				}
			case 2:
				fs.symlink(at, names[next()%len(names)])
			case 3:
				fs.remove(at, true)
			case 4:
				fs.remove(at, false)
			case 5:
				if to, e := fs.walk(nil, fs.root, names[next()%len(names)], false); e == ok {
					fs.rename(at, to)
				}
			case 6:
				if to, e := fs.walk(nil, fs.root, names[next()%len(names)], false); e == ok && at.node != nil {
					fs.hardlink(at.node, to)
				}
			case 7, 9:
				if at.node != nil && at.node.is(sIFREG) {
					at.node.data.writeAt(make([]byte, 1000*next()), int64(next()*next()), &fs.quota)
				}
			case 8:
				if at.node != nil && at.node.is(sIFREG) {
					fs.truncate(at.node, int64(next()*next()))
				}
			case 10:
				if at.node != nil {
					at.node.opens++
					open = append(open, at.node)
				}
			case 11:
				if len(open) > 0 {
					open[0].opens--
					fs.drop(open[0])
					open = open[1:]
				}
			}
			if q := fs.quota; q.used < 0 || q.used > q.bytes || q.inodesUsed > q.inodes {
				t.Fatalf("quota is %+v", q)
			}
		}
		for _, n := range open {
			n.opens--
			fs.drop(n)
		}
		used, inodes := fs.cost(fs.root, map[*node]bool{})
		if used != fs.quota.used || inodes != fs.quota.inodesUsed {
			t.Errorf("charged %d bytes and %d inodes, there are %d and %d", fs.quota.used, fs.quota.inodesUsed, used, inodes)
		}
	})
}

// A file reads back what a plain slice would.
func TestContent(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	image := bytes.Repeat([]byte("image"), 50_000)
	q := &quota{bytes: 1 << 20, fileMax: 1 << 20}
	c := imageContent(image)
	want := bytes.Clone(image)
	for i := range 500 {
		off := r.IntN(400_000)
		b := bytes.Repeat([]byte{byte(i)}, r.IntN(100_000))
		switch {
		case i%7 == 6:
			if e := c.truncate(int64(off), q); e != ok {
				t.Fatal(e)
			}
			want = append(want, make([]byte, max(0, off-len(want)))...)[:off]
		default:
			n, e := c.writeAt(b, int64(off), q)
			if e != ok || n != len(b) {
				t.Fatalf("write %d at %d: %d, %v", len(b), off, n, e)
			}
			if len(b) > 0 {
				want = append(want, make([]byte, max(0, off+len(b)-len(want)))...)
				copy(want[off:], b)
			}
		}
		got := make([]byte, c.size)
		if n := c.readAt(got, 0); n != len(want) || !bytes.Equal(got, want) {
			t.Fatalf("step %d: %d bytes differ from %d", i, n, len(want))
		}
	}
	if !bytes.Equal(image, bytes.Repeat([]byte("image"), 50_000)) {
		t.Error("the image was written to")
	}
	c.free(q)
	if q.used != 0 {
		t.Errorf("%d bytes are left", q.used)
	}
}

// A pipe gives out what went in, in order, and holds so much.
func TestPipe(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	q := &pipe{readers: 1, writers: 1}
	var in, out []byte
	for i := range 5000 {
		b := make([]byte, r.IntN(5000))
		for j := range b {
			b[j] = byte(i + j)
		}
		in = append(in, b[:q.put(b)]...)
		if q.n > pipeSize {
			t.Fatalf("it holds %d bytes", q.n)
		}
		b = make([]byte, r.IntN(5000))
		out = append(out, b[:q.get(b)]...)
	}
	b := make([]byte, pipeSize)
	out = append(out, b[:q.get(b)]...)
	if !bytes.Equal(in, out) {
		t.Errorf("%d bytes went in, %d others came out", len(in), len(out))
	}
}

// Requests are the guest's bytes.
func FuzzRequest(f *testing.F) {
	f.Add(appendList(appendList([]byte{0, 0, 0, 0, 1, 0, 0, 0, 'x'}, []string{"a", "b"}), nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := decoder{b: b}
		d.u32()
		total := len(d.str())
		for _, s := range append(d.list(), d.list()...) {
			total += len(s)
		}
		if total > len(b) {
			t.Errorf("%d bytes of strings in %d", total, len(b))
		}
	})
}

// Who has used least goes first, and who is gone is not waited for.
func TestScheduler(t *testing.T) {
	s := &scheduler{free: 1}
	never := make(chan struct{})
	uses := make([]atomic.Int64, 4)
	for i, u := range []time.Duration{4, 1, 3, 2} {
		uses[i].Store(int64(u * time.Millisecond))
	}
	var first atomic.Int64
	s.acquire(&first, never)
	order := make(chan int)
	for i := range uses {
		go func() {
			s.acquire(&uses[i], never)
			order <- i
			s.release()
		}()
	}
	for s.waiting.Load() < 4 {
		time.Sleep(time.Millisecond)
	}
	gone := make(chan struct{})
	close(gone)
	if s.acquire(&first, gone) {
		t.Error("got a turn while another had it")
	}
	if !s.wanted(&uses[0]) || s.wanted(&first) {
		t.Error("wanted is wrong about who used more")
	}
	s.release()
	got := fmt.Sprint(<-order, <-order, <-order, <-order)
	if got != "1 3 2 0" {
		t.Errorf("got %s, want 1 3 2 0", got)
	}
}
