#!/bin/sh
# Builds the agent for amd64 and arm64 into the directory that is the argument,
# or this one. Same compilers, same bytes: TestReproducible compares. Needs
# Debian 12 with the packages gcc, gcc-aarch64-linux-gnu and musl-dev of both:
#
#	dpkg --add-architecture arm64 && apt-get update
#	apt-get install gcc gcc-aarch64-linux-gnu musl-dev musl-dev:arm64
set -eu
out=$(cd "${1:-$(dirname "$0")}" && pwd)
cd "$(dirname "$0")"
build() { # GOARCH, and the machine as gcc and musl name it
	"$2-linux-gnu-gcc" -specs "${MUSL_ROOT:-}/usr/lib/$2-linux-musl/musl-gcc.specs" \
		-std=c11 -D_GNU_SOURCE -Os -Wall -Wextra -Wconversion -Wno-sign-conversion -Werror \
		-ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables \
		-static -no-pie -Wl,--gc-sections,--build-id=none,-z,noseparate-code -s \
		-o "$out/kilntainers-init-$1" ./*.c
}
build amd64 x86_64
build arm64 aarch64
