// Command shelltools is what BusyBox's tests of its shell run to see what the
// shell gives a program: recho prints its arguments one a line with control
// characters made visible, zecho prints them as they are, printenv prints a
// variable. The name it is called by says which one it is.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	args := os.Args[1:]
	switch filepath.Base(os.Args[0]) {
	case "recho":
		for i, a := range args {
			fmt.Printf("argv[%d] = <%s>\n", i+1, visible(a))
		}
	case "zecho":
		fmt.Println(strings.Join(args, " "))
	case "printenv":
		if len(args) == 0 {
			fmt.Println(strings.Join(os.Environ(), "\n"))
			return
		}
		value, set := os.LookupEnv(args[0])
		if !set {
			os.Exit(1)
		}
		fmt.Println(value)
	}
}

func visible(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c < ' ':
			b.WriteByte('^')
			b.WriteByte(c + 64)
		case c == 127:
			b.WriteString("^?")
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
