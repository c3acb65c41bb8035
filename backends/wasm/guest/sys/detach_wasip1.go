package sys

//go:wasmimport kiln_v1 detach
func kDetach(status int32) uint32

// Detach tells whoever waits for this process that it exited with status; it
// runs on in the background.
func Detach(status int) { kDetach(int32(status)) }
