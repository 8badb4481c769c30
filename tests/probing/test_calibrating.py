"""Calibration on this machine: the native program, the profile it becomes, and who finds it."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

import edgekit
from edgekit.analysis.calibration import profile_from
from edgekit.cli.main import cli
from edgekit.deploy.probe_build import ensure_calibration
from edgekit.deploy.toolchain import host_abi
from edgekit.device.local import LocalDevice
from edgekit.errors import InputError, ProbeError
from edgekit.probing.calibrating import calibrate_device, places
from edgekit.schema import codec
from edgekit.schema.calibration import Calibration, CalibrationHello, CalibrationSample
from edgekit.schema.device_profile import (
    DeviceProfile,
    device_identity,
    load_device_profile,
    measured_profiles,
    profile_of,
    value_paths,
)
from edgekit.schema.rates import Rates
from edgekit.schema.run import CpuCluster, DeviceFacts

#: Of Linux 6.1 and later.
MADV_COLLAPSE = 25
FEW = {"rounds": 2, "seconds": 1.0, "buffer_mib": 16}


@pytest.fixture(scope="module")
def program() -> Path:
    abi = host_abi()
    if abi is None:
        pytest.skip("the calibration program runs on Linux only")
    return ensure_calibration(abi)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def facts(**changes: object) -> DeviceFacts:
    found = DeviceFacts(
        name="adb:one",
        transport="adb",
        abi="android-arm64-v8a",
        os="Android 14",
        kernel=None,
        cpus=4,
        clusters=[
            CpuCluster(cpus=[0, 1], name="Cortex-A55", max_khz=1_800_000),
            CpuCluster(cpus=[2, 3], name="Cortex-A78", max_khz=2_400_000),
        ],
        cpu_model=None,
        memory_bytes=8 << 30,
        free_bytes=None,
        android={"model": "Some Phone", "soc_model": "SM8350"},
    )
    return msgspec.structs.replace(found, **changes)


def made(where: list[list[int]]) -> Calibration:
    """What a device would say whose figures are a formula."""
    units = {"bandwidth": 1e9, "fp32": 1e9, "int8": 1e9, "clock": 1e9, "launch": 1.0}
    return Calibration(
        hello=CalibrationHello(
            schema_version=1,
            version="0.1.0+x",
            fp32_kernel="neon",
            int8_kernel="dotprod",
            fp16=True,
            dotprod=True,
            i8mm=False,
            buffer_bytes=1 << 27,
            caches=[],
        ),
        samples=[
            CalibrationSample(what=what, cpus=cpus, round=number, value=10.0 * len(cpus) * unit, on_cpu=1.0)
            for number in range(7)
            for cpus in where
            for what, unit in units.items()
        ],
    )


def test_this_machine_is_measured_and_found_again(program: Path, data: Path) -> None:
    outcome = edgekit.calibrate(**FEW)
    assert outcome.path.parent == data / "devices"
    profile = load_device_profile(outcome.profile.name)
    assert profile == outcome.profile
    measured = profile.measured
    assert measured is not None
    assert len(measured.places[0].cpus) == 1
    for place in measured.places:
        for value in (place.bandwidth_gb_s, place.fp32_gop_s, place.int8_gop_s, place.clock_ghz, place.launch_us):
            assert value.median > 0
            assert value.low is None or value.low <= value.median <= value.high
    assert measured.buffer_bytes <= 16 << 20
    # A run on this machine finds it; one on another device does not.
    from edgekit.device import facts as asking

    here = asking.gather(LocalDevice())
    assert profile_of(here, measured_profiles()) == profile
    assert profile_of(msgspec.structs.replace(here, cpu_model="another"), measured_profiles()) is None
    # And so does an estimate, which no longer assumes the bandwidth.
    assert "memory.realistic_gb_s" not in profile.assumed
    found = edgekit.estimate("smollm2-135m", device=profile.name, threads=1)
    read = measured.place(1).bandwidth_gb_s.median
    term = next(term for term in found.figure("decode").terms if term.name == "cache")
    told = re.fullmatch(r"[\d.]+ GB at ([\d.]+) G/s", term.how)
    assert told is not None
    # Three digits are told; halfway between two of them, either is right.
    assert float(told[1]) == pytest.approx(read, rel=0.006)


def test_products_of_every_instruction_set_are_right(program: Path) -> None:
    """The program checks each product that the processor has before it measures, and says which it took."""
    done = subprocess.run(
        [program, "--places", "0", "--rounds", "1", "--seconds", "0.1", "--buffer", "1000000"],
        capture_output=True,
        check=True,
        timeout=120,
    )
    hello = msgspec.json.decode(done.stdout.splitlines()[0], type=CalibrationHello)
    flags = Path("/proc/cpuinfo").read_text()
    if host_abi() == "linux-x86_64" and " avx2 " in flags:
        assert hello.int8_kernel in ("avx2-maddubs", "avx-vnni", "avx512-vnni")
        assert ("avx512_vnni" in flags) == (hello.int8_kernel == "avx512-vnni")
        assert hello.fp32_kernel == ("avx512" if "avx512dq" in flags else "avx2-fma")


def test_memory_is_read_in_huge_pages_as_weights_are(program: Path) -> None:
    """With small pages a model in huge ones is faster than the memory that was measured."""
    sizes = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
    if not sizes.exists():
        pytest.skip("the kernel has no transparent huge pages")
    huge, asked = int(sizes.read_text()), 64 << 20
    with mmap.mmap(-1, 4 * huge, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as tried:
        tried.write(b"x" * len(tried))
        try:
            tried.madvise(MADV_COLLAPSE)
        except OSError as error:
            pytest.skip(f"the kernel makes no huge pages here: {error}")
    done = subprocess.run(
        [program, "--places", "0", "--rounds", "1", "--seconds", "0.1", "--buffer", str(asked)],
        capture_output=True,
        check=True,
        timeout=120,
    )
    hello = msgspec.json.decode(done.stdout.splitlines()[0], type=CalibrationHello)
    assert asked - 2 * huge <= hello.huge_bytes <= hello.buffer_bytes == asked


def test_a_cpu_that_is_not_there_is_an_error(program: Path) -> None:
    with pytest.raises(ProbeError) as caught:
        calibrate_device(LocalDevice(), [str(program)], [[len(os.sched_getaffinity(0)) + 500]], rounds=1, seconds=1)
    assert "restrict the probe to CPUs" in str(caught.value)
    assert "Next:" in str(caught.value)


@pytest.mark.parametrize("text", ["", "0,", "x", "0//1", "-1"])
def test_a_wrong_command_line_is_refused(program: Path, text: str) -> None:
    assert subprocess.run([program, "--places", text], capture_output=True, check=False).returncode == 2


def test_a_program_that_says_nonsense(tmp_path: Path) -> None:
    for text in ("no json", '{"event":"unknown"}', '{"event":"done","rounds":1}', ""):
        script = tmp_path / "liar"
        script.write_text(f"#!/bin/sh\necho '{text}'\n")
        script.chmod(0o755)
        with pytest.raises(ProbeError):
            calibrate_device(LocalDevice(), [str(script)], [[0]], rounds=1, seconds=1)


def test_places_begin_with_the_fastest_cluster() -> None:
    assert places(facts()) == [[2], [2, 3], [2, 3, 0, 1], [0], [0, 1]]
    assert places(facts(), [3]) == [[2, 3, 0]]
    one = facts(clusters=[], cpus=2)
    assert places(one) == [[0], [0, 1]]
    with pytest.raises(InputError):
        places(facts(), [5])


def test_a_measured_profile_overrides_the_chips_shipped_one(data: Path) -> None:
    """What was not measured stays as published; the name is the chip's."""
    shipped = load_device_profile("snapdragon-888")
    profile = profile_from(made(places(facts())), facts(), at="2026-01-05T10:00:00+00:00", known=shipped)
    assert profile.name == "snapdragon-888"
    path = data / "devices" / "snapdragon-888.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(codec.encode(profile))
    found = load_device_profile("snapdragon-888")
    assert found == profile
    assert found.memory.realistic_gb_s == 40.0
    assert found.memory.peak_gb_s == shipped.memory.peak_gb_s
    assert found.provenance["memory.kind"] == shipped.provenance["memory.kind"]
    assert "2026-01-05" in found.provenance["memory.realistic_gb_s"]
    # Clusters keep their own figures: int8 over two operations and the clock.
    assert [(cluster.core, cluster.count) for cluster in found.clusters] == [("Cortex-A78", 2), ("Cortex-A55", 2)]
    assert found.measured.place(1).cpus == [2]
    assert found.measured.place(4).cpus == [2, 3, 0, 1]
    assert found.measured.place(2, [0, 1]).cluster == "Cortex-A55"
    assert profile_of(facts(), measured_profiles()) == profile
    # The same chip in another device: published data, not this one's figures.
    other = profile_of(facts(name="adb:two"), measured_profiles())
    assert other is not None
    assert (other.name, other.measured) == ("snapdragon-888", None)


