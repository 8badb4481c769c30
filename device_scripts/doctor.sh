# What works on a device for measuring. Run as `sh -c SCRIPT sh ROOT`; must work with toybox (Android), busybox and dash.
# Prints sections as facts.sh does. Leaves nothing: what it tries out, it tries in a folder that it removes.
root=$1
section() { echo "=edgekit= $1"; }
have() { command -v "$1" >/dev/null 2>&1; }
# A service that hangs must not hold us up.
limited() {
    have "$1" || return
    if have timeout; then timeout 5 "$@"; else "$@"; fi 2>/dev/null
}

section user
# Not id: a user without a name makes some of them fail.
while read -r key value rest; do [ "$key" = Uid: ] && echo "$value"; done </proc/self/status 2>/dev/null
section label
# The security context that the shell runs with; empty without SELinux.
tr -d '\000' </proc/self/attr/current 2>/dev/null
echo
section enforcing
limited getenforce
section tools
for tool in sha256sum stat ln find df ps taskset timeout settaskprofile perfetto simpleperf dumpsys getprop; do
    have "$tool" && echo "$tool"
done
section storage
try=$root/doctor.$$
# Of a folder that is there already: whose it is.
owner=$(stat -Lc %u "$root" 2>/dev/null) && echo "owner $owner"
if mkdir -p "$try" 2>/dev/null && { true >"$try/file"; } 2>/dev/null; then
    echo writable yes
    ln "$try/file" "$try/link" 2>/dev/null && echo links yes
    printf '#!/bin/sh\nexit 0\n' >"$try/run"
    chmod 755 "$try/run"
    "$try/run" 2>/dev/null && echo executable yes
fi
rm -rf "$try"
[ -n "$owner" ] || rmdir "$root" 2>/dev/null
section cpuset
cat /proc/self/cpuset 2>/dev/null
section cgroup
cat /proc/self/cgroup 2>/dev/null
section allowed
while read -r key value; do [ "$key" = Cpus_allowed_list: ] && echo "$value"; done </proc/self/status 2>/dev/null
section affinity
# Whether a program stays where it is put: each processor by itself.
if have taskset; then
    cpu=0
    while [ -d "/sys/devices/system/cpu/cpu$cpu" ] && [ "$cpu" -lt 64 ]; do
        mask=$(printf '%x' $((1 << cpu)))
        # busybox and toybox take a mask as all do; $$ would be this shell, not the one that is put there.
        echo "$cpu $(taskset "$mask" sh -c 'while read -r key value; do [ "$key" = Cpus_allowed_list: ] && echo "$value"; done </proc/self/status' 2>/dev/null)"
        cpu=$((cpu + 1))
    done
fi
section clocks
for policy in /sys/devices/system/cpu/cpufreq/policy*; do
    [ -d "$policy" ] || continue
    for name in related_cpus scaling_cur_freq scaling_max_freq cpuinfo_max_freq scaling_governor; do
        read -r value 2>/dev/null <"$policy/$name" && echo "${policy##*/} $name $value"
    done
done
section zones
for zone in /sys/class/thermal/thermal_zone*; do
    [ -d "$zone" ] || continue
    read -r type 2>/dev/null <"$zone/type" || type=unknown
    if read -r value 2>/dev/null <"$zone/temp"; then echo "$type $value"; else echo "$type unreadable"; fi
done
section supplies
for supply in /sys/class/power_supply/*; do
    [ -d "$supply" ] || continue
    for name in type status capacity current_now voltage_now; do
        read -r value 2>/dev/null <"$supply/$name" && echo "${supply##*/} $name $value"
    done
done
section memory
[ -r /proc/self/smaps_rollup ] && echo smaps_rollup
[ -r /proc/self/statm ] && echo statm
section power
# Awake or asleep, display on or off, saving or not.
limited dumpsys power | while IFS= read -r line; do
    case $line in *mWakefulness=* | *"Display Power: state="* | *mInteractive=* | *"mSettingBatterySaverEnabled="* | *"mLowPowerModeEnabled="*) echo "$line" ;; esac
done
section doze
for depth in light deep; do
    state=$(limited dumpsys deviceidle get "$depth")
    [ -n "$state" ] && echo "$depth $state"
done
section end
