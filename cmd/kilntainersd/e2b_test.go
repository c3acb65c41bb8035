package main

import (
	"testing"

	"github.com/kilntainers/kilntainers/backends/e2b/e2btest"
)

// The product on a cloud, which is a fake that runs commands here.
func TestE2BStories(t *testing.T) {
	s := e2btest.New(t)
	tell(t, "testdata/e2b", s.URL)
	if left := s.Sandboxes("kilntainers", "true"); len(left) > 0 {
		t.Errorf("left behind: %+v", left)
	}
}
