package agent

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"sync"
)

// The agent, as init/build.sh builds it; TestReproducible holds them to their
// source.
var (
	//go:embed init/kilntainers-init-amd64
	amd64 []byte
	//go:embed init/kilntainers-init-arm64
	arm64 []byte
)

// Name is the agent's file name.
const Name = "kilntainers-init"

// Binary returns the agent for an architecture as engines name it: amd64 or
// x86_64, arm64 or aarch64. The file needs mode 0755, and nothing else of the
// image. The caller must not change the bytes.
func Binary(arch string) ([]byte, error) {
	switch arch {
	case "amd64", "x86_64":
		return amd64, nil
	case "arm64", "aarch64":
		return arm64, nil
	}
	return nil, fmt.Errorf("no agent for architecture %q; there is one for amd64 and arm64", arch)
}

// Digest names this version of all the binaries in twelve hexadecimal digits:
// what holds them, such as a volume, is named after it.
func Digest() string { return digest() }

var digest = sync.OnceValue(func() string {
	h := sha256.New()
	h.Write(amd64)
	h.Write(arm64)
	return hex.EncodeToString(h.Sum(nil))[:12]
})
