// Command gen writes the manual pages and the completions of the programs.
//
//	go run ./packaging/gen PROGRAMS OUT
//
//	PROGRAMS/kilntainers --help ──┐
//	PROGRAMS/… COMMAND --help   ──┼─ help.go ─┬─ man.go       OUT/man/*.1, *.8
//	                              │           └─ complete.go  OUT/{bash,zsh,fish}/*
//	profiles.Keys() ──────────────┴─ config.go                OUT/man/kilntainers.toml.5
//
// So what --help says, and the table that decodes the configuration, are said
// once; a new command or key is everywhere as soon as it works.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: gen PROGRAMS OUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// run writes everything into the folder out, which it makes anew.
func run(programs, out string) error {
	files := map[string]string{"man/kilntainers.toml.5": configPage()}
	for _, p := range pages {
		prog, err := ask(filepath.Join(programs, p.program))
		if err != nil {
			return err
		}
		files[fmt.Sprintf("man/%s.%d", p.program, p.section)] = p.man(prog)
		files["bash/"+p.program] = bash(prog)
		files["zsh/_"+p.program] = zsh(prog)
		files["fish/"+p.program+".fish"] = fish(prog)
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	for name, text := range files {
		path := filepath.Join(out, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
