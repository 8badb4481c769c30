"""The records of the tables in :mod:`edgekit.analysis.run_tables`, column by column.

``run`` is the place of a run among those given. Lists hold None for what is unknown. A
table without records has no columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgekit.analysis import facts, metrics, sensors
from edgekit.analysis.load import LaunchData, RunData
from edgekit.analysis.metrics import NS_PER_MS, NS_PER_S
from edgekit.schema.event import Loaded, MemorySamples, ProportionalSamples, TrialResult
from edgekit.schema.run import Conditions

#: Lists or arrays of equal length, in the order of the table's columns.
Columns = list[Any]


def runs(runs: Sequence[RunData]) -> Columns:
    """One record a run."""
    records = [_run_record(number, data) for number, data in enumerate(runs)]
    return _transposed(records)


def _run_record(number: int, data: RunData) -> list[Any]:
    run, bundle, device = data.run, data.bundle, data.run.device
    figures, golden = bundle.gate.figures, facts.golden(data)
    return [
        number,
        run.session,
        run.created_at,
        run.status,
        run.model,
        run.recipe,
        run.runtime,
        bundle.runtime.version,
        bundle.runtime.backend,
        list(facts.kernels(data)),
        run.bundle,
        bundle.size_bytes,
        bundle.architecture.parameters,
        bundle.recipe.bits_per_weight,
        bundle.runtime.context_length,
        figures.kl_mean,
        figures.kl_p99,
        figures.same_top,
        figures.perplexity,
        figures.perplexity_reference,
        bundle.gate.passed,
        None if golden is None else golden.passed,
        device.name,
        device.transport,
        device.cpu_model,
        device.cpus,
        device.memory_bytes,
        device.abi,
        device.os,
        device.kernel,
        device.fidelity,
        run.protocol.get("name"),
        list(run.command),
        len(data.faults),
        str(data.path),
    ]


def launches(runs: Sequence[RunData]) -> Columns:
    """One record a launch."""
    records = []
    for number, data in _launches_of(runs):
        entry, loads = data.launch, [event for event in _events(data) if isinstance(event, Loaded)]
        first = loads[0] if loads else None
        peak = max((event.memory.peak or 0 for event in _events(data) if hasattr(event, "memory")), default=0)
        records.append(
            [
                number,
                entry.index,
                entry.threads,
                entry.position,
                entry.started_at,
                entry.status,
                entry.exit_code,
                entry.message,
                (first.end_ns - first.start_ns) / NS_PER_S if first else None,
                first.resident_before if first else None,
                list(first.affinity_asked) if first and first.affinity_asked is not None else None,
                peak or None,
                data.stream.complete if data.stream else False,
            ]
        )
    return _transposed(records)


def trials(runs: Sequence[RunData]) -> Columns:
    """One record a trial that ended."""
    records = []
    for number, data in _launches_of(runs):
        counted = {id(result) for _, result in metrics.counted_trials(data)}
        planned = {trial.id: trial for trial in data.plan.trials} if data.plan else {}
        zero = _zero(data)
        for event in _events(data):
            if not isinstance(event, TrialResult) or event.trial not in planned:
                continue
            trial = planned[event.trial]
            seconds = (event.end_ns - event.start_ns) / NS_PER_S
            test = metrics.key_of(trial, data.launch.threads)
            records.append(
                [
                    number,
                    data.launch.index,
                    trial.id,
                    trial.kind,
                    test.name,
                    trial.tokens,
                    trial.depth,
                    data.launch.threads,
                    trial.repetition,
                    id(event) in counted,
                    (event.start_ns - zero) / NS_PER_S,
                    seconds,
                    trial.tokens / seconds if id(event) in counted else None,
                    list(event.cpus),
                    event.major_faults,
                    event.involuntary_switches,
                    None if event.cpu_ns is None else event.cpu_ns / NS_PER_S,
                ]
            )
    return _transposed(records)


def tokens(runs: Sequence[RunData]) -> Columns:
    """One record a decoded token."""
    import numpy as np

    parts: list[list[Any]] = [[] for _ in range(6)]
    for number, data in _launches_of(runs):
        zero = _zero(data)
        for trial, result in metrics.counted_trials(data):
            if trial.kind != "decode":
                continue
            ends = np.asarray(result.token_ns, dtype=np.int64)
            steps = np.diff(ends, prepend=result.start_ns)
            ids = (number, data.launch.index, trial.id)
            columns: list[Any] = [np.full(len(ends), value, dtype=np.int32) for value in ids]
            columns += [np.arange(trial.depth, trial.depth + len(ends), dtype=np.int32)]
            columns += [(ends - zero) / NS_PER_S, steps / NS_PER_MS]
            for part, column in zip(parts, columns, strict=True):
                part.append(column)
    return _joined(parts)


def memory(runs: Sequence[RunData]) -> Columns:
    """One record a sample of the memory."""
    import numpy as np

    parts: list[list[Any]] = [[] for _ in range(6)]
    for number, data in _launches_of(runs):
        for event in _events(data):
            if isinstance(event, MemorySamples) and event.at_ns:
                values = (event.rss, event.anon, event.file)
                _sampled(parts, number, data, event.at_ns, [np.asarray(column, dtype=np.int64) for column in values])
    return _joined(parts)


def proportional(runs: Sequence[RunData]) -> Columns:
    """One record a sample of the proportional memory."""
    import numpy as np

    parts: list[list[Any]] = [[] for _ in range(7)]
    for number, data in _launches_of(runs):
        for event in _events(data):
            if isinstance(event, ProportionalSamples) and event.at_ns:
                values = (event.rss, event.pss, event.uss, event.swap)
                _sampled(parts, number, data, event.at_ns, [np.asarray(column, dtype=np.int64) for column in values])
    return _joined(parts)


def conditions(runs: Sequence[RunData]) -> Columns:
    """One record a reading."""
    records: list[Sequence[Any]] = []
    for number, data in enumerate(runs):
        for moment, state in (("before", data.run.before), ("after", data.run.after)):
            if state is not None:
                records += [(number, None, moment, state.at, None, *entry) for entry in _readings(state)]
    for number, launch in _launches_of(runs):
        if launch.stream is None:
            continue
        zero = _zero(launch)
        for series in sensors.series(launch.stream):
            about = (series.sensor.kind, series.sensor.name)
            records += [
                (number, launch.launch.index, "sample", None, (at - zero) / NS_PER_S, *about, value, series.unit, None)
                for at, value in zip(series.at_ns, series.values, strict=True)
            ]
    return _transposed(records)


def _readings(state: Conditions) -> Iterator[tuple[str, str | None, float | None, str, str | None]]:
    """Quantity, part, number, unit and text of everything that the device told."""
    singles = (
        ("load_1m", state.load_1m, ""),
        ("memory_available", state.memory_available_bytes, "B"),
        ("battery", state.battery_percent, "%"),
        ("charging", state.charging, ""),
    )
    for name, value, unit in singles:
        if value is not None:
            yield name, None, float(value), unit, None
    for part, rate in state.frequency_khz.items():
        yield "frequency", part, rate / 1e6, "GHz", None
    for part, warmth in state.temperature_c.items():
        yield "temperature", part, warmth, "°C", None
    for part, text in state.governor.items():
        yield "governor", part, None, "", text


def _sampled(parts: list[list[Any]], number: int, data: LaunchData, at_ns: Sequence[int], columns: list[Any]) -> None:
    """Append samples of one launch: run, launch, seconds, then their columns."""
    import numpy as np

    keys: list[Any] = [np.full(len(at_ns), value, dtype=np.int32) for value in (number, data.launch.index)]
    keys.append((np.asarray(at_ns, dtype=np.int64) - _zero(data)) / NS_PER_S)
    for part, column in zip(parts, [*keys, *columns], strict=True):
        part.append(column)


def _launches_of(runs: Sequence[RunData]) -> Iterator[tuple[int, LaunchData]]:
    for number, run in enumerate(runs):
        for data in run.launches:
            yield number, data


def _events(data: LaunchData) -> Sequence[Any]:
    return data.stream.events if data.stream else ()


def _zero(data: LaunchData) -> int:
    """The launch's first moment on the probe's clock."""
    events = _events(data)
    return events[0].t if events else 0


def _transposed(records: Sequence[Sequence[Any]]) -> Columns:
    return [list(column) for column in zip(*records, strict=True)]


def _joined(parts: Sequence[Sequence[Any]]) -> Columns:
    import numpy as np

    return [np.concatenate(part) for part in parts if part]
