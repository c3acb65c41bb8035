// Package agent runs commands in a sandbox over one byte stream, with a small
// program of ours, kilntainers-init, as PID 1 at the other end.
package agent
