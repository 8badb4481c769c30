"""The roofline of runs whose device is a formula, and causes that stand in the graph."""

from __future__ import annotations

from pathlib import Path

import data_runs
import msgspec
import pytest

from edgekit.analysis.compare import compare
from edgekit.analysis.graph_causes import found_in
from edgekit.analysis.load import load_run
from edgekit.analysis.roofline import bytes_read
from edgekit.reporting.remarks import roofline_notes
from edgekit.schema.bundle import AuditedOperator
from edgekit.schema.calibration import Cache
from edgekit.schema.device_profile import Interval, Measured, MeasuredPlace, device_identity, load_device_profile


def test_the_share_is_of_what_was_measured_on_the_device(tmp_path: Path) -> None:
    facts = data_runs.device()
    runs = [load_run(path) for path in data_runs.Session(tmp_path, threads=(1,)).write()]
    assert all(row.roofline is None for row in compare(runs, profiles=[]).rows)
    ten = Interval(median=10.0, low=9.0, high=11.0)
    place = MeasuredPlace(
        cpus=[0], cluster=None, bandwidth_gb_s=ten, fp32_gop_s=ten, int8_gop_s=ten, clock_ghz=ten, launch_us=ten
    )
    measured = Measured(
        identity=device_identity(facts),
        device=facts.name,
        at="2026-01-05T10:00:00Z",
        probe_version="0",
        fp32_kernel="neon",
        int8_kernel="neon",
        buffer_bytes=1,
        caches=[],
        places=[place],
        disturbed=0.0,
        fidelity="real",
    )
    profile = msgspec.structs.replace(load_device_profile("raspberry-pi-5"), measured=measured)
    rows = [row for row in compare(runs, profiles=[profile]).rows if row.kind == "decode"]
    for row, run in zip(rows, runs, strict=True):
        line = row.roofline
        assert line is not None
        # 60 tensors of cache rows, 3 heads of 64 floats; the test's middle is 32 tokens deep.
        assert line.bytes_read == bytes_read(run.bundle, new=1, depth=32)
        assert line.bytes_read == run.bundle.size_bytes - 2 * 2048 * 32 * 4 + 33 * 60 * 3 * 64 * 4
        reading, computing = line.bytes_read / 10e9, line.operations / 10e9
        assert line.bound == ("bandwidth" if reading >= computing else "compute")
        assert line.allowed_tok_s.median == pytest.approx(1 / max(reading, computing))
        assert line.share.median == pytest.approx(row.median_tok_s * max(reading, computing))
        assert line.share.low < line.share.median < line.share.high
    # fp32 reads 7.5 of 10 GB a second.
    assert rows[0].roofline.share.median == pytest.approx(0.75, abs=0.05)
    assert [cause.kind for cause in rows[0].causes] == ["memory bound"]
    # What stays in the cores' own caches is not read from memory; a cache that cores share says nothing of them.
    for shared, kinds in (("0", []), ("0-3", ["memory bound"])):
        large = Cache(level=2, kind="Unified", bytes=2**40, cpus=shared)
        near = msgspec.structs.replace(profile, measured=msgspec.structs.replace(measured, caches=[large]))
        [row, *_] = [row for row in compare(runs, profiles=[near]).rows if row.kind == "decode"]
        assert row.roofline.in_cache is (not kinds)
        assert [cause.kind for cause in row.causes] == kinds
    # Calibrated while others kept the device busy: no roof, and nothing is explained by it.
    slow = msgspec.structs.replace(place, bandwidth_gb_s=Interval(median=3.0))
    low = msgspec.structs.replace(profile, measured=msgspec.structs.replace(measured, places=[slow]))
    found = compare(runs, profiles=[low])
    decode = [row for row in found.rows if row.kind == "decode"]
    assert decode[0].roofline.exceeded
    assert decode[0].causes == []
    [note] = [note for note in roofline_notes(found) if note.startswith("Faster than the profile allows")]
    assert "fp32 tg64 with 1 thread" in note


def test_an_operator_outside_the_delegate() -> None:
    good = [
        AuditedOperator(domain="executorch", op_type="XnnpackBackend", count=2),
        AuditedOperator(domain="llama", op_type="custom_sdpa.out", count=1),
        AuditedOperator(domain="quantized_decomposed", op_type="embedding_byte.out", count=1),
        AuditedOperator(domain="xnnpack", op_type="FullyConnected", count=7),
    ]
    base = data_runs.bundle(runtime="executorch")

    def found(operators: list[AuditedOperator]) -> list[str]:
        runtime = msgspec.structs.replace(base.runtime, operators=operators)
        causes = found_in(msgspec.structs.replace(base, runtime=runtime), prefill=False)
        return [f"{kind}: {evidence}" for kind, evidence, _ in causes]

    assert found(good) == []
    bad = AuditedOperator(domain="quantized_decomposed", op_type="dequantize_per_channel.out", count=7)
    assert found([*good, bad]) == ["outside the delegate: called outside XNNPACK: 7 dequantize_per_channel.out"]
