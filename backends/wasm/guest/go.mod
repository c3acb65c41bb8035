module github.com/kilntainers/kilntainers/backends/wasm/guest

go 1.26.0

require (
	github.com/benhoyt/goawk v1.29.1
	github.com/dsnet/compress v0.0.1
	github.com/itchyny/gojq v0.12.20
	github.com/klauspost/compress v1.20.3
	github.com/ulikunitz/xz v0.5.17
	mvdan.cc/sh/v3 v3.14.1
)

require github.com/itchyny/timefmt-go v0.1.9 // indirect
