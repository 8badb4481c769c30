"""The probe on a real model: golden check, trials, memory, affinity, loads."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from probe_model import CONTEXT, ProbeModel

from edgekit.schema.event import Bye, GoldenResult, Hello, Loaded, MemorySamples, TrialResult, TrialStart
from edgekit.schema.plan import Trial

TRIALS = [
    Trial(id=0, kind="prefill", tokens=32, warmup=True),
    Trial(id=1, kind="prefill", tokens=16, depth=40),
    Trial(id=2, kind="decode", tokens=12),
    Trial(id=3, kind="decode", tokens=8, depth=30),
    Trial(id=4, kind="prefill", tokens=CONTEXT),
    Trial(id=5, kind="decode", tokens=CONTEXT),
]


def test_a_whole_launch(launch, model: ProbeModel, library: Path, abi: str) -> None:
    outcome = launch(model.plan(library, TRIALS))
    assert outcome.exit_code == 0
    assert outcome.stream.complete
    hello = outcome.stream.events[0]
    assert isinstance(hello, Hello)
    assert (hello.runtime, hello.runtime_version, hello.abi) == ("onnxruntime", "1.32.0", abi)
    bye = outcome.stream.events[-1]
    assert isinstance(bye, Bye)
    assert (bye.reason, bye.trials_done) == ("done", len(TRIALS))
    results = {event.trial: event for event in outcome.all(TrialResult)}
    assert [event.trial for event in outcome.all(TrialStart)] == [trial.id for trial in TRIALS]
    for trial in TRIALS:
        result = results[trial.id]
        assert len(result.token_ns) == (1 if trial.kind == "prefill" else trial.tokens)
        moments = [result.start_ns, *result.token_ns]
        assert all(before < after for before, after in pairwise(moments))
        assert result.end_ns == result.token_ns[-1]
        assert len(result.cpus) == 1
        assert set(result.cpus) <= set(os.sched_getaffinity(0))
    recorded = [event.t for event in outcome.stream.events]
    assert recorded == sorted(recorded)


def test_the_runtime_reports_to_nobody_and_leaves_nothing(
    launch, model: ProbeModel, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = {name: tmp_path / name for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR")}
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    for name, folder in homes.items():
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    assert launch(model.plan(library, TRIALS[:1])).exit_code == 0
    assert [path for folder in homes.values() for path in folder.iterdir()] == []


def test_golden_answer_is_what_the_python_package_computes(launch, model: ProbeModel, library: Path) -> None:
    answer = launch(model.plan(library, [])).only(GoldenResult)
    assert answer.tokens == model.golden.tokens
    np.testing.assert_allclose(answer.logits, model.golden.logits, atol=model.golden.tolerance)


def test_golden_feeds_the_golden_tokens_not_its_own(launch, model: ProbeModel, library: Path) -> None:
    """One differing token must not change the logits of all later steps."""
    wrong = [*model.golden.tokens]
    wrong[0] = (wrong[0] + 1) % 97
    other = msgspec.structs.replace(model.golden, tokens=wrong)
    answer = launch(model.plan(library, [], golden=other)).only(GoldenResult)
    assert answer.tokens[0] == model.golden.tokens[0]
    np.testing.assert_allclose(answer.logits[0], model.golden.logits[0], atol=model.golden.tolerance)
    assert np.abs(np.subtract(answer.logits[1], model.golden.logits[1])).max() > 10 * model.golden.tolerance


def test_trials_before_do_not_change_the_golden_answer(launch, model: ProbeModel, library: Path) -> None:
    """The cache is emptied, whatever was in it: a golden check after a load and trials of another launch agree."""
    first = launch(model.plan(library, TRIALS, loads=2)).only(GoldenResult)
    second = launch(model.plan(library, [])).only(GoldenResult)
    assert first.logits == second.logits


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_that_compute(launch, model: ProbeModel, library: Path, threads: int) -> None:
    outcome = launch(model.plan(library, TRIALS[:3], threads=threads))
    assert outcome.only(Loaded).threads == threads
    assert [len(event.cpus) for event in outcome.all(TrialResult)] == [threads] * 3
    assert outcome.only(GoldenResult).tokens == model.golden.tokens


def test_what_the_kernel_counted_of_each_trial(launch, model: ProbeModel, library: Path) -> None:
    """CPU time and waits by thread, of the region alone; the whole process's is at least that of its threads."""
    long = Trial(id=0, kind="decode", tokens=CONTEXT)
    outcome = launch(model.plan(library, [msgspec.structs.replace(long, id=number) for number in range(8)], threads=2))
    assert outcome.only(Loaded).major_faults >= 0
    for event in outcome.all(TrialResult):
        assert len(event.thread_run_ns) == len(event.thread_wait_ns) == len(event.cpus) == 2
        assert all(waited >= 0 for waited in event.thread_wait_ns)
        assert event.caller_cpus
        assert set(event.caller_cpus) <= os.sched_getaffinity(0)
        assert event.cpu_ns > 0
        assert event.minor_faults >= 0
        assert event.voluntary_switches >= 0
        assert event.machine_ns >= 0
        assert event.stolen_ns >= 0


