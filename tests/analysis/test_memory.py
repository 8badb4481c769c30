"""The parts of resident memory are what was observed, add up to it, and say what they rest on."""

from __future__ import annotations

import msgspec
import pytest
from data_runs import Session, bundle
from hypothesis import given
from hypothesis import strategies as st

from edgekit.analysis import memory
from edgekit.analysis.load import LaunchData, RunData, load_run
from edgekit.schema.event import Bye, Footprint, MemorySamples, MemoryUse, ProportionalSamples, Stream
from edgekit.schema.plan import Trial

MIB = 2**20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    root = tmp_path_factory.mktemp("run")
    return load_run(Session(root, bundles=[bundle("w4")], threads=(2,), rounds=1).write()[0])


def launched(run: RunData, events: list, trials: list[Trial]) -> RunData:
    data = run.launches[1]
    assert data.plan is not None
    plan = msgspec.structs.replace(data.plan, trials=trials)
    launch = LaunchData(data.launch, plan, Stream(events=events, complete=True, faults=[]))
    return RunData(run.path, run.run, run.bundle, [launch], [])


def seen(moment: str, *, trial: int | None = None, anon: int, file: int = 0, libraries: int = 30, **known: int):
    """A footprint in MiB; ``anon`` is all private memory."""
    sizes = {name: value * MIB for name, value in known.items()}
    return Footprint(
        t=1,
        moment=moment,
        trial=trial,
        at_ns=1,
        rss=(anon + file + libraries) * MIB,
        pss=(anon + file) * MIB,
        swap=0,
        weights_file=file * MIB,
        other_file=libraries * MIB,
        anon=anon * MIB,
        other=0,
        **{"cache": 0, "cache_size": 90 * MIB, "buffers": 0, "buffers_size": 2 * MIB, **sizes},
    )


TRIALS = [Trial(id=0, kind="decode", tokens=64), Trial(id=1, kind="decode", tokens=64, depth=256)]
WITH_ALLOCATOR = [
    seen("start", anon=8),
    seen("loaded", anon=530, file=100, buffers=1, allocated=510, reserved=510),
    seen("trial", trial=0, anon=545, file=100, buffers=1, cache=2, allocated=510, reserved=520),
    seen("trial", trial=1, anon=570, file=105, buffers=1, cache=12, allocated=510, reserved=540),
]


def test_parts_from_the_runtimes_allocator(run: RunData) -> None:
    events = [*WITH_ALLOCATOR, Bye(t=9, reason="done", trials_done=2, memory=MemoryUse(peak=710 * MIB))]
    found = memory.split(launched(run, events, TRIALS), 2)
    assert found is not None
    assert {name: value / MIB for name, value in found.parts.items()} == {
        "weights, file": 105,
        "weights, private": 510,
        "KV cache": 12,
        # One of tensors; private memory grew by 570 - 12 - 530 = 28, of which the allocator can have all.
        "activations": 29,
        # Libraries, and 530 - 1 - 510 private at the load.
        "rest": 49,
    }
    assert sum(found.parts.values()) == found.observed == 705 * MIB
    assert (found.weights_basis, found.rest_file, found.above, found.doubt) == ("allocator", 30 * MIB, 5 * MIB, None)


def test_what_the_allocator_cannot_have_is_rest(run: RunData) -> None:
    events = [*WITH_ALLOCATOR[:3], msgspec.structs.replace(WITH_ALLOCATOR[3], reserved=520 * MIB)]
    found = memory.split(launched(run, events, TRIALS), 2)
    assert found is not None
    assert found.activations == 11 * MIB
    assert sum(found.parts.values()) == found.observed
    assert found.above is None


def test_parts_without_an_allocator(run: RunData) -> None:
    """As ExecuTorch: the cache becomes known with the first pass."""
    events = [
        seen("start", anon=1, libraries=5),
        seen("loaded", anon=91, libraries=6, cache_size=0),
        seen("trial", trial=0, anon=113, file=4, libraries=7, cache=1, buffers=1),
        seen("trial", trial=1, anon=150, file=24, libraries=7, cache=27, buffers=7),
    ]
    found = memory.split(launched(run, events, TRIALS), 2)
    assert found is not None
    assert {name: value / MIB for name, value in found.parts.items()} == {
        "weights, file": 24,
        "weights, private": 90,
        "KV cache": 27,
        # Planned tensors, and the workspace: 150 - 27 - 7 - 91.
        "activations": 32,
        "rest": 8,
    }
    assert (found.weights_basis, found.doubt) == ("growth while loading", None)