def test_what_no_calibration_measures_is_kept() -> None:
    """Limits and power are the chip's shipped ones, or what somebody wrote into the device's own profile."""
    shipped = load_device_profile("snapdragon-888")
    assert shipped.limits is not None
    first = profile_from(made(places(facts())), facts(), at="2026-01-05T10:00:00+00:00", known=shipped)
    assert first.limits == shipped.limits
    assert set(first.provenance) == set(value_paths(first))
    fitted = Rates(
        runtime="onnxruntime", threads=1, seconds={}, decode_spread=0.1, prefill_spread=0.1, models=3, tests=9
    )
    mine = msgspec.structs.replace(
        first, power_w=4.5, provenance=first.provenance | {"power_w": "my meter"}, fitted=[fitted]
    )
    again = profile_from(made(places(facts())), facts(), at="2026-02-05T10:00:00+00:00", known=shipped, before=mine)
    assert (again.power_w, again.provenance["power_w"], again.limits) == (4.5, "my meter", shipped.limits)
    assert again.fitted == [fitted]
    assert set(again.provenance) == set(value_paths(again))


def test_identity_tells_devices_apart() -> None:
    base = device_identity(facts())
    assert device_identity(facts(memory_bytes=(8 << 30) - (1 << 20))) == base
    changes = [{"name": "adb:two"}, {"cpus": 8}, {"memory_bytes": 4 << 30}, {"cpu_model": "x"}, {"abi": "linux-arm64"}]
    assert len({base, *(device_identity(facts(**change)) for change in changes)}) == len(changes) + 1


