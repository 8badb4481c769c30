#!/bin/sh
# Leaves nothing on a board but busybox: no C library, no loader, no program that needs them. Runs in its namespaces.
# What runs already (adbd) goes on.
# Usage: hide_c_library.sh ROOT [GETPROP]
#   GETPROP   recorded properties of a phone, for the board to tell as its own
set -eu
root=$1
bare=$root/tmp/bare
mkdir "$bare"
cp "$root/usr/bin/busybox" "$bare"
for tool in $(chroot "$root" /bin/busybox --list); do
    [ "$tool" = busybox ] || ln -s busybox "$bare/$tool"
done
if [ -n "${2-}" ]; then
    {
        echo "#!/bin/sh"
        echo "cat <<'END'"
        cat "$2"
        echo END
    } >"$bare/getprop"
    chmod +x "$bare/getprop"
fi
for folder in usr/lib usr/lib64 usr/sbin; do
    [ ! -d "$root/$folder" ] || mount -t tmpfs tmpfs "$root/$folder"
done
mount --bind "$bare" "$root/usr/bin"
