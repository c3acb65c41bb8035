package modal

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func newSession(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// The kill, in any shell: it finds what left its parent, its session, or its
// environment, and those with strange names; and nothing else.
func TestKillScript(t *testing.T) {
	for _, sh := range shells(t) {
		t.Run(filepath.Base(sh[0]), func(t *testing.T) {
			mark, other := newWord(), newWord()
			dir := t.TempDir()
			const script = `cd "$0"
				sleep 300 &
				(sleep 300 &)
				setsid sleep 300 &
				(setsid sleep 300 &)
				env -i PATH="$PATH" sleep 300 &
				env -i PATH="$PATH" setsid sleep 300 &
				trap '' TERM INT
				printf '#!/bin/sh\nsleep 300; :' > ') Z 1 1 1'; chmod 755 ') Z 1 1 1'
				'./) Z 1 1 1' &
				ln -s ') Z 1 1 1' 'a) S 1
1 (b'
				'./a) S 1
1 (b' &
				echo ready; wait`
			begin := func(mark string) (*exec.Cmd, io.Reader) {
				cmd := process(t, []string{markName + "=" + mark}, "sh", "-c", script, dir)
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				out.Read(make([]byte, 6))
				return cmd, out
			}
			kill := func(mark string) {
				t.Helper()
				cmd := process(t, nil, append(sh, "-c", killScript, "sh", mark)...)
				if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
					t.Errorf("got %q, %v", out, err)
				}
			}
			victim, output := begin(mark)
			spared, outputOfSpared := begin(other)
			kill(mark)
			// All that it started held its stdout, so its end is theirs.
			ended := make(chan bool)
			go func() { io.Copy(io.Discard, output); victim.Wait(); close(ended) }()
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Error("something that the command started still lives")
			}
			if left := withMark(mark); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			if n := len(withMark(other)); n < 6 {
				t.Errorf("of another command only %d processes are left", n)
			}
			kill(other)
			io.Copy(io.Discard, outputOfSpared)
			spared.Wait()
			kill(newWord()) // which nothing has
		})
	}
}

// withMark lists the living processes with a mark.
func withMark(mark string) (found []string) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range environs {
		environ, _ := os.ReadFile(file)
		if bytes.Contains(environ, []byte(markName+"="+mark)) {
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
			found = append(found, strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}
