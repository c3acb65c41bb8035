package docker

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "ssh" {
		os.Exit(fakeSSH(os.Args[1:]))
	}
	if words := os.Getenv("KILNTAINERS_TEST_DAEMON"); words != "" {
		os.Exit(testDaemon(words))
	}
	os.Exit(dockertest.Main(m))
}
