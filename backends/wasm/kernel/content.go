package kernel

// chunkSize is how a file's bytes are kept: in pieces of this size, of which
// the last may be shorter, and of which a hole is nil.
const chunkSize = 64 << 10

// chunkCost is what an entry of the table of chunks is charged, so that a
// large file with nothing in it is not free.
const chunkCost = 24

// content is the bytes of one regular file. Chunks that came with the base
// image are shared between sandboxes and copied before the first write.
type content struct {
	size   int64
	chunks [][]byte
	shared bool // every chunk belongs to the image
	cost   int64
}

// imageContent is content that nobody may write to, backed by b.
func imageContent(b []byte) content {
	c := content{size: int64(len(b)), shared: true}
	for len(b) > 0 {
		n := min(len(b), chunkSize)
		c.chunks = append(c.chunks, b[:n:n])
		b = b[n:]
	}
	return c
}

func (c *content) readAt(b []byte, off int64) int {
	if off >= c.size {
		return 0
	}
	b = b[:min(int64(len(b)), c.size-off)]
	for n := 0; n < len(b); {
		i, at := int((off+int64(n))/chunkSize), int((off+int64(n))%chunkSize)
		k := min(chunkSize-at, len(b)-n)
		part := b[n : n+k]
		var have []byte
		if i < len(c.chunks) && at < len(c.chunks[i]) {
			have = c.chunks[i][at:]
		}
		clear(part[copy(part, have):])
		n += k
	}
	return len(b)
}

// own makes c private to its sandbox and charges for it.
func (c *content) own(q *quota) errno {
	if !c.shared {
		return ok
	}
	cost := int64(chunkCost * len(c.chunks))
	for _, b := range c.chunks {
		cost += int64(cap(b))
	}
	if !q.take(cost) {
		return eNOSPC
	}
	chunks := make([][]byte, len(c.chunks))
	for i, b := range c.chunks {
		chunks[i] = append(make([]byte, 0, cap(b)), b...)
	}
	c.chunks, c.shared, c.cost = chunks, false, cost
	return ok
}

// writeAt writes as much of b as the quota allows, and reports ENOSPC only
// when that is nothing.
func (c *content) writeAt(b []byte, off int64, q *quota) (int, errno) {
	if len(b) == 0 {
		return 0, ok
	}
	if off < 0 || off > q.fileMax-int64(len(b)) {
		return 0, eFBIG
	}
	if e := c.own(q); e != ok {
		return 0, e
	}
	n := 0
	for n < len(b) {
		i, at := int((off+int64(n))/chunkSize), int((off+int64(n))%chunkSize)
		k := min(chunkSize-at, len(b)-n)
		if !c.room(i, at+k, q) {
			break
		}
		copy(c.chunks[i][at:at+k], b[n:n+k])
		n += k
	}
	if n == 0 {
		return 0, eNOSPC
	}
	c.size = max(c.size, off+int64(n))
	return n, ok
}

// room makes chunk i at least n bytes long.
func (c *content) room(i, n int, q *quota) bool {
	if i >= len(c.chunks) {
		grow := i + 1 - len(c.chunks)
		if !c.charge(int64(grow*chunkCost), q) {
			return false
		}
		c.chunks = append(c.chunks, make([][]byte, grow)...)
	}
	b := c.chunks[i]
	if n <= len(b) {
		return true
	}
	if n > cap(b) {
		size := 256
		for size < n {
			size *= 2
		}
		if !c.charge(int64(size-cap(b)), q) {
			if !c.charge(int64(n-cap(b)), q) {
				return false
			}
			size = n
		}
		b = append(make([]byte, 0, size), b...)
	}
	clear(b[len(b):n])
	c.chunks[i] = b[:n]
	return true
}

func (c *content) charge(n int64, q *quota) bool {
	if !q.take(n) {
		return false
	}
	c.cost += n
	return true
}

// truncate sets the size. Growing leaves a hole.
func (c *content) truncate(size int64, q *quota) errno {
	if size < 0 {
		return eINVAL
	}
	if size > q.fileMax {
		return eFBIG
	}
	if size == 0 {
		c.free(q)
		return ok
	}
	if e := c.own(q); e != ok {
		return e
	}
	n := int((size + chunkSize - 1) / chunkSize)
	if n < len(c.chunks) {
		for _, b := range c.chunks[n:] {
			c.cost -= int64(cap(b)) + chunkCost
			q.give(int64(cap(b)) + chunkCost)
		}
		clear(c.chunks[n:])
		c.chunks = c.chunks[:n]
	}
	if at := int(size % chunkSize); n == len(c.chunks) && at > 0 && at < len(c.chunks[n-1]) {
		c.chunks[n-1] = c.chunks[n-1][:at]
	}
	c.size = size
	return ok
}

func (c *content) free(q *quota) {
	q.give(c.cost)
	*c = content{}
}

// blocks is how many units of 512 bytes the file takes on a disk of 4 KiB
// blocks, as du and ls have it everywhere. The quota counts bytes.
func (c *content) blocks() uint64 {
	var n uint64
	for _, b := range c.chunks {
		n += uint64(len(b)+4095) / 4096 * 8
	}
	return n
}

// quota is what the files of one sandbox may take.
type quota struct {
	bytes, used        int64
	inodes, inodesUsed int64
	fileMax            int64 // size of one file
}

func (q *quota) take(n int64) bool {
	if n > q.bytes-q.used {
		return false
	}
	q.used += n
	return true
}

func (q *quota) give(n int64) { q.used -= n }
