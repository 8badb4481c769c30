"""A decode that memory really bounds, on this machine: calibrated, exported, measured, and named."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

import edgekit
from edgekit.analysis.comparison import Row
from edgekit.analysis.roofline import NEAR_THE_ROOF
from edgekit.deploy.toolchain import host_abi
from edgekit.reporting.remarks import notes
from edgekit.schema.device_profile import Interval

MIB = 1 << 20
#: A layer of this width has 64 Mi parameters, 256 MiB in float32: next to them nothing else takes time.
_WIDE = "arch:smollm2-135m:hidden=2048:heads=16:kv_heads=16:head_dim=128:ffn=8192:vocab=4096:context=256"
LAYER_BYTES = 256 * MIB
#: What an export of floats takes at its peak, in sizes of the model, rounded up.
EXPORT_COPIES = 4
#: Two calibrations further apart than this saw different memories.
STEADY = 0.15


def calibrated() -> tuple[Interval, int]:
    """What one thread reads a second now, and the last-level cache."""
    measured = edgekit.calibrate(threads=[1], seconds=10).profile.measured
    assert measured is not None
    return measured.places[0].bandwidth_gb_s, max((cache.bytes for cache in measured.caches), default=0)


@pytest.mark.slow
def test_a_decode_that_memory_bounds_is_called_so_and_a_prefill_that_arithmetic_bounds_is_not(
    tmp_path: Path, export_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow, and to be run alone: the weights are more than twice the last-level cache, and both the calibration and the
    run measure a memory that other programs and, on a virtual machine, its neighbours use as well. A run that is off
    the roof shows nothing where the memory did not stay the same meanwhile, which a second calibration tells.
    """
    if host_abi() is None:
        pytest.skip("the probe runs on Linux only")
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path / "data"))
    _, cache = calibrated()
    layers = max(2, -(-2 * cache // LAYER_BYTES))
    if psutil.virtual_memory().available < EXPORT_COPIES * layers * LAYER_BYTES:
        pytest.skip(
            f"no memory to export {layers * LAYER_BYTES / MIB:.0f} MiB: a cache of {cache / MIB:.0f} is NOT tested"
        )
    source = f"{_WIDE}:layers={layers}"
    [made] = edgekit.export(source, recipes=["fp32"], context=256, out=tmp_path / "bundles", allow_unfaithful=True)
    assert made.directory is not None
    before, _ = calibrated()
    few = {"prompts": [192], "generates": [16], "repetitions": 5, "threads": [1]}
    runs = edgekit.probe([made.directory], out=tmp_path / "runs", allow_unfaithful=True, **few)
    found = edgekit.compare(runs)
    after, _ = calibrated()
    decode, prefill = (next(row for row in found.rows if row.kind == kind) for kind in ("decode", "prefill"))
    line = decode.roofline
    assert line is not None
    off = line.exceeded or line.share.median < NEAR_THE_ROOF
    if off and abs(after.median / before.median - 1) > STEADY:
        pytest.skip(f"memory gave {before.median:.1f} GB/s before and {after.median:.1f} after: NOT shown")

    assert line.measured
    assert line.bound == "bandwidth"
    assert not line.exceeded, (line.share, before, after)
    told = f"{line.share.median:.0%} of what {line.bandwidth_gb_s.median:.3g} GB/s allow"
    [cause] = [cause for cause in decode.causes if cause.kind == "memory bound"]
    assert cause.evidence[0].startswith(told)
    assert any(told in note for note in notes(found))
    assert prefill.roofline is not None
    assert prefill.roofline.bound == "compute"
    assert "memory bound" not in kinds(prefill)


def kinds(row: Row) -> list[str]:
    """The causes found for a test."""
    return [cause.kind for cause in row.causes]
