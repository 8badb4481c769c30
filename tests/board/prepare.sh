#!/bin/sh
# Makes this machine ready for tests/board: packages, emulation of arm64, and the root file systems of the boards.
# Run as root; doing it again costs nothing. The boards' file systems lie in $EDGEKIT_BOARD_CACHE
# (default: ~/.cache/edgekit/board); each remembers what it was made of, so a change here makes it anew.
# Usage: prepare.sh [amd64] [arm64]      (default: both)
set -eu

release=trixie            # the first Debian with a real adbd
cache=${EDGEKIT_BOARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/edgekit/board}

if [ "$(id -u)" != 0 ]; then
    echo "prepare.sh: needs root (packages, binfmt_misc, mmdebstrap)" >&2
    exit 1
fi

missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need adb adb
need mmdebstrap mmdebstrap
need arch-test arch-test
need qemu-aarch64-static qemu-user-static
need update-binfmts binfmt-support
need ip iproute2
if [ -n "$missing" ]; then
    apt-get update -q
    # shellcheck disable=SC2086  # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
fi

mkdir -p "$cache"
[ $# -gt 0 ] || set -- amd64 arm64

# The root file system of an architecture, made where it is missing or was made of something else.
make_root() {
    arch=$1
    # Busybox is all that is left on a board whose C library is hidden.
    packages=adbd,procps,busybox-static
    # Android's shell and tools: our scripts must run with each. One architecture is enough.
    [ "$arch" = arm64 ] || packages=$packages,mksh,toybox
    root=$cache/$release-$arch
    # One build at a time, also between several test runs.
    (
        flock 9
        if [ "$(cat "$root/.complete" 2>/dev/null)" != "$packages" ]; then
            rm -rf "$root.tmp" "$root.old"
            mmdebstrap --quiet --arch="$arch" --variant=minbase --include="$packages" "$release" "$root.tmp"
            # Where a board's storage and an emulated board's processor description are mounted.
            mkdir -p "$root.tmp/data/local/tmp"
            echo "$packages" >"$root.tmp/.complete"
            # Boards that run now keep what they have.
            [ ! -e "$root" ] || mv "$root" "$root.old"
            mv "$root.tmp" "$root"
        fi
    ) 9>"$cache/$release-$arch.lock"
    echo "board $arch: $root"
}

makers=
for arch; do
    if [ "$arch" = arm64 ] && [ "$(uname -m)" != aarch64 ]; then
        [ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
        [ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || update-binfmts --enable qemu-aarch64
    fi
    # Side by side: each unpacks on one core.
    make_root "$arch" &
    makers="$makers $!"
done
for maker in $makers; do
    wait "$maker"
done
