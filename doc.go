// Package kilntainers is the root of the module, and empty: the programs are
// in cmd, and what they are made of is in the folders beside it.
//
//	cmd → daemon → profiles → backends ← backends/X
//
// Its test holds the rules of the repository, this one among them.
package kilntainers
