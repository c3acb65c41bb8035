#!/bin/sh
# version.sh DESCRIBED turns what git describe says into a version that
# packages of every kind take, and that grows with every commit:
#
#	v1.2.3               1.2.3
#	v1.2.3-5-gabc1234    1.2.3+5.gabc1234
#	v1.3.0-rc.1          1.3.0~rc.1             which comes before 1.3.0
#	abc1234 (no tag yet) 0.0.0+541.gabc1234     541 commits
#	…-dirty              ….dirty
set -eu
# A tarball without git has no commits to count.
echo "$1" | grep -Eq '^[0-9a-f]{7,40}(-dirty)?$' && set -- "v0.0.0-$(git rev-list --count HEAD 2>/dev/null || echo 0)-g$1"
case "$1" in
v[0-9]* | [0-9]*.*) ;;
*) set -- "v0.0.0-0-g$1" ;;
esac
echo "$1" | sed -E 's/^v//; s/-dirty$/.dirty/; s/-([0-9]+)-g([0-9A-Za-z]+)/+\1.g\2/; s/^([^+]*)\.dirty$/\1+dirty/; s/-/~/'
