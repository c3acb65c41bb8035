package main

import "os"

func main() { os.Exit(run()) }

// self is the file of this program.
func self() string {
	p, err := os.Executable()
	if err != nil {
		return "/proc/self/exe"
	}
	return p
}
