//go:build !nomodal

package main

import "github.com/kilntainers/kilntainers/backends/modal"

// Modal's SDK is a fifth of the program, so it can be left out with -tags nomodal.
func init() { drivers = append(drivers, modal.Driver) }
