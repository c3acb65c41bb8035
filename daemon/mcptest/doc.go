// Package mcptest drives the daemon with other people's MCP clients and test
// tools, over every transport and in both eras of the protocol. It has tests
// only; nothing of it is shipped.
//
//	                               ┌─ HTTP ─┐
//	conformance suite ─────────────┤        ├── daemon ── sandboxes that only pretend
//	Inspector CLI      ┐           │        │
//	TypeScript SDK 1, 2├───────────┴─ shim ─┘
//	Go SDK             ┘
//
//	conformance suite ── HTTP ── daemon.MCPHandler ── a server with all that the suite calls
//
// The tools that run on Node come from node/package-lock.json. `make test`
// installs them once into the user's cache folder; without them their tests
// are skipped, or fail when KILNTAINERS_TEST_REQUIRE names node.
package mcptest
