"""Figures are what their definitions say, checked against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from data_runs import Session, bundle

from edgekit.analysis import metrics
from edgekit.analysis.load import LaunchData, RunData, load_run
from edgekit.schema.event import Bye, Loaded, MemorySamples, MemoryUse, Stream, TrialResult
from edgekit.schema.plan import Trial

S = 1_000_000_000


@pytest.fixture
def run(tmp_path: Path) -> RunData:
    return load_run(Session(tmp_path, bundles=[bundle("w4")], threads=(2,), rounds=1).write()[0])


def with_events(run: RunData, trials: list[Trial], events: list) -> RunData:
    """The run with its one measuring launch replaced."""
    data = run.launches[1]
    assert data.plan is not None
    plan = msgspec.structs.replace(data.plan, trials=trials)
    launch = LaunchData(data.launch, plan, Stream(events=events, complete=True, faults=[]))
    return RunData(run.path, run.run, run.bundle, [launch], [])


def loaded(load: int, seconds: float, share: float | None, **memory: int) -> Loaded:
    return Loaded(
        t=1,
        load=load,
        resident_before=share,
        start_ns=S,
        end_ns=S + int(seconds * S),
        threads=2,
        affinity_asked=None,
        affinity_read=[],
        memory=MemoryUse(**memory),
    )


def test_speed_is_all_tokens_over_all_of_the_time(run: RunData) -> None:
    trials = [Trial(id=4, kind="prefill", tokens=100, depth=512), Trial(id=5, kind="decode", tokens=4, repetition=3)]
    events = [
        TrialResult(t=1, trial=4, start_ns=10 * S, end_ns=12 * S, token_ns=[12 * S]),
        TrialResult(t=2, trial=5, start_ns=20 * S, end_ns=30 * S, token_ns=[23 * S, 25 * S, 26 * S, 30 * S]),
    ]
    found = metrics.samples(with_events(run, trials, events))
    assert [test.name for test in found] == ["pp100 @ d512", "tg4"]
    [prefill], [decode] = found.values()
    assert prefill.tok_s == 50
    assert prefill.token_ms == ()
    # Four steps in ten seconds; the first step counts from the start of the trial.
    assert decode.tok_s == 0.4
    assert decode.token_ms == (3000, 2000, 1000, 4000)
    assert (decode.round, decode.launch, decode.test.threads) == (3, 1, 2)


def test_what_was_not_delivered_does_not_count(run: RunData) -> None:
    trials = [Trial(id=0, kind="decode", tokens=2, warmup=True), Trial(id=1, kind="decode", tokens=2)]
    events = [
        TrialResult(t=1, trial=0, start_ns=1, end_ns=3, token_ns=[2, 3]),
        TrialResult(t=2, trial=1, start_ns=4, end_ns=6, token_ns=[5]),
        TrialResult(t=3, trial=9, start_ns=7, end_ns=9, token_ns=[8]),
    ]
    changed = with_events(run, trials, events)
    assert metrics.samples(changed) == {}
    assert metrics.dropped_trials(changed) == [
        "launch 1: trial 1 reported 1 token times for decode of 2",
        "launch 1: trial 9 is not in the plan",
    ]


def test_loads_are_cold_warm_or_unknown(run: RunData) -> None:
    events = [loaded(0, 4, 0.05), loaded(0, 3, 0.5), loaded(0, 2, None), loaded(0, 1, 0.95), loaded(1, 0.5, None)]
    times = metrics.load_times(with_events(run, [], events))
    assert (times.cold, times.other, times.warm) == ([4], [3, 2], [1, 0.5])


def test_peak_is_the_high_water_mark_and_the_split_is_at_the_largest_sample(run: RunData) -> None:
    events = [
        loaded(0, 1, None, rss=5, peak=70),
        MemorySamples(t=2, at_ns=[1, 2, 3], rss=[10, 60, 40], anon=[4, 20, 30], file=[6, 40, 10]),
        Bye(t=3, reason="done", trials_done=0, memory=MemoryUse(rss=9, peak=65)),
    ]
    trials = [Trial(id=0, kind="prefill", tokens=1)]
    changed = with_events(run, trials, events)
    assert metrics.memory_peak(changed, 2) == metrics.MemoryPeak(peak=70, anon=20, file=40)
    assert metrics.memory_peak(changed, 1) is None
    unknown = with_events(run, trials, [loaded(0, 1, None)])
    assert metrics.memory_peak(unknown, 2) is None
    sampled = with_events(run, trials, events[1:2])
    assert metrics.memory_peak(sampled, 2) == metrics.MemoryPeak(peak=60, anon=20, file=40)


def test_the_timeline_begins_with_the_launch(run: RunData) -> None:
    found = metrics.timeline(run.launches[1])
    assert found is not None
    assert [name for _, name, _, _ in found.regions] == ["load", "pp128", "tg64"]
    assert 0 <= min(found.at_s) <= found.regions[0][2]
    ends = [(start, end) for _, _, start, end in found.regions]
    assert all(start < end for start, end in ends)
    assert ends == sorted(ends)
    assert len(found.at_s) == len(found.rss) == len(found.anon) == len(found.file)


def test_a_failed_golden_check_outweighs_a_passed_one(tmp_path: Path) -> None:
    run = load_run(Session(tmp_path, bundles=[bundle("w4")], rounds=1, golden_passed=False).write()[0])
    verdict = metrics.golden_verdict(run)
    assert verdict is not None
    assert not verdict.passed
    assert metrics.golden_verdict(RunData(run.path, run.run, run.bundle, run.launches[1:], [])) is None
