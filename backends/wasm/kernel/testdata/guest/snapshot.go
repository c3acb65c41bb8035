package main

import (
	"os"
	"unsafe"
)

//go:wasmexport kiln_main
func kilnMain() {
	var need uint32
	kilnArgs(nil, 0, &need)
	b := make([]byte, need)
	kilnArgs(unsafe.Pointer(&b[0]), need, &need)
	u32 := func() uint32 {
		v := le.Uint32(b)
		b = b[4:]
		return v
	}
	str := func() string {
		n := u32()
		s := string(b[:n])
		b = b[n:]
		return s
	}
	list := func() []string {
		l := make([]string, u32())
		for i := range l {
			l[i] = str()
		}
		return l
	}
	dir := str()
	os.Args = list()
	os.Clearenv()
	for _, kv := range list() {
		for i := range kv {
			if kv[i] == '=' {
				os.Setenv(kv[:i], kv[i+1:])
				break
			}
		}
	}
	os.Chdir(dir)
	main()
	os.Exit(0)
}
