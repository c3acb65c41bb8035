package main

import (
	"encoding/binary"
	"os"
	"syscall"
	"unsafe"
)

//go:wasmimport wasi_snapshot_preview1 fd_read
func fdRead(fd int32, vectors unsafe.Pointer, n uint32, moved *uint32) uint32

//go:wasmimport wasi_snapshot_preview1 fd_write
func fdWrite(fd int32, vectors unsafe.Pointer, n uint32, moved *uint32) uint32

//go:wasmimport wasi_snapshot_preview1 fd_pread
func fdPread(fd int32, vectors unsafe.Pointer, n uint32, off int64, moved *uint32) uint32

//go:wasmimport wasi_snapshot_preview1 fd_pwrite
func fdPwrite(fd int32, vectors unsafe.Pointer, n uint32, off int64, moved *uint32) uint32

//go:wasmimport kiln_v1 spawn
func kilnSpawn(req unsafe.Pointer, n uint32, pid, pidfd *int32) uint32

//go:wasmimport kiln_v1 exec
func kilnExec(req unsafe.Pointer, n uint32) uint32

//go:wasmimport kiln_v1 pipe
func kilnPipe(r, w *int32) uint32

//go:wasmimport kiln_v1 kill
func kilnKill(pid, sig int32) uint32

//go:wasmimport kiln_v1 sigaction
func kilnSigaction(sig, how int32) uint32

//go:wasmimport kiln_v1 sigfd
func kilnSigfd(fd *int32) uint32

//go:wasmimport kiln_v1 ids
func kilnIDs(buf unsafe.Pointer) uint32

//go:wasmimport kiln_v1 args
func kilnArgs(buf unsafe.Pointer, n uint32, need *uint32) uint32

//go:wasmimport kiln_v1 chmod
func kilnChmod(fd int32, path unsafe.Pointer, n, flags, mode uint32) uint32

//go:wasmimport kiln_v1 stat
func kilnStat(fd int32, path unsafe.Pointer, n, flags uint32, buf unsafe.Pointer) uint32

//go:wasmimport kiln_v1 mkfifo
func kilnMkfifo(fd int32, path unsafe.Pointer, n, mode uint32) uint32

var le = binary.LittleEndian

func appendStr(b []byte, s string) []byte { return append(le.AppendUint32(b, uint32(len(s))), s...) }

func appendList(b []byte, l []string) []byte {
	b = le.AppendUint32(b, uint32(len(l)))
	for _, s := range l {
		b = appendStr(b, s)
	}
	return b
}

func request(argv []string, fds ...int32) []byte {
	dir, _ := os.Getwd()
	path := argv[0]
	if path[0] != '/' {
		path = "/bin/" + path
	}
	b := le.AppendUint32(nil, 0)
	b = appendStr(appendStr(b, path), dir)
	b = appendList(appendList(b, argv), os.Environ())
	b = le.AppendUint32(b, uint32(len(fds)))
	for _, f := range fds {
		b = le.AppendUint32(b, uint32(f))
	}
	return b
}

// child is a process that spawn started.
type child struct {
	pid   int32
	pidfd *os.File
}

func spawn(argv []string, fds ...int32) (child, error) {
	req := request(argv, fds...)
	var pid, pidfd int32
	if e := kilnSpawn(unsafe.Pointer(&req[0]), uint32(len(req)), &pid, &pidfd); e != 0 {
		return child{}, syscall.Errno(e)
	}
	return child{pid, os.NewFile(uintptr(pidfd), "pidfd")}, nil
}

// wait returns the status and the signal.
func (c child) wait() (int, int) {
	var b [16]byte
	if _, err := c.pidfd.Read(b[:]); err != nil {
		return -1, -1
	}
	c.pidfd.Close()
	return int(le.Uint32(b[:])), int(le.Uint32(b[4:]))
}

func pipe() (r, w int32) {
	if e := kilnPipe(&r, &w); e != 0 {
		fatal("pipe", syscall.Errno(e))
	}
	return r, w
}

func ptr(s string) unsafe.Pointer { return unsafe.Pointer(unsafe.StringData(s)) }
