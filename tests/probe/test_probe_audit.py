"""Nothing is allocated, mapped, opened or written by the probe inside a timed region.

The probe is built once more with every such call of its own code, C++ library included,
led through a counter. The runtime is another library and is not counted.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from fake_sysfs import phone
from probe_model import ProbeModel

from edgekit.deploy.probe_build import compile_arguments, probe_sources
from edgekit.deploy.toolchain import find_toolchain
from edgekit.schema.event import ConditionSamples, MemorySamples, ProportionalSamples
from edgekit.schema.plan import Trial

WRAPPED = ("malloc", "calloc", "realloc", "mmap", "write", "open")
BUILD_TIMEOUT_S = 300


def build(abi: str, target: Path, *, sources: list[Path]) -> Path:
    toolchain = find_toolchain(abi, environ={"EDGEKIT_TOOLCHAIN": "gcc"})
    command = [
        *compile_arguments(toolchain, [*sources, Path(__file__).with_name("audit.cpp")], "audit"),
        "-DEDGEKIT_AUDIT",
        # What allocates does so at any level, and this one compiles fast.
        "-O0",
        *(f"-Wl,--wrap={name}" for name in WRAPPED),
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True, timeout=BUILD_TIMEOUT_S)
    return target


@pytest.fixture(scope="module")
def audited(abi: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(abi, tmp_path_factory.mktemp("audit") / "probe", sources=probe_sources())


def counts(stderr: str) -> list[tuple[int, int]]:
    return [(int(i), int(o)) for i, o in re.findall(r"audit trial=\d+ inside=(\d+) outside=(\d+)", stderr)]


def test_timed_regions_are_clean(launch, model: ProbeModel, library: Path, audited: Path, tmp_path: Path) -> None:
    trials = [
        Trial(id=0, kind="prefill", tokens=32),
        Trial(id=1, kind="decode", tokens=40),
        Trial(id=2, kind="prefill", tokens=16, depth=40),
        Trial(id=3, kind="decode", tokens=8, depth=30),
    ]
    rates = dict.fromkeys(("memory_hz", "proportional_hz", "conditions_hz", "power_hz"), 1000.0)
    tree = str(phone(tmp_path / "sys"))
    outcome = launch(model.plan(library, trials, threads=2, sysfs=tree, **rates), binary=audited)
    assert outcome.exit_code == 0
    found = counts(outcome.stderr)
    assert [inside for inside, _ in found] == [0, 0, 0, 0]
    # The counter works: events are written and tensors are made between trials.
    assert all(outside > 0 for _, outside in found)
    # And all samplers were at work.
    for kind in (MemorySamples, ProportionalSamples):
        assert outcome.all(kind)
    assert {event.first for event in outcome.all(ConditionSamples)} == {0, 10}


def test_the_audit_notices(launch, model: ProbeModel, library: Path, abi: str, tmp_path: Path) -> None:
    """A copy of the trial loop that keeps something for each token is caught."""
    changed = []
    for source in probe_sources():
        text = source.read_text()
        if source.name == "trials.cpp":
            clean = "    engine_.step(tokens[i]);\n"
            assert clean in text
            text = text.replace(clean, clean + "    times_.use.cpus.reserve(times_.use.cpus.capacity() + 1);\n")
        (tmp_path / source.name).write_text(text)
        changed.append(tmp_path / source.name)
    faulty = build(abi, tmp_path / "probe", sources=changed)
    outcome = launch(model.plan(library, [Trial(id=0, kind="decode", tokens=40)]), binary=faulty)
    assert counts(outcome.stderr)[0][0] >= 40
