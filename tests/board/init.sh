#!/bin/sh
# First process of a board, in namespaces of its own (see board.py); when it ends, the board is gone.
# Usage: init.sh ROOT ADDRESS/PREFIX HOSTNAME STORAGE CPUINFO USER LOCAL ADBD KEYS
#   STORAGE   a directory to appear as /data/local/tmp, or tmpfs:BYTES
#   CPUINFO   a file to appear as /proc/cpuinfo, or -
#   USER      the numeric user that adbd and its shells run as: 0, or 2000 as on a phone
#   LOCAL     a directory to appear as /usr/local, whose programs come first; or -
#   ADBD      a directory with another adbd, or - for Debian's
#   KEYS      a directory to appear as /data/misc/adb, whose adb_keys names the hosts that may come in; or -
set -eu
root=$1 address=$2 name=$3 storage=$4 cpuinfo=$5 user=$6 local=$7 adbd=$8 keys=$9

echo "$name" >/proc/sys/kernel/hostname
# The root file system is shared by all boards of this machine: none may change it.
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount --bind /dev "$root/dev"
mount --bind /dev/pts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=700 tmpfs "$root/root"
if [ "$keys" != - ]; then
    mount -t tmpfs -o mode=755 tmpfs "$root/data"
    mkdir -p "$root/data/local/tmp" "$root/data/misc/adb"
    mount --bind "$keys" "$root/data/misc/adb"
fi
program=/usr/sbin/adbd
if [ "$adbd" != - ]; then
    program=/run/authorizing/adbd
    mkdir "$root/run/authorizing"
    mount --bind "$adbd" "$root/run/authorizing"
fi
case $storage in
tmpfs:*) mount -t tmpfs -o "size=${storage#tmpfs:},mode=771" tmpfs "$root/data/local/tmp" ;;
*) mount --bind "$storage" "$root/data/local/tmp" ;;
esac
chown "$user:$user" "$root/data/local/tmp"
[ "$local" = - ] || mount --bind "$local" "$root/usr/local"
[ "$cpuinfo" = - ] || mount --bind "$cpuinfo" "$root/proc/cpuinfo"

echo ready
read -r _ # the host has put eth0 into this namespace
ip link set lo up
ip address add "$address" dev eth0
ip link set eth0 up
echo up
# Not exec: as process 1 this shell also reaps what commands leave behind. A device ignores no signals, also where the tests
# run under nohup.
env -i --default-signal PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root SHELL=/bin/sh ADBD_PORT=5555 \
    chroot --userspec="$user:$user" "$root" "$program" &
wait