def test_two_threads_on_one_cpu_wait_for_each_other(launch, model: ProbeModel, library: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    trials = [Trial(id=number, kind="decode", tokens=CONTEXT) for number in range(8)]
    outcome = launch(model.plan(library, trials, threads=2, affinity=[cpu]))
    results = outcome.all(TrialResult)
    assert {at for event in results for at in event.caller_cpus} == {cpu}
    waited = sum(sum(event.thread_wait_ns) for event in results)
    assert waited > 0.2 * sum(sum(event.thread_run_ns) for event in results)


def test_affinity_holds_for_every_thread(launch, model: ProbeModel, library: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    outcome = launch(model.plan(library, TRIALS[:3], threads=2, affinity=[cpu]))
    loaded = outcome.only(Loaded)
    assert loaded.affinity_asked == [cpu]
    assert loaded.affinity_read
    assert all(allowed == [cpu] for allowed in loaded.affinity_read)
    assert {at for event in outcome.all(TrialResult) for at in event.cpus} == {cpu}


def test_without_affinity_placement_is_the_schedulers(launch, model: ProbeModel, library: Path) -> None:
    loaded = launch(model.plan(library, [])).only(Loaded)
    assert loaded.affinity_asked is None
    assert all(set(allowed) == os.sched_getaffinity(0) for allowed in loaded.affinity_read)


def test_each_load_is_told(launch, model: ProbeModel, library: Path) -> None:
    loads = launch(model.plan(library, [], loads=3)).all(Loaded)
    assert [load.load for load in loads] == [0, 1, 2]
    assert all(load.start_ns < load.end_ns for load in loads)
    assert all(first.end_ns <= second.start_ns for first, second in pairwise(loads))
    # By the second load the files were just read; only an owner is told so by the kernel, and we made them.
    assert loads[1].resident_before == 1.0


def test_memory_is_sampled_from_load_to_end(launch, model: ProbeModel, library: Path) -> None:
    trials = [msgspec.structs.replace(TRIALS[5], id=number) for number in range(20)]
    outcome = launch(model.plan(library, trials, memory_hz=500.0))
    samples = outcome.all(MemorySamples)
    at = [moment for event in samples for moment in event.at_ns]
    assert len(at) >= 3
    assert all(before < after for before, after in pairwise(at))
    bye = outcome.only(Bye)
    for event in samples:
        assert len(event.at_ns) == len(event.rss) == len(event.anon) == len(event.file)
        assert all(rss == anon + file for rss, anon, file in zip(event.rss, event.anon, event.file, strict=True))
        assert all(0 < rss <= bye.memory.peak for rss in event.rss)
    assert bye.memory.peak >= bye.memory.rss > 0


def test_no_sampler_at_zero_hertz(launch, model: ProbeModel, library: Path) -> None:
    outcome = launch(model.plan(library, TRIALS[:2], memory_hz=0))
    assert outcome.exit_code == 0
    assert outcome.all(MemorySamples) == []


def test_only_what_the_plan_fills_of_the_cache_is_resident(
    launch, library: Path, tmp_path: Path, model: ProbeModel
) -> None:
    """A long context costs memory when it is used, not before."""
    wide = msgspec.structs.replace(
        model.artefact(library).interface, cache_shape=[[1, 2, 1 << 20, 16]] * len(model.interface.past)
    )
    artefact = msgspec.structs.replace(model.artefact(library), interface=wide)
    plan = msgspec.structs.replace(model.plan(library, [], golden=None), artefact=artefact)
    outcome = launch(plan)
    # 512 MiB of address space. (The graph states another shape: running it would be refused, loading it is not.)
    assert outcome.exit_code == 0
    assert outcome.only(Bye).memory.peak < 300 * 1024 * 1024


def test_session_options_reach_the_runtime(launch, model: ProbeModel, library: Path) -> None:
    """It takes what it knows, and refuses a key that is longer than it allows."""
    options = {"session.intra_op.allow_spinning": "0", "session.enable_cpu_mem_arena": "0"}
    artefact = msgspec.structs.replace(model.artefact(library), session_config=options)
    plan = msgspec.structs.replace(model.plan(library, TRIALS), artefact=artefact)
    outcome = launch(plan)
    assert outcome.exit_code == 0
    assert outcome.only(GoldenResult).tokens == model.golden.tokens
    too_long = msgspec.structs.replace(artefact, session_config={"k" * 5000: "1"})
    assert "5000" not in launch(msgspec.structs.replace(plan, artefact=too_long)).refused("model", 5)


def test_a_decode_that_lasts_for_a_time_is_repeated_without_a_rest(launch, model: ProbeModel, library: Path) -> None:
    lasting = Trial(id=1, kind="decode", tokens=8, depth=20, seconds=0.3)
    plan = model.plan(library, [TRIALS[0], lasting, Trial(id=2, kind="decode", tokens=4)])
    outcome = launch(plan)
    assert outcome.exit_code == 0
    results = outcome.all(TrialResult)
    parts = [event for event in results if event.trial == 1]
    assert len(parts) > 1
    assert [event.part for event in parts] == list(range(len(parts)))
    assert all(len(event.token_ns) == 8 for event in parts)
    assert all(before.end_ns <= after.start_ns for before, after in pairwise(parts))
    lasted = parts[-1].end_ns - parts[0].start_ns
    assert lasted >= 0.3e9
    # The pass before the last had not reached the end: no more was done than asked.
    assert parts[-2].end_ns - parts[0].start_ns < 0.3e9
    assert [event.part for event in results if event.trial != 1] == [None, None]
    assert outcome.only(Bye).trials_done == 3


def test_only_a_decode_can_last_for_a_time(launch, model: ProbeModel, library: Path) -> None:
    plan = model.plan(library, [Trial(id=0, kind="prefill", tokens=8, seconds=1.0)])
    assert "for a decode only" in launch(plan).refused("plan", 3)
