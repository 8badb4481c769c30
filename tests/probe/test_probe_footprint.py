"""What the probe says of its memory is what the kernel counts, and what the runtime holds."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from probe_model import CONTEXT, HEAD_DIM, KV_HEADS, LAYERS, ProbeModel

from edgekit.schema.event import Footprint
from edgekit.schema.plan import Trial

#: Keys and values, float32.
POSITION_BYTES = LAYERS * 2 * KV_HEADS * HEAD_DIM * 4


@pytest.fixture
def moments(launch, model: ProbeModel, library: Path) -> dict[tuple[str, int | None], Footprint]:
    trials = [Trial(id=0, kind="decode", tokens=8), Trial(id=1, kind="prefill", tokens=CONTEXT)]
    outcome = launch(model.plan(library, trials, proportional_hz=10.0))
    return {(event.moment, event.trial): event for event in outcome.all(Footprint)}


def test_all_moments_are_told_and_add_up(moments) -> None:
    assert list(moments) == [("start", None), ("loaded", None), ("golden", None), ("trial", 0), ("trial", 1)]
    for event in moments.values():
        assert event.weights_file + event.other_file + event.anon + event.other == event.rss
        assert 0 < event.pss <= event.rss
        assert event.cache + event.buffers <= event.anon
        assert event.other_file > 0


def test_the_runtimes_allocator_holds_the_weights(moments, model: ProbeModel) -> None:
    start, loaded = moments["start", None], moments["loaded", None]
    assert (start.allocated, start.reserved, start.weights_file) == (None, None, 0)
    weights = model.path.with_name("model.onnx.data").stat().st_size
    assert loaded.allocated is not None
    assert loaded.reserved is not None
    assert 0.2 * weights < loaded.allocated <= loaded.reserved
    # Running needs more.
    assert moments["trial", 1].reserved > loaded.reserved


def test_the_cache_is_counted_page_by_page(moments) -> None:
    loaded, after = moments["loaded", None], moments["trial", 1]
    assert loaded.cache == 0
    assert loaded.cache_size == after.cache_size == CONTEXT * POSITION_BYTES
    # Now every position is filled.
    assert after.cache == after.cache_size


def test_a_long_context_is_resident_as_far_as_it_is_filled(
    launch, model: ProbeModel, library: Path, tmp_path: Path
) -> None:
    wide = msgspec.structs.replace(
        model.artefact(library).interface, cache_shape=[[1, KV_HEADS, 1 << 16, HEAD_DIM]] * 2 * LAYERS
    )
    artefact = msgspec.structs.replace(model.artefact(library), interface=wide)
    plan = msgspec.structs.replace(
        model.plan(library, [Trial(id=0, kind="decode", tokens=64)], golden=None, proportional_hz=1.0),
        artefact=artefact,
    )
    # The graph states another shape, so that running it is refused; loading is not, and has touched nothing.
    [loaded] = [event for event in launch(plan).all(Footprint) if event.moment == "loaded"]
    assert loaded.cache_size == (1 << 16) * POSITION_BYTES
    assert loaded.cache == 0


def test_nobody_looks_unasked(launch, model: ProbeModel, library: Path) -> None:
    outcome = launch(model.plan(library, [Trial(id=0, kind="decode", tokens=8)]))
    assert outcome.all(Footprint) == []
