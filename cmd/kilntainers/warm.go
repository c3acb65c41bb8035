package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/pflag"
)

func warmCommand() command {
	var config string
	return command{
		name:     "warm",
		synopsis: "[flags]",
		summary:  "compile the WebAssembly modules of the configuration ahead of need",
		detail: `The daemon compiles modules when their profiles load, some seconds for
go_busybox, and keeps the result. This does it before the daemon starts, as a
package does when it is installed. It runs kilntainersd warm, so run it as the
user that the daemon runs as.
`,
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&config, "config", "", "`FILE` of the configuration (default the daemon's)")
		},
		run: func(ctx context.Context, c *cli, args []string) error {
			cmd := exec.CommandContext(ctx, daemonProgram(), "warm", "--config", config)
			cmd.Stdout, cmd.Stderr = c.stdout, c.stderr
			err := cmd.Run()
			var failed *exec.ExitError
			if errors.As(err, &failed) {
				return exitError{status: failed.ExitCode()}
			}
			if err != nil {
				return fmt.Errorf("run the daemon's program: %w", err)
			}
			return nil
		},
	}
}

// daemonProgram is the kilntainersd beside this program, else the one in PATH.
func daemonProgram() string {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "kilntainersd")
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	return "kilntainersd"
}