def test_claims_beyond_what_is_resident_are_said(run: RunData) -> None:
    swapped = msgspec.structs.replace(seen("loaded", anon=60, allocated=510, reserved=510), swap=460 * MIB)
    found = memory.split(launched(run, [seen("start", anon=8), swapped], TRIALS), 2)
    assert found is not None
    assert sum(found.parts.values()) == found.observed
    assert found.rest < 0
    assert found.doubt is not None
    assert "swap" in found.doubt
    assert f"{-found.rest} bytes more than are resident" in found.doubt


sizes = st.integers(0, 2**40)


@given(st.lists(st.tuples(sizes, sizes, sizes, sizes, sizes, st.none() | sizes, st.none() | sizes), min_size=1))
def test_the_parts_always_add_up(moments: list[tuple]) -> None:
    """Whatever a stream claims."""
    events = []
    for number, (anon, file, libraries, cache, buffers, allocated, reserved) in enumerate(moments):
        made = seen("loaded" if number == 0 else "trial", anon=0)
        events.append(
            msgspec.structs.replace(
                made,
                rss=anon + file + libraries,
                anon=anon,
                weights_file=file,
                other_file=libraries,
                cache=cache,
                buffers=buffers,
                allocated=allocated,
                reserved=reserved,
            )
        )
    data = LaunchData(None, None, Stream(events=events, complete=False, faults=[]))  # type: ignore[arg-type]
    found = memory.launch_split(data)
    assert found is not None
    assert sum(found.parts.values()) == found.observed
    assert all(value >= 0 for name, value in found.parts.items() if name != "rest")
    assert found.rest >= 0 or (found.doubt is not None and "more than are resident" in found.doubt)


def test_a_launch_that_was_not_looked_at_has_no_split(run: RunData) -> None:
    assert memory.split(run, 2) is None
    assert memory.growth(run, 2) == []
    assert memory.peak_pss(run, 2) is None
    assert memory.split(launched(run, [seen("start", anon=8)], TRIALS), 2) is None


def test_a_second_load_begins_anew(run: RunData) -> None:
    again = [seen("start", anon=20), seen("loaded", anon=100, allocated=70, reserved=70)]
    found = memory.split(launched(run, [*WITH_ALLOCATOR, *again], TRIALS), 2)
    assert found is not None
    assert found.observed == 130 * MIB
    assert found.weights_private == 70 * MIB


def test_growth_is_the_line_through_the_trials(run: RunData) -> None:
    trials = [Trial(id=n, kind="decode", tokens=100, depth=d) for n, d in enumerate([0, 900, 400, 1900])]
    # Filled positions only grow: the third trial leaves what the second had filled.
    filled = [100, 1000, 1000, 2000]
    events = [seen("start", anon=8), seen("loaded", anon=108, allocated=100, reserved=400)]
    for trial, positions in zip(trials, filled, strict=True):
        event = seen("trial", trial=trial.id, anon=108, allocated=100, reserved=400)
        cache, growth = 90 * 1024 * positions, 7 * positions + 1000
        events.append(
            msgspec.structs.replace(
                event, cache=cache, anon=event.anon + cache + growth, rss=event.rss + cache + growth
            )
        )
    lines = {line.what: line for line in memory.growth(launched(run, events, trials), 2)}
    assert lines["KV cache"].bytes_per_token == pytest.approx(90 * 1024)
    assert lines["KV cache"].at_zero == pytest.approx(0, abs=1e-3)
    assert lines["activations"].bytes_per_token == pytest.approx(7)
    assert lines["activations"].at_zero == pytest.approx(1000)
    resident = lines["resident"]
    assert resident.bytes_per_token == pytest.approx(90 * 1024 + 7)
    assert resident.low is not None
    assert resident.high is not None
    assert resident.low <= resident.bytes_per_token <= resident.high
    assert (resident.points, resident.fewest, resident.most) == (4, 100, 2000)


def test_proportional_memory_over_time(run: RunData) -> None:
    samples = ProportionalSamples(
        t=2, at_ns=[5, 7], took_ns=[1, 1], rss=[30, 40], pss=[20, 35], uss=[10, 30], swap=[0, 0]
    )
    looked = msgspec.structs.replace(seen("loaded", anon=1, libraries=0), at_ns=6, rss=35, pss=25)
    events = [samples, looked, MemorySamples(t=2, at_ns=[5], rss=[50], anon=[1], file=[49])]
    changed = launched(run, events, TRIALS)
    curve = memory.proportional(changed.launches[0])
    assert curve == memory.ProportionalCurve(1, [5, 6, 7], [30, 35, 40], [20, 25, 35])
    assert memory.peak_pss(changed, 2) == 35
    assert memory.peak_pss(changed, 1) is None
