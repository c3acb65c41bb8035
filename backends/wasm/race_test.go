//go:build race

package wasm

// raced: reading a module of twenty megabytes takes minutes with the race
// detector, so TestRealModules runs itself without it.
const raced = true
