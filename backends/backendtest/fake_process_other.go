//go:build !linux

package backendtest

import (
	"errors"

	"github.com/kilntainers/kilntainers/backends"
)

type processMachine struct{ machine }

func newProcessMachine(*Fake, string, backends.Spec) (machine, error) {
	return nil, errors.New("the fake runs processes only on Linux; use InMemory")
}

func leftProcesses(string) []string { return nil }
