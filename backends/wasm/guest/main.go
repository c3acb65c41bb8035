// Command box is every tool of the go_busybox sandbox in one program, and the
// shell. The name it is called by says which one it is:
//
//	/bin/ls -> busybox          ls -l
//	busybox ls -l               the same
//	busybox --list              all names, one a line
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/applets"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sh"
)

// run is the whole program; it returns the exit status.
func run() int {
	args := os.Args
	name := base(args[0])
	if name == "busybox" || name == "box" {
		if len(args) < 2 {
			args = []string{"busybox", "help"}
		} else {
			args = args[1:]
		}
		if args[0] == "--list" {
			fmt.Println(strings.Join(applets.Names(), "\n"))
			return 0
		}
		if args[0] == "--help" {
			args[0] = "help"
		}
		name = base(args[0])
	}
	switch name {
	case "sh", "bash", "ash":
		return sh.Main(args, os.Environ(), self())
	}
	return applets.Run(&applets.Call{Args: args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}

// base is the name without directories and without the dash of a login shell.
func base(name string) string { return strings.TrimPrefix(filepath.Base(name), "-") }
