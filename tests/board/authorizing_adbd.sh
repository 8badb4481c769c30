#!/bin/sh
# Builds an adbd that authorizes hosts, as a phone's does: Debian's own has that patched out.
# The sources are those of Debian 12's android-platform-tools, which has no makefile for its adbd; nothing of them is kept.
# Run as root on Debian 12; doing it again costs nothing. A minute, 76 MB. board.py finds it in the boards' cache.
# Usage: authorizing_adbd.sh
set -eu

version=29.0.6-28
here=$(cd "$(dirname "$0")" && pwd)
cache=${EDGEKIT_BOARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/edgekit/board}
built=$cache/authorizing-adbd

if [ "$(id -u)" != 0 ] || [ "$(. /etc/os-release && echo "$VERSION_CODENAME")" != bookworm ]; then
    echo "authorizing_adbd.sh: needs root on Debian 12 (bookworm)" >&2
    exit 1
fi
mkdir -p "$cache"
exec 9>"$built.lock"
flock 9
made_of=$(cat "$here/authorizing_adbd.sh" "$here/authorizing_adbd.cpp" | sha256sum)
if [ "$(cat "$built/.complete" 2>/dev/null)" = "$made_of" ]; then
    echo "authorizing adbd: $built"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends clang dpkg-dev libcap-dev \
    android-libboringssl-dev android-libbase android-libcutils android-liblog

# The sources come from where this machine's packages come from; its own lists stay as they are.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
    sed -n 's/ bookworm main$//p' | head -n 1)
mkdir -p "$work/lists/partial" "$work/objects"
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" >"$work/sources.list"
cd "$work"
for action in update "source android-platform-tools=$version"; do
    # shellcheck disable=SC2086  # an action and its arguments
    apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root \
        -o Dir::State::lists="$work/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= $action
done
cd android-platform-tools-*/

libraries=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)/android
flags="-O1 -fPIC -w -DNDEBUG -D_GNU_SOURCE -fno-exceptions -fno-strict-aliasing -I/usr/include/android"
# Not ALLOW_ADBD_NO_AUTH: authorization is always asked for, as on the phones that are sold.
flags="$flags -DADB_HOST=0 -DALLOW_ADBD_ROOT=0 -DADB_VERSION=\"$version\" -DPLATFORM_TOOLS_VERSION=\"29.0.6\""
flags="$flags -DANDROID_BASE_UNIQUE_FD_DISABLE_IMPLICIT_CONVERSION=1"
# libcutils first: Debian's stand-in for one of its headers in system/core/include lacks what adbd needs.
for directory in system/core/libcutils/include system/core/adb system/core/adb/daemon/include \
    system/core/adb/adbconnection/include system/core/base/include system/core/include \
    system/core/diagnose_usb/include system/core/libcrypto_utils/include system/core/liblog/include \
    system/core/libasyncio/include frameworks/native/libs/adbd_auth/include; do
    flags="$flags -I$directory"
done
compile() { # FILE; the sources include neither <atomic> nor <optional>, which they need
    case $1 in
    # shellcheck disable=SC2086  # a list of options
    *.c) clang $flags -c "$1" -o "$work/objects/$(echo "$1" | tr / _).o" ;;
    # shellcheck disable=SC2086
    *) clang++ -std=gnu++2a -include atomic -include optional $flags -c "$1" \
        -o "$work/objects/$(echo "$1" | tr / _).o" ;;
    esac
}
# As adb/Android.bp lists them for a Linux host.
for name in adb adb_io adb_listeners adb_trace adb_unique_fd adb_utils fdevent/fdevent fdevent/fdevent_poll \
    fdevent/fdevent_epoll services sockets socket_spec sysdeps/errno transport transport_fd transport_local \
    transport_usb types sysdeps_unix sysdeps/posix/network shell_service_protocol \
    adbconnection/adbconnection_server daemon/auth daemon/file_sync_service daemon/jdwp_service daemon/main \
    daemon/services daemon/shell_service daemon/usb_dummy; do
    compile system/core/adb/$name.cpp
done
compile frameworks/native/libs/adbd_auth/adbd_auth.cpp
compile system/core/diagnose_usb/diagnose_usb.cpp
compile system/core/libasyncio/AsyncIO.cpp
compile system/core/libcrypto_utils/android_pubkey.c
compile "$here/authorizing_adbd.cpp"

# Boards run another Debian: Android's libraries go along.
rm -rf "$built.tmp" "$built.old"
mkdir -p "$built.tmp"
for name in base cutils log crypto; do
    cp -L "$libraries/lib$name.so.0" "$built.tmp"
done
clang++ -o "$built.tmp/adbd" "$work"/objects/*.o -L"$libraries" -Wl,--disable-new-dtags,-rpath,'$ORIGIN' \
    -lbase -lcutils -llog -lcrypto -lcap -lresolv -lutil -lpthread
echo "$made_of" >"$built.tmp/.complete"
# Boards that run now keep what they have.
[ ! -e "$built" ] || mv "$built" "$built.old"
mv "$built.tmp" "$built"
echo "authorizing adbd: $built"
