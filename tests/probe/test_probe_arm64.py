"""The arm64 probe, cross-built, on the arm64 runtime under emulation: does it start, and does it compute the same?

Times under emulation mean nothing and are not looked at.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_sysfs import phone
from probe_model import RUNTIME_VERSION, ProbeModel

from edgekit.analysis import sensors
from edgekit.deploy.probe_build import ensure_probe
from edgekit.deploy.runtime_library import ensure_runtime
from edgekit.deploy.toolchain import host_abi
from edgekit.errors import MissingToolError
from edgekit.schema.event import GoldenResult, Hello, TrialResult
from edgekit.schema.plan import Trial

ABI = "linux-arm64"
#: Where Debian's cross packages put the arm64 C library.
CROSS_LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")

#: The runtime reads its CPU's features from here, and an x86 host's file makes it crash.
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command that runs an arm64 program here; empty on an arm64 machine."""
    if host_abi() == ABI:
        return ()
    qemu = next((path for name in ("qemu-aarch64-static", "qemu-aarch64") if (path := shutil.which(name))), None)
    if qemu is None:
        pytest.skip("no qemu-aarch64: the arm64 probe is NOT tested (apt-get install qemu-user-static)")
    if not CROSS_LIBRARIES.is_dir():
        pytest.skip("no arm64 C library: the arm64 probe is NOT tested (apt-get install g++-aarch64-linux-gnu)")
    root = tmp_path_factory.mktemp("arm64")
    (root / "lib").symlink_to(CROSS_LIBRARIES)
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(CPUINFO)
    return (qemu, "-L", str(root))


@pytest.fixture(scope="module")
def arm64_probe() -> Path:
    try:
        return ensure_probe(ABI)
    except MissingToolError as error:
        pytest.skip(f"the arm64 probe is NOT tested: {error}")


def test_golden_and_trials_on_arm64(launch, model: ProbeModel, emulator, arm64_probe: Path, tmp_path: Path) -> None:
    library = ensure_runtime("onnxruntime", RUNTIME_VERSION, ABI)
    trials = [Trial(id=0, kind="prefill", tokens=16), Trial(id=1, kind="decode", tokens=4, depth=16)]
    plan = model.plan(library, trials, threads=2, sysfs=str(phone(tmp_path / "sys")), conditions_hz=50.0)
    outcome = launch(plan, binary=arm64_probe, prefix=emulator)
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.only(Hello).abi == ABI
    answer = outcome.only(GoldenResult)
    assert answer.tokens == model.golden.tokens
    np.testing.assert_allclose(answer.logits, model.golden.logits, atol=model.golden.tolerance)
    assert [len(event.token_ns) for event in outcome.all(TrialResult)] == [1, 4]
    found = {series.sensor.name: set(series.values) for series in sensors.series(outcome.stream, "temperature")}
    assert found["cpu-0-0-usr#0"] == {41.3}


def test_the_wrong_machines_library_is_refused(launch, model: ProbeModel, library: Path) -> None:
    other = "linux-arm64" if host_abi() == "linux-x86_64" else "linux-x86_64"
    wrong = ensure_runtime("onnxruntime", RUNTIME_VERSION, other)
    assert str(wrong) in launch(model.plan(wrong, [])).refused("runtime", 4)
