# How a device feels now. Run as `sh -c SCRIPT`; must work with toybox (Android), busybox and dash.
# Prints sections as facts.sh does. One process per value would itself warm the device: shell builtins do the reading.
section() { echo "=edgekit= $1"; }
value() { [ -r "$2" ] && read -r line 2>/dev/null <"$2" && echo "$1 $line"; }
# A service that hangs must not hold us up.
service() {
    command -v dumpsys >/dev/null 2>&1 || return
    if command -v timeout >/dev/null 2>&1; then timeout 5 dumpsys "$1"; else dumpsys "$1"; fi 2>/dev/null
}

section loadavg
cat /proc/loadavg 2>/dev/null
section meminfo
head -n 5 /proc/meminfo 2>/dev/null
section policies
for policy in /sys/devices/system/cpu/cpufreq/policy*; do
    [ -d "$policy" ] || continue
    value "khz ${policy##*/}" "$policy/scaling_cur_freq"
    value "governor ${policy##*/}" "$policy/scaling_governor"
done
section thermal
for zone in /sys/class/thermal/thermal_zone*; do
    [ -r "$zone/temp" ] || continue
    read -r type 2>/dev/null <"$zone/type" || type=unknown
    read -r temp 2>/dev/null <"$zone/temp" && echo "${zone##*/thermal_zone} $temp $type"
done
section thermalservice
service thermalservice
section battery
service battery
section power_supply
for supply in /sys/class/power_supply/*; do
    [ -d "$supply" ] || continue
    read -r type 2>/dev/null <"$supply/type" || continue
    [ "$type" = Battery ] || continue
    value capacity "$supply/capacity"
    value status "$supply/status"
    break
done
section end
