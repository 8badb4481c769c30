"""Readers of device output: right on recordings of real phones, harmless on anything."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.device import conditions, facts, parsing
from edgekit.device.adb_server import parse_devices
from edgekit.errors import UnsupportedError
from edgekit.schema.run import CpuCluster

RECORDINGS = Path(__file__).resolve().parent.parent / "data" / "android"

#: Six Cortex-A55 and two Cortex-A76, as the kernel of a phone or board lists them.
BIG_LITTLE = "".join(
    f"processor\t: {cpu}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
    for cpu, part in enumerate(["0xd05"] * 6 + ["0xd0b"] * 2)
)


def recording(name: str) -> str:
    return (RECORDINGS / f"{name}.txt").read_text()


def told(**sections: str) -> str:
    """Output of a device script."""
    return "".join(f"=edgekit= {name}\n{text}\n" for name, text in sections.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("getprop_oneplus12_android15", {"model": "PJD110", "soc_model": "SM8650", "release": "15", "sdk": "35"}),
        ("getprop_realme_gt_neo3_mtk_android12", {"model": "RMX3560", "soc_manufacturer": "Mediatek", "release": "12"}),
        ("getprop_moto_edge_s30_sd888plus_android12", {"manufacturer": "motorola", "sdk": "31"}),
        (
            "getprop_moto_g84_lineage_android16",
            {"model": "moto g84 5G", "release": "16", "sdk": "36", "soc_manufacturer": "QTI"},
        ),
        ("getprop_realme_note50_partial", {"model": "realme Note 50", "soc_model": "T612", "low_ram": "true"}),
    ],
)
def test_recorded_phones(name: str, expected: dict[str, str]) -> None:
    found = facts.parse(told(machine="aarch64", system="Linux", getprop=recording(name)), "adb:x", "adb")
    assert found.abi == "android-arm64-v8a"
    assert found.os == f"Android {found.android['release']} (API {found.android['sdk']})"
    assert expected.items() <= found.android.items()
    assert found.fidelity == "real"
    assert not any("serial" in key for key in found.android)


def test_clusters_follow_frequency_policies() -> None:
    policies = "cpus 0 1 2 3 4 5\nmax_khz 1800000\ncpus 6 7\nmax_khz 2400000\n"
    text = told(machine="aarch64", system="Linux", cpuinfo=BIG_LITTLE, policies=policies, online="0-7")
    found = facts.parse(text, "adb:x", "adb")
    assert found.cpus == 8
    assert found.clusters == [
        CpuCluster(cpus=[0, 1, 2, 3, 4, 5], name="Cortex-A55", max_khz=1800000),
        CpuCluster(cpus=[6, 7], name="Cortex-A76", max_khz=2400000),
    ]
    assert found.cpu_model == "6x Cortex-A55 + 2x Cortex-A76"


def test_equal_policies_are_one_cluster_and_missing_ones_follow_the_cores() -> None:
    one_each = "".join(f"cpus {cpu}\nmax_khz 1000\n" for cpu in range(8))
    text = told(machine="aarch64", system="Linux", cpuinfo=BIG_LITTLE, policies=one_each)
    assert [cluster.cpus for cluster in facts.parse(text, "x", "adb").clusters] == [[0, 1, 2, 3, 4, 5], [6, 7]]
    text = told(machine="aarch64", system="Linux", cpuinfo=BIG_LITTLE)
    assert [cluster.name for cluster in facts.parse(text, "x", "adb").clusters] == ["Cortex-A55", "Cortex-A76"]


def test_recorded_cpuinfo() -> None:
    blocks = parsing.cpuinfo(recording("cpuinfo_snapdragon888plus_moto_g200_cpu0"))
    assert facts.clusters_of(blocks, "") == [CpuCluster(cpus=[0], name="Cortex-A55")]


@pytest.mark.parametrize(
    ("machine", "interpreter", "path", "cpuinfo", "properties", "fidelity"),
    [
        ("aarch64", " b7 00", "/usr/bin/dash", BIG_LITTLE, "", "real"),
        ("x86_64", " 3e 00", "/usr/bin/dash", "", "", "real"),
        ("aarch64", " 3e 00", "/usr/bin/qemu-aarch64-static", BIG_LITTLE, "", "emulated"),
        ("aarch64", "", "/usr/bin/qemu-aarch64", BIG_LITTLE, "", "emulated"),
        ("aarch64", "", "", "processor: 0\nvendor_id: AuthenticAMD\nflags: sse2\n", "", "emulated"),
        ("x86_64", " b7 00", "/usr/bin/FEXInterpreter", "", "", "emulated"),
        ("aarch64", " b7 00", "/system/bin/sh", "", "[edgekit.simulated]: [oneplus12]", "simulated"),
    ],
)
def test_fidelity(machine: str, interpreter: str, path: str, cpuinfo: str, properties: str, fidelity: str) -> None:
    text = told(
        machine=machine,
        system="Linux",
        interpreter=interpreter,
        interpreter_path=path,
        cpuinfo=cpuinfo,
        getprop=properties,
    )
    found = facts.parse(text, "adb:x", "adb")
    assert found.fidelity == fidelity
    assert (found.fidelity_reason is None) == (fidelity == "real")


@pytest.mark.parametrize(
    "sections",
    [
        {"machine": "riscv64", "system": "Linux"},
        {"machine": "arm64", "system": "Darwin"},
        {"machine": "", "system": ""},
        {"machine": "aarch64", "system": "Linux", "interpreter": " 28 00"},
        {"machine": "x86_64", "system": "Linux", "interpreter": " 03 00"},
        {"machine": "aarch64", "getprop": "[ro.build.version.sdk]: [30]\n[ro.product.cpu.abi]: [armeabi-v7a]"},
    ],
)
def test_systems_without_a_probe_are_refused_by_name(sections: dict[str, str]) -> None:
    with pytest.raises(UnsupportedError) as caught:
        facts.parse(told(**sections), "adb:x", "adb")
    assert caught.value.device == "adb:x"
    assert "linux-arm64" in (caught.value.hint or "")


def test_recorded_battery_and_temperatures() -> None:
    found = conditions.parse(
        told(
            battery=recording("dumpsys_battery_samsung"),
            thermalservice=recording("dumpsys_thermalservice_samsung_a52_5g_android12"),
            loadavg="1.25 0.80 0.60 2/1017 12345",
            meminfo="MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n",
            policies="khz policy0 1804800\ngovernor policy0 schedutil\nkhz policy4\ngovernor",
        ),
        "2026-01-01T00:00:00+00:00",
    )
    assert found.battery_percent == 84
    assert found.charging is True
    assert found.plugged is True
    assert found.thermal_status == 0
    assert found.load_1m == 1.25
    assert found.memory_available_bytes == 4000000 * 1024
    assert found.frequency_khz == {"policy0": 1804800}
    assert found.governor == {"policy0": "schedutil"}
    # Sensors that report exactly 0 are absent ones; the battery service counts in tenths of a degree.
    assert found.temperature_c == {
        "AP": 25.6, "BAT": 23.8, "LRB": 24.7, "LRF": 24.7, "LRP": 24.7, "PA": 25.7, "battery": 32.6,
    }  # fmt: skip


def test_cached_temperatures_are_not_current() -> None:
    text = "Cached temperatures:\n\tTemperature{mValue=99.0, mType=0, mName=AP, mStatus=0}\nHAL Ready: false\n"
    assert conditions.parse(told(thermalservice=text), "now").temperature_c == {}


def test_a_battery_that_is_not_there_and_a_charger_that_is_not_told() -> None:
    text = recording("dumpsys_battery_samsung").replace("present: true", "present: false")
    assert conditions.parse(told(battery=text), "now").battery_percent is None
    silent = "\n".join(line for line in text.splitlines() if "powered" not in line and "status" not in line)
    found = conditions.parse(told(battery=silent), "now")
    assert (found.plugged, found.charging) == (None, None)
    hot = recording("dumpsys_thermalservice_samsung_a52_5g_android12").replace("Thermal Status: 0", "Thermal Status: 3")
    assert conditions.parse(told(thermalservice=hot), "now").thermal_status == 3


def test_kernel_zones_and_power_supply() -> None:
    zones = "0 45123 cpu-thermal\n1 47000 cpu-thermal\n2 38 soc\n3 0 absent\n4 -274000 broken\n5 326 odd\n6 x y"
    found = conditions.parse(told(thermal=zones, power_supply="capacity 77\nstatus Discharging"), "now")
    assert found.temperature_c == {"cpu-thermal": 45.123, "cpu-thermal #1": 47.0, "soc": 38.0}
    assert (found.battery_percent, found.charging) == (77, False)


def test_what_a_device_does_not_tell_stays_unknown() -> None:
    found = conditions.parse("", "now")
    assert found == msgspec.convert({"at": "now"}, type(found))
    told_nothing = facts.parse(told(machine="x86_64", system="Linux"), "local", "local")
    assert (told_nothing.memory_bytes, told_nothing.free_bytes, told_nothing.cpu_model) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-3,7", [0, 1, 2, 3, 7]),
        ("0 1 2 3", [0, 1, 2, 3]),
        ("", []),
        ("3-1", []),
        ("9999", []),
        ("0-99999999999", []),
        ("a,1", [1]),
    ],
)
def test_cpu_lists(text: str, expected: list[int]) -> None:
    assert parsing.cpu_list(text) == expected


@pytest.mark.parametrize(
    "line",
    [
        "/dev/vda  264212084 29955380 76435532      29% /data/local/tmp",
        "/dev/block/dm-48 264212084 29955380 76435532  29% /data",
        "tmpfs 264212084 29955380 76435532 29% /mnt/with spaces",
        "overlay 264212084 29955380 76435532 - /x",
    ],
)
def test_free_space(line: str) -> None:
    assert parsing.free_bytes(f"Filesystem 1024-blocks Used Available Capacity Mounted on\n{line}\n") == 76435532 * 1024


def test_device_lists() -> None:
    listed = parse_devices(
        "10.0.0.2:5555          device product:x model:Pixel_7 device:panther transport_id:1\n"
        "R58M12345A             unauthorized usb:1-4 transport_id:2\n"
        "0123456789ABCDEF       no permissions (user in plugdev group; are your udev rules wrong?) usb:1-3\n"
        "\nnonsense\n"
    )
    assert [(one.serial, one.state) for one in listed] == [
        ("10.0.0.2:5555", "device"),
        ("R58M12345A", "unauthorized"),
        ("0123456789ABCDEF", "no permissions"),
    ]
    assert listed[0].tags["model"] == "Pixel_7"


#: Text that comes near the real thing: real lines, cut, doubled and mixed with anything.
_lines = [line for path in RECORDINGS.glob("*.txt") for line in path.read_text().splitlines()[:60]] + [
    f"=edgekit= {name}" for name in ("machine", "cpuinfo", "getprop", "policies", "battery", "thermal", "disk")
]
nearly = st.lists(st.sampled_from(_lines) | st.text(max_size=40), max_size=40).map("\n".join)


@settings(max_examples=300, deadline=None)
@given(nearly | st.text() | st.binary().map(lambda data: data.decode("utf-8", "replace")))
@example("=edgekit= machine\nx86_64\n=edgekit= online\n0-4095,0-4095\n=edgekit= policies\ncpus 0-4095\nmax_khz 9\n")
def test_nothing_a_device_prints_breaks_a_reader(text: str) -> None:
    for machine in ("", told(machine="x86_64", system="Linux")):
        try:
            found = facts.parse(machine + text, "adb:x", "adb")
        except UnsupportedError:
            continue
        # What goes into a run must come back from JSON as it is.
        assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
        assert found.cpus >= 1
        assert not any(ord(letter) < 32 for letter in found.os + (found.cpu_model or ""))
    felt = conditions.parse(text, "now")
    assert msgspec.json.decode(msgspec.json.encode(felt), type=type(felt)) == felt
    parse_devices(text)
