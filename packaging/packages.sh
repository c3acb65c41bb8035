#!/usr/bin/env bash
# packages.sh builds the packages into dist/, or $DIST:
#
#	kilntainers_VERSION-1_{amd64,arm64}.deb
#	kilntainers-VERSION-1.{x86_64,aarch64}.rpm
#	kilntainers-VERSION-1-{x86_64,aarch64}.pkg.tar.zst
#	SHA256SUMS
#
# They depend on the commit and on the version of Go alone: whoever builds them
# again gets the same bits. make packages gives it
#
#	DESCRIBED   what git describe says
#	ARCHES      for which machines, as Go names them
#	FORMATS     of which kinds, as nfpm names them
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(packaging/version.sh "$DESCRIBED")
mkdir -p dist/tools "${DIST:=dist}"
DIST=$(realpath "$DIST")
# A tarball has no commits, but files that are as old as theirs.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date -r CHANGELOG.md +%s)}
export SOURCE_DATE_EPOCH DIST
umask 022

rm -rf "$DIST"/{build,SHA256SUMS} "$DIST"/kilntainers[_-]*
mkdir "$DIST/build"
(cd packaging/tools && go build -trimpath -buildvcs=false -ldflags '-s -w' -o ../../dist/tools/ tool)

# sbom OUT PROGRAM lists what a program is linked with, in CycloneDX's words.
# All of it is in the module cache, for it has just been built from there.
sbom() {
	GOPROXY=off dist/tools/cyclonedx-gomod bin -json -noserial -notimestamp -std -licenses \
		-version "v$version" -output "$1" "$2" 2>"$DIST/build/sbom.log" || { cat "$DIST/build/sbom.log"; return 1; }
}

# Of go_busybox, which the daemon carries, a build for this machine tells.
(cd backends/wasm/guest && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$DIST/build/go_busybox" .)
sbom "$DIST"/build/go_busybox{.cdx.json,}

gzip -9nc CHANGELOG.md >"$DIST/build/changelog.gz"
gzip -9nc >"$DIST/build/changelog.Debian.gz" <<END
kilntainers ($version-1) unstable; urgency=medium

  * Version $version. What is new in it, changelog.gz says.

 -- The Kilntainers authors <kilntainers@users.noreply.github.com>  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
END

for arch in $ARCHES; do
	root=$DIST/build/$arch
	GOOS=linux GOARCH=$arch make --no-print-directory build install install-systemd \
		BIN="$root/bin" DOC="$DIST/build/doc" DESTDIR="$root" PREFIX=/usr VERSION="$DESCRIBED" >"$DIST/build/$arch.log" 2>&1 ||
		{ cat "$DIST/build/$arch.log"; exit 1; }
	mkdir -p "$root/usr/share/doc/kilntainers/sbom"
	for program in "$root"/usr/bin/*; do
		sbom "$root/usr/share/doc/kilntainers/sbom/${program##*/}.cdx.json" "$program"
	done
	cp "$DIST/build/go_busybox.cdx.json" "$root/usr/share/doc/kilntainers/sbom/"
	gzip -9n "$root"/usr/share/man/man*/*
	rm -r "$root/usr/share/zsh" # each distribution's zsh looks elsewhere; see nfpm.yaml
	chmod -R u=rwX,go=rX "$root/usr"
	for format in $FORMATS; do
		v=$version
		[ "$format" != archlinux ] || v=${version//\~/} # 1.3.0rc.1 comes before 1.3.0 there
		ARCH=$arch VERSION=$v dist/tools/nfpm package --config packaging/nfpm.yaml --packager "$format" --target "$DIST/" >/dev/null
	done
done
(cd "$DIST" && sha256sum kilntainers[_-]* | tee SHA256SUMS)
