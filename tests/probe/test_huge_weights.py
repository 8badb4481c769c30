"""Weights that onnxruntime reads from a mapped file move into huge pages, and nothing else about a run changes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import numpy as np
import probe_model
import pytest
from control_groups import control_group
from probe_model import CONTEXT, ProbeModel

from edgekit.resources import device_scripts_dir
from edgekit.schema.event import Footprint, GoldenResult, Loaded
from edgekit.schema.plan import Trial

SIZES = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
TRIALS = [Trial(id=0, kind="prefill", tokens=CONTEXT), Trial(id=1, kind="decode", tokens=8)]
# Packed copies of the weights would be in huge pages anyway.
AS_IN_THE_FILE = {"session.disable_prepacking": "1", "session.enable_cpu_mem_arena": "0"}

LIMIT = 64 << 20
HEADROOM = r"""
#include <cstdio>
#include "headroom.h"
int main() { std::printf("%lld\n", static_cast<long long>(edgekit::memory_headroom())); }
"""


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> ProbeModel:
    """32 MB of weights that are read where the file is mapped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_model, "HIDDEN", 2048)
        patch.setattr(probe_model, "LAYERS", 2)
        return probe_model.make_model(tmp_path_factory.mktemp("mapped"))


@pytest.mark.skipif(not SIZES.exists(), reason="the kernel has no transparent huge pages")
def test_mapped_weights_move_and_change_nothing(launch, mapped: ProbeModel, library: Path) -> None:
    artefact = msgspec.structs.replace(mapped.artefact(library), session_config=AS_IN_THE_FILE)
    plan = mapped.plan(library, TRIALS, artefact=artefact, proportional_hz=1.0)
    moved, left = launch(plan), launch(msgspec.structs.replace(plan, huge_pages=False))
    bytes_moved = moved.only(Loaded).huge_bytes
    if not bytes_moved:
        pytest.skip("the kernel refuses to make huge pages here")
    assert not left.only(Loaded).huge_bytes
    weights = (mapped.path.parent / "model.onnx.data").stat().st_size
    assert bytes_moved > weights / 2
    np.testing.assert_array_equal(moved.only(GoldenResult).logits, left.only(GoldenResult).logits)
    # What was the file's is the process' own now, and is not there twice.
    ours, theirs = moved.all(Footprint)[-1], left.all(Footprint)[-1]
    assert ours.weights_file < theirs.weights_file - bytes_moved / 2
    assert ours.anon > theirs.anon + bytes_moved / 2
    assert ours.rss < theirs.rss + 8 * 2**20


def test_a_process_with_little_memory_keeps_its_files_mapped(tmp_path: Path) -> None:
    """What a control group leaves counts, not what the machine has."""
    sources = device_scripts_dir() / "probe" / "src"
    (tmp_path / "main.cpp").write_text(HEADROOM)
    binary = str(tmp_path / "headroom")
    files = [str(tmp_path / "main.cpp"), str(sources / "headroom.cpp")]
    subprocess.run(["g++", "-std=c++17", "-O1", f"-I{sources}", *files, "-o", binary], check=True, timeout=120)

    def headroom(*prefix: str) -> int:
        done = subprocess.run([*prefix, binary], check=True, timeout=60, capture_output=True, text=True)
        return int(done.stdout)

    assert headroom() > LIMIT
    files = ("memory.max", "memory.limit_in_bytes")
    with control_group("memory", dict.fromkeys(files, str(LIMIT)), files) as prefix:
        assert 0 < headroom(*prefix) < LIMIT
