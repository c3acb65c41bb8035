//go:build !linux

package kernel

// image is memory that many processes start from. Where Linux maps it, other
// systems copy it.
type image struct{ data []byte }

func newImage(b []byte) (*image, error) { return &image{append([]byte(nil), b...)}, nil }

func (m *image) close() {}

func reserve(size uint64, m *image) ([]byte, error) {
	b := make([]byte, size)
	if m != nil {
		copy(b, m.data)
	}
	return b, nil
}

func reset(b []byte, size uint64, m *image) error {
	n := 0
	if m != nil {
		n = copy(b[:size], m.data)
	}
	clear(b[n:size])
	return nil
}

func unreserve([]byte) {}

func canCompile() bool { return true }