def test_disturbed_samples_are_left_out() -> None:
    calm = made([[0]])
    noise = [
        msgspec.structs.replace(sample, value=sample.value / 10, on_cpu=0.4)
        for sample in calm.samples
        for _ in range(2)
    ]
    both = msgspec.structs.replace(calm, samples=[*noise, *calm.samples])
    one = facts(clusters=[], cpus=1)
    profile = profile_from(both, one, at="2026-01-05T10:00:00+00:00")
    assert profile.measured.place(1).bandwidth_gb_s.median == 10.0
    assert profile.measured.disturbed == pytest.approx(2 / 3, abs=0.01)


def test_a_broken_profile_is_refused_and_hides_no_other(data: Path) -> None:
    folder = data / "devices"
    folder.mkdir(parents=True)
    good = profile_from(made([[0]]), facts(), at="2026-01-05T10:00:00+00:00", name="good")
    (folder / "good.json").write_bytes(codec.encode(good))
    (folder / "cut.json").write_bytes(codec.encode(good)[:200])
    raw = msgspec.json.decode(codec.encode(good))
    raw["measured"]["places"] = []
    (folder / "empty.json").write_bytes(msgspec.json.encode(raw))
    assert measured_profiles() == [good]
    for name in ("cut", "empty"):
        with pytest.raises(InputError):
            load_device_profile(name)


@pytest.mark.parametrize("options", [{"name": "../x"}, {"name": "A b"}, {"out": "profile.toml"}, {"threads": [4096]}])
def test_bad_options_write_nothing(options: dict[str, object], data: Path) -> None:
    with pytest.raises(InputError):
        edgekit.calibrate(**options)
    assert not data.exists()


def test_the_command_writes_the_file_it_was_given(program: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    command = [
        "calibrate",
        "-t",
        "1",
        "--rounds",
        "1",
        "--seconds",
        "0.2",
        "--buffer",
        "8",
        "--out",
        str(out),
        "-o",
        "json",
    ]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    [record] = msgspec.json.decode(done.stdout)
    profile = codec.read(out, DeviceProfile)
    assert record["bandwidth_gb_s"] == profile.measured.places[0].bandwidth_gb_s.median
    assert load_device_profile(str(out)) == profile
    assert not data.exists()
