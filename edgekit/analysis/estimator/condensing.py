"""From runs to what the estimator is fitted to and held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit.analysis import memory, metrics
from edgekit.analysis.load import RunData
from edgekit.errors import InputError
from edgekit.schema.event import TrialResult
from edgekit.schema.own_runs import OwnMemory, OwnRow, OwnRuns, OwnTest

#: Share of a trial's time in which its threads must have had their CPUs for the time that passed to count.
QUIET_SHARE = 0.97


def condense(
    runs: Sequence[tuple[str, RunData]], *, name: str, title: str, remarks: dict[str, str] | None = None
) -> OwnRuns:
    """Condense runs of one device.

    Args:
        runs: each with the model source that its bundle was exported from.
        name: of the document.
        title: of the document.
        remarks: what is known of errors that remain, by quantity.

    Raises:
        InputError: no runs, or runs of several devices.
    """
    if not runs:
        raise InputError("condense runs: there are none")
    devices = {(run.run.device.cpu_model, run.run.device.cpus, run.run.device.abi) for _, run in runs}
    if len(devices) > 1:
        raise InputError(f"condense runs: they are of {len(devices)} devices", hint="take the runs of one")
    first = runs[0][1].run
    device = first.device
    alike: dict[tuple[str, str, str], list[RunData]] = {}
    for source, run in runs:
        alike.setdefault((source, run.bundle.runtime.name, run.bundle.recipe.name), []).append(run)
    rows = [row for (source, _, _), sessions in alike.items() for row in rows_of(source, sessions)]
    return OwnRuns(
        schema_version=OwnRuns.SCHEMA_VERSION,
        name=name,
        title=title,
        measured_at=min(run.run.created_at for _, run in runs),
        processor=device.cpu_model or "unknown",
        cpus=device.cpus,
        memory_bytes=device.memory_bytes,
        versions=first.versions,
        context=max(run.bundle.runtime.context_length for _, run in runs),
        rows=sorted(rows, key=lambda row: (row.source, row.runtime, row.recipe, row.threads)),
        remarks=remarks or {},
    )


@dataclass(frozen=True)
class _Sample:
    """Seconds of one trial, and the share of them in which its threads had their CPUs."""

    seconds: float
    on_cpu: float


def rows_of(source: str, runs: Sequence[RunData]) -> Iterable[OwnRow]:
    """One row for each number of threads that runs of one bundle had; samples of several sessions are put together.

    A trial in which another program had the CPU for more than a little of the time says how busy the machine was:
    with one thread its time on the CPU is taken instead of the time that passed, with several it is left out. Where
    most trials with one thread were disturbed, the fastest stands for them: what others do only adds to it.
    """
    samples_of: dict[metrics.Test, list[_Sample]] = {}
    for data in [data for run in runs for data in run.launches]:
        for trial, result in metrics.counted_trials(data):
            test = metrics.key_of(trial, data.launch.threads)
            samples_of.setdefault(test, []).append(_sample(test, result))
    warm = sorted(seconds for run in runs for seconds in metrics.load_times(run).warm)
    last = runs[-1]
    for threads in sorted({test.threads for test in samples_of}):
        tests = []
        for test, samples in sorted(samples_of.items(), key=lambda item: item[0].order):
            if test.threads == threads and (made := _test(test, samples)):
                tests.append(made)
        yield OwnRow(
            source=source,
            runtime=last.bundle.runtime.name,
            recipe=last.bundle.recipe.name,
            threads=threads,
            size_bytes=last.bundle.size_bytes,
            kv_cache_bytes=last.bundle.runtime.kv_cache_bytes,
            kernels=list(metrics.kernels_used(last)),
            load_s=_median(warm) if warm else None,
            tests=tests,
            # The order of tests differs from launch to launch, and with it what is held at the fullest moment.
            memory=max((found for run in runs if (found := _memory(run, threads))), key=_peak, default=None),
        )


def _sample(test: metrics.Test, result: TrialResult) -> _Sample:
    passed = (result.end_ns - result.start_ns) / 1e9
    ran, waited = sum(result.thread_run_ns or ()), sum(result.thread_wait_ns or ())
    share = ran / (ran + waited) if ran else 1.0
    if share < QUIET_SHARE and test.threads == 1:
        passed = max(result.thread_run_ns or (0,)) / 1e9
    return _Sample(passed / (test.tokens if test.kind == "decode" else 1), share)


def _test(test: metrics.Test, samples: Sequence[_Sample]) -> OwnTest | None:
    quiet = [sample for sample in samples if sample.on_cpu >= QUIET_SHARE]
    mostly = 2 * len(quiet) >= len(samples)
    chosen = quiet if mostly or test.threads > 1 else list(samples)
    if not chosen:
        return None
    seconds = sorted(sample.seconds for sample in chosen)
    return OwnTest(
        kind=test.kind,
        tokens=test.tokens,
        depth=test.depth,
        # Where most were disturbed, the least disturbed says most.
        median_s=_median(seconds) if mostly or test.threads > 1 else seconds[0],
        low_s=seconds[0],
        high_s=seconds[-1],
        samples=len(seconds),
        clock="passed" if mostly or test.threads > 1 else "on CPU",
    )


def _peak(memory: OwnMemory) -> int:
    return memory.peak


def _memory(run: RunData, threads: int) -> OwnMemory | None:
    split = memory.split(run, threads)
    peak = metrics.memory_peak(run, threads)
    plans = [data.plan for data in run.launches if data.plan and data.plan.trials and data.launch.threads == threads]
    if split is None or split.doubt or peak is None or not plans:
        return None
    trials = plans[0].trials
    return OwnMemory(
        observed=split.observed,
        peak=peak.peak,
        weights_file=split.weights_file,
        weights_private=split.weights_private,
        kv_cache=split.kv_cache,
        activations=split.activations,
        rest=split.rest,
        longest_pass=max(max(trial.depth, trial.tokens if trial.kind == "prefill" else 1) for trial in trials),
        filled=max(trial.depth + trial.tokens for trial in trials),
        tokens=max(trial.depth + trial.tokens for trial in trials),
    )


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
