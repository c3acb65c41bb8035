package kernel

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// image is memory that many processes start from: a sealed file in memory,
// which each maps privately, so that a page is copied when it is written to.
type image struct {
	fd   int
	size int64 // of the file, in whole pages
}

func newImage(b []byte) (*image, error) {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	n = (n + pageSize - 1) &^ (pageSize - 1)
	fd, err := unix.MemfdCreate("kilntainers-wasm", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	m := &image{fd, int64(n)}
	if err := m.write(b[:min(n, len(b))]); err != nil {
		m.close()
		return nil, fmt.Errorf("write memory image: %w", err)
	}
	return m, nil
}

func (m *image) write(b []byte) error {
	if err := unix.Ftruncate(m.fd, m.size); err != nil {
		return err
	}
	var zero [pageSize]byte
	for off := 0; off < len(b); off += pageSize {
		page := b[off:min(off+pageSize, len(b))]
		if string(page) == string(zero[:len(page)]) {
			continue
		}
		if _, err := unix.Pwrite(m.fd, page, int64(off)); err != nil {
			return err
		}
	}
	_, err := unix.FcntlInt(uintptr(m.fd), unix.F_ADD_SEALS,
		unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	return err
}

func (m *image) close() { unix.Close(m.fd) }

// reserve takes address space for a linear memory; pages are the process's
// from when they are touched. The image, if there is one, is at its start.
func reserve(size uint64, m *image) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mmap %d bytes: %w", size, err)
	}
	if m != nil && m.size > 0 {
		_, err := unix.MmapPtr(m.fd, 0, unsafe.Pointer(&b[0]), uintptr(m.size),
			unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED)
		if err != nil {
			unix.Munmap(b)
			return nil, fmt.Errorf("mmap memory image: %w", err)
		}
	}
	return b, nil
}

// reset makes b[:size] what it was after reserve.
func reset(b []byte, size uint64, _ *image) error {
	return unix.Madvise(b[:size], unix.MADV_DONTNEED)
}

func unreserve(b []byte) { unix.Munmap(b) }

// canCompile reports whether the system lets us run code that we make.
func canCompile() bool {
	b, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return false
	}
	defer unix.Munmap(b)
	return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC) == nil
}
