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
section stat
# Time that all CPUs together have spent busy and idle since boot.
[ -r /proc/stat ] && { read -r line </proc/stat && echo "$line"; } 2>/dev/null
section meminfo
head -n 5 /proc/meminfo 2>/dev/null
section policies
for policy in /sys/devices/system/cpu/cpufreq/policy*; do
    [ -d "$policy" ] || continue
    value "khz ${policy##*/}" "$policy/scaling_cur_freq"
    # Lowered by the kernel when the device is too hot.
    value "limit ${policy##*/}" "$policy/scaling_max_freq"
    value "governor ${policy##*/}" "$policy/scaling_governor"
done
section thermal
for zone in /sys/class/thermal/thermal_zone*; do
    [ -r "$zone/temp" ] || continue
    read -r type 2>/dev/null <"$zone/type" || type=unknown
    read -r temp 2>/dev/null <"$zone/temp" && echo "${zone##*/thermal_zone} $temp $type"
done
# On a PC the cores' own sensors are often found only here; the other chips are disks and fans.
for chip in /sys/class/hwmon/hwmon*; do
    read -r type 2>/dev/null <"$chip/name" || continue
    case $type in coretemp | k10temp | zenpower) ;; *) continue ;; esac
    for file in "$chip"/temp*_input; do
        label=${file##*/}
        label=${label%_input}
        read -r text 2>/dev/null <"$chip/${label}_label" && label=$text
        read -r temp 2>/dev/null <"$file" && echo "${chip##*/hwmon} $temp $type $label"
    done
done
section thermalservice
service thermalservice
section battery
service battery
section power_supply
for supply in /sys/class/power_supply/*; do
    [ -d "$supply" ] || continue
    read -r type 2>/dev/null <"$supply/type" || continue
    # Of a pen or a mouse, not of this device.
    read -r scope 2>/dev/null <"$supply/scope" && [ "$scope" = Device ] && continue
    if [ "$type" = Battery ]; then
        value capacity "$supply/capacity"
        value status "$supply/status"
    else
        value online "$supply/online"
    fi
done
section end
