"""Trees of files as kernels show their machines in /sys."""

from __future__ import annotations

from pathlib import Path


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def phone(root: Path) -> Path:
    """A phone with three clusters, on its charger, with one sensor that gives no number."""
    files = {}
    for policy, cpus, khz in ((0, "0 1 2 3\n", 1804800), (4, "4 5 6\n", 2419200), (7, "7\n", 2841600)):
        folder = f"devices/system/cpu/cpufreq/policy{policy}"
        files[f"{folder}/related_cpus"] = cpus
        files[f"{folder}/scaling_cur_freq"] = f"{khz - 300000}\n"
        files[f"{folder}/scaling_max_freq"] = f"{khz}\n"
    for zone, kind, value in (
        (0, "cpu-0-0-usr", "41300\n"),
        (2, "cpu-1-0-usr", "-274000\n"),
        (10, "battery", "31000\n"),
        (11, "broken", "n/a\n"),
    ):
        files[f"class/thermal/thermal_zone{zone}/type"] = kind + "\n"
        files[f"class/thermal/thermal_zone{zone}/temp"] = value
    battery = "class/power_supply/battery"
    files |= {
        f"{battery}/type": "Battery\n",
        f"{battery}/current_now": "-1250000\n",
        f"{battery}/voltage_now": "4012000\n",
        f"{battery}/temp": "305\n",
        "class/power_supply/usb/type": "USB\n",
        "class/power_supply/usb/online": "1\n",
        "class/power_supply/pen/type": "Battery\n",
        "class/power_supply/pen/scope": "Device\n",
        "class/power_supply/pen/voltage_now": "1\n",
    }
    return write_tree(root, files)


def laptop(root: Path) -> Path:
    """A PC: energy counters, the processor's own sensor, no battery."""
    return write_tree(
        root,
        {
            "devices/system/cpu/cpufreq/policy0/related_cpus": "0-1,4\n",
            "devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "3000000\n",
            "class/hwmon/hwmon0/name": "nvme\n",
            "class/hwmon/hwmon0/temp1_input": "30000\n",
            "class/hwmon/hwmon1/name": "k10temp\n",
            "class/hwmon/hwmon1/temp1_input": "52250\n",
            "class/hwmon/hwmon1/temp1_label": "Tctl\n",
            "class/powercap/intel-rapl:0/name": "package-0\n",
            "class/powercap/intel-rapl:0/energy_uj": "1000\n",
            "class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
            "class/powercap/intel-rapl:0:0/name": "core\n",
            "class/powercap/intel-rapl:0:0/energy_uj": "500\n",
            "class/powercap/intel-rapl/enabled": "1\n",
        },
    )
