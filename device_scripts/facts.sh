# What a device is. Run as `sh -c SCRIPT sh ROOT`; must work with toybox (Android), busybox and dash.
# Prints sections, each after a line "=edgekit= NAME"; what a device does not have is an empty section.
root=$1
section() { echo "=edgekit= $1"; }
have() { command -v "$1" >/dev/null 2>&1; }

section machine
uname -m
section kernel
uname -r
section system
uname -s
# The machine code that really runs this shell: bytes 18 and 19 of its executable. Under qemu-user that is the
# emulator's, while uname tells the emulated machine. Asked by another process ($$ is not od), since an emulator
# hides itself from a process that looks at itself.
section interpreter
od -An -tx1 -j18 -N2 "/proc/$$/exe" 2>/dev/null
section interpreter_path
readlink "/proc/$$/exe" 2>/dev/null
section cpuinfo
cat /proc/cpuinfo 2>/dev/null
section online
cat /sys/devices/system/cpu/online 2>/dev/null
section present
cat /sys/devices/system/cpu/present 2>/dev/null
section policies
for policy in /sys/devices/system/cpu/cpufreq/policy*; do
    [ -d "$policy" ] || continue
    echo "cpus $(cat "$policy/related_cpus" 2>/dev/null)"
    echo "max_khz $(cat "$policy/cpuinfo_max_freq" 2>/dev/null)"
done
section meminfo
head -n 5 /proc/meminfo 2>/dev/null
section board_model
# Raspberry Pi and the like; the text ends with a NUL.
tr -d '\000' 2>/dev/null </proc/device-tree/model
echo
section os_release
cat /etc/os-release 2>/dev/null
section getprop
have getprop && getprop 2>/dev/null
section disk
# The store may not exist yet: its nearest existing parent lies on the same file system.
place=$root
while [ ! -d "$place" ] && [ "$place" != / ]; do place=${place%/*}; [ -n "$place" ] || place=/; done
df -kP "$place" 2>/dev/null
section end
