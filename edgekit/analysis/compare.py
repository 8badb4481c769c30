"""Comparing runs: every figure with its interval, every difference with its verdict."""

from __future__ import annotations

import statistics as plain
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.analysis import memory, metrics, sameness, statistics
from edgekit.analysis.causes import causes_of
from edgekit.analysis.comparison import Comparison, Pairing, Ratio, Row, SustainedLevel
from edgekit.analysis.energy import Energy, energies
from edgekit.analysis.labels import labels
from edgekit.analysis.limited import clock_stayed, lowered_limits
from edgekit.analysis.load import RunData
from edgekit.analysis.metrics import Sample, Test
from edgekit.analysis.power_meter import PlacedMeter
from edgekit.analysis.roofline import roofline_of
from edgekit.analysis.sustained import Sustained, sustained
from edgekit.analysis.usage import usage_of
from edgekit.errors import InputError
from edgekit.schema.device_profile import DeviceProfile, Interval, measured_profiles, profile_of


@dataclass(frozen=True)
class _Judged:
    """A ratio that waits for the correction: its difference and the values behind it."""

    row: int
    difference: statistics.Difference
    values: list[float]
    base: list[float]
    pairing: Pairing
    #: What the device itself reported that forbids a verdict.
    evidence: list[str]
    #: Verdicts that throttling between the two would look like.
    doubtful: tuple[statistics.Verdict, ...] = ()


def compare(
    runs: Sequence[RunData],
    baseline: RunData | str | None = None,
    *,
    profiles: Sequence[DeviceProfile] | None = None,
    meter: PlacedMeter | None = None,
) -> Comparison:
    """Compare runs test by test.

    Args:
        runs: at least one; of any models, plans and devices.
        baseline: the run that ratios refer to, itself or its id or label; the first run when None.
        profiles: measured device profiles that rooflines are drawn from; None: all of the user's.
        meter: an external power meter, for the energy; None takes the device's own sensors.

    Returns:
        One row per run and test, in the order of ``runs``. A row has a ratio only where the
        baseline ran the same test with as many threads on the same device, both on real
        hardware and with a golden check that did not fail; otherwise ``no_ratio`` says why.

    Raises:
        InputError: no runs, one given twice, or no such baseline.
    """
    if not runs:
        raise InputError("compare: no run was given", hint="name at least one run directory")
    if all(data.run.profiled for data in runs):
        raise InputError(
            "compare: every run was profiled, which slows it: its times are no speed", hint="see `edgekit operators`"
        )
    identities = [data.run.id for data in runs]
    for identity in identities:
        if identities.count(identity) > 1:
            raise InputError(f"compare: run {identity} was given more than once", hint="name each run once")
    names = labels(runs)
    base_index = _baseline_index(runs, names, baseline)
    base = runs[base_index]
    base_samples, base_warmup = _split(metrics.all_samples(base))

    known = measured_profiles() if profiles is None else profiles
    rows: list[Row] = []
    waiting: list[_Judged] = []
    faults: list[str] = []
    levels: list[SustainedLevel] = []
    for data, label in zip(runs, names, strict=True):
        faults += [f"{label}: {fault}" for fault in (*data.faults, *metrics.dropped_trials(data))]
        if mixed := metrics.mixed_kernels(data):
            faults.append(f"{label}: {mixed}")
        found, warming = (base_samples, base_warmup) if data is base else _split(metrics.all_samples(data))
        if data.run.profiled:
            faults.append(f"{label}: was profiled, so that its times are no speed")
        lasting = sustained(data)
        levels += [_level(entry, data, label) for entry in lasting]
        if not data.run.profiled and not found and not lasting:
            faults.append(f"{label}: no trial was measured")
        faults += [f"{label}: {text}" for text in _unlike(data, base, found, base_samples)]
        usage = usage_of(data) if found else {}
        profile = profile_of(data.run.device, known)
        energy = energies(data, meter)
        whole = _Whole(data)
        for test, measured in found.items():
            reason = _no_ratio(data, base, test, base_samples)
            if reason is None:
                waiting.append(_difference(len(rows), measured, base_samples[test], data, base))
            row = _row(data, whole, label, test, measured, reason)
            speed = Interval(median=row.median_tok_s, low=row.low_tok_s, high=row.high_tok_s)
            line = roofline_of(data, test, speed, profile)
            causes = causes_of(test, usage[test], data.run.device, data.bundle, line, found) if test in usage else []
            told = energy.get(test)
            rows.append(
                msgspec.structs.replace(
                    row,
                    roofline=line,
                    causes=causes,
                    energy=told if isinstance(told, Energy) else None,
                    no_energy=told if isinstance(told, str) else None,
                    warmup_tok_s=warming[test],
                    marks=_marks(measured),
                )
            )
        faults += [f"{label}: {text}" for text in _remarks(found, warming)]
    family = [entry for entry in waiting if entry.difference.p is not None]
    corrected = statistics.holm([entry.difference.p for entry in family if entry.difference.p is not None])
    by_row = {entry.row: value for entry, value in zip(family, corrected, strict=True)}
    for entry in waiting:
        ratio = _ratio(entry, by_row.get(entry.row), len(family))
        rows[entry.row] = msgspec.structs.replace(rows[entry.row], ratio=ratio)
    return Comparison(
        schema_version=Comparison.SCHEMA_VERSION,
        baseline=base.run.id,
        baseline_label=names[base_index],
        comparisons=len(family),
        rows=rows,
        faults=faults,
        sustained=levels,
    )


def _split(found: Mapping[Test, Sequence[Sample]]) -> tuple[dict[Test, list[Sample]], dict[Test, list[float]]]:
    """The samples that count, and the speeds of those that were warm-up."""
    counted = {test: [sample for sample in entry if not sample.warmup] for test, entry in found.items()}
    return counted, {test: [sample.tok_s for sample in entry if sample.warmup] for test, entry in found.items()}


def _marks(measured: Sequence[Sample]) -> dict[str, int]:
    """How many of the samples carry each mark, the most frequent first."""
    return dict(Counter(mark for sample in measured for mark in sample.marks).most_common())


def _level(entry: Sustained, data: RunData, label: str) -> SustainedLevel:
    hot = [value for curve in entry.temperature_c.values() for _, value in curve]
    slow = [value for curve in entry.frequency_ghz.values() for _, value in curve]
    return SustainedLevel(
        run=data.run.id,
        label=label,
        threads=entry.test.threads,
        test=entry.test.name,
        lasted_s=entry.lasted_s,
        start_tok_s=entry.start_tok_s,
        level_tok_s=entry.level_tok_s,
        level_low=entry.level_low,
        level_high=entry.level_high,
        settled_at_s=entry.settled_at_s,
        settled_low_s=entry.settled_low_s,
        settled_high_s=entry.settled_high_s,
        reason=entry.reason,
        hottest_c=max(hot, default=None),
        lowest_ghz=min(slow, default=None),
        gaps=entry.gaps,
    )


def _unlike(
    data: RunData, base: RunData, found: Mapping[Test, Sequence[Sample]], wanted: Mapping[Test, Sequence[Sample]]
) -> list[str]:
    """In what a run cannot be held against the baseline, or only with care."""
    if data is base or not found or not same_device(data, base):
        return []
    texts = (
        sameness.other_plan(data, base),
        sameness.other_state(data, base),
        sameness.missing_tests(found.keys(), wanted.keys()),
    )
    return [text for text in texts if text is not None]


_MARK_TEXTS: dict[str, str] = {
    "load": "others used the CPUs",
    "throttled": "the device was throttled",
    "hotter": "the processor got much hotter",
    "charger": "the charger was connected or taken away",
    "governor": "the governor changed",
    "low memory": "memory ran low",
}


def _remarks(found: Mapping[Test, Sequence[Sample]], warming: Mapping[Test, Sequence[float]]) -> list[str]:
    """What a reader must know of a run's samples."""
    every = [sample for entry in found.values() for sample in entry]
    texts = [f"{_MARK_TEXTS[kind]} in {count} of {len(every)} samples" for kind, count in _marks(every).items()]
    dropped = sum(len(entry) for entry in warming.values())
    if dropped:
        texts.append(f"{dropped} samples of the first rounds are warm-up and not counted")
    return texts


def same_device(one: RunData, other: RunData) -> bool:
    """Whether two runs come from one device, as far as its facts tell (``local`` is a name on every machine)."""
    first, second = one.run.device, other.run.device
    return (first.name, first.abi, first.cpu_model, first.cpus) == (
        second.name,
        second.abi,
        second.cpu_model,
        second.cpus,
    )


def paired_values(
    measured: Sequence[Sample], base: Sequence[Sample], *, same_session: bool
) -> tuple[list[float], list[float]] | None:
    """Speeds by round if the rounds were measured in turn, else None.

    In turn: one session, a round with samples of both, and every launch of a
    round came before every launch of the next. A round's value is the median of its samples.
    """
    if not same_session:
        return None
    values: list[float] = []
    others: list[float] = []
    last = -1
    for number in sorted({sample.round for sample in measured} & {sample.round for sample in base}):
        here = [sample for sample in measured if sample.round == number]
        there = [sample for sample in base if sample.round == number]
        positions = [sample.position for sample in (*here, *there)]
        if min(positions) <= last:
            return None
        last = max(positions)
        values.append(plain.median(sample.tok_s for sample in here))
        others.append(plain.median(sample.tok_s for sample in there))
    return (values, others) if values else None


def _baseline_index(runs: Sequence[RunData], names: Sequence[str], baseline: RunData | str | None) -> int:
    if baseline is None:
        return 0
    for index, (data, name) in enumerate(zip(runs, names, strict=True)):
        if data is baseline or baseline in (data.run.id, name, str(data.path), data.bundle.recipe.name):
            return index
    wanted = baseline if isinstance(baseline, str) else baseline.run.id
    raise InputError(
        f"compare: the baseline {wanted!r} is none of the runs",
        hint=f"runs: {', '.join(data.run.id for data in runs)}",
    )


def _no_ratio(data: RunData, base: RunData, test: Test, base_samples: dict[Test, list[Sample]]) -> str | None:
    if data is base:
        return "baseline"
    for side, whose in ((data, "this run"), (base, "the baseline")):
        facts = side.run.device
        if facts.fidelity != "real":
            why = f" ({facts.fidelity_reason})" if facts.fidelity_reason else ""
            return f"{whose} is {facts.fidelity}{why}: its times say nothing about speed"
        if side.run.beside:
            return f"{whose} shared its machine with others that were measured at the same time"
        golden = metrics.golden_verdict(side)
        if golden is not None and not golden.passed:
            return f"{whose} failed the golden check on the device"
    if not same_device(data, base):
        return f"measured on another device than the baseline ({base.run.device.name})"
    if test not in base_samples:
        return f"the baseline has no {test.name} with {test.threads} threads"
    return None


def _difference(row: int, measured: Sequence[Sample], base: Sequence[Sample], data: RunData, other: RunData) -> _Judged:
    same_session = data.run.session == other.run.session
    pairs = paired_values(measured, base, same_session=same_session)
    evidence = lowered_limits([other, data], measured[0].test.threads)
    if (governor := sameness.other_governor(data, other)) is not None:
        evidence = [*evidence, governor]
    if pairs is not None and len(pairs[0]) >= statistics.MIN_SAMPLES:
        values, others = pairs
        return _Judged(row, statistics.compare_paired(values, others), values, others, "in turn", evidence)
    values = [sample.tok_s for sample in measured]
    others = [sample.tok_s for sample in base]
    pairing: Pairing = "not measured in turn"
    if same_session:
        pairing = "same session, not in turn" if pairs is None else "in turn"
    allowance = 0.0 if pairing == "in turn" else statistics.SESSION_ALLOWANCE
    difference = statistics.compare_unpaired(values, others, allowance)
    doubtful = () if pairing == "in turn" else _doubtful(measured, base, data, other)
    return _Judged(row, difference, values, others, pairing, evidence, doubtful)


def _doubtful(
    measured: Sequence[Sample], base: Sequence[Sample], data: RunData, other: RunData
) -> tuple[statistics.Verdict, ...]:
    """What a device that was throttled between two runs would look like, unless it told its clock in both."""
    mine, theirs = (
        [(run.run.created_at, sample.position) for sample in samples]
        if data.run.session != other.run.session
        else [("", sample.position) for sample in samples]
        for run, samples in ((data, measured), (other, base))
    )
    threads = measured[0].test.threads
    found: list[statistics.Verdict] = []
    if max(mine) > min(theirs) and not clock_stayed(other, data, threads):
        found.append("slower")
    if max(theirs) > min(mine) and not clock_stayed(data, other, threads):
        found.append("faster")
    return tuple(found)


def _ratio(entry: _Judged, corrected: float | None, comparisons: int) -> Ratio:
    difference = entry.difference
    facts = (difference, corrected, entry.values, entry.base, entry.evidence)
    verdict, reasons = statistics.judge(*facts, doubtful=entry.doubtful)
    otherwise = statistics.judge(*facts)[0] if entry.doubtful and verdict == "unstable" else verdict
    low_corrected, high_corrected = difference.interval(max(1, comparisons)) or (None, None)
    return Ratio(
        median=difference.ratio,
        low=difference.low,
        high=difference.high,
        low_corrected=low_corrected,
        high_corrected=high_corrected,
        verdict=verdict,
        reasons=reasons,
        p=difference.p,
        p_corrected=corrected,
        n=difference.n,
        paired=difference.paired,
        pairing=entry.pairing,
        unless_throttled=None if otherwise == verdict else otherwise,
    )


class _Whole:
    """What all tests of a run with as many threads share, looked for once."""

    def __init__(self, data: RunData) -> None:
        self._data = data
        self.loads = metrics.load_times(data)
        self.kernels = metrics.kernels_used(data)
        self._memory: dict[int, dict[str, Any]] = {}

    def memory(self, threads: int) -> dict[str, Any]:
        """The fields of a row that tell of memory."""
        if threads not in self._memory:
            peak = metrics.memory_peak(self._data, threads)
            self._memory[threads] = {
                "peak_memory_bytes": peak.peak if peak else None,
                "peak_anon_bytes": peak.anon if peak else None,
                "peak_file_bytes": peak.file if peak else None,
                "peak_pss_bytes": memory.peak_pss(self._data, threads),
                "memory": memory.split(self._data, threads),
                "memory_growth": memory.growth(self._data, threads),
            }
        return self._memory[threads]


def _row(data: RunData, whole: _Whole, label: str, test: Test, measured: Sequence[Sample], no_ratio: str | None) -> Row:
    bundle, run = data.bundle, data.run
    speeds = [sample.tok_s for sample in measured]
    summary = statistics.estimate(speeds)
    steps = [step for sample in measured for step in sample.token_ms]
    p50, p90, p99 = _percentiles(steps)
    loads, kernels = whole.loads, whole.kernels
    golden = metrics.golden_verdict(data)
    ttft = None
    if test.kind == "prefill" and test.depth == 0:
        ttft = plain.median(sample.seconds for sample in measured) * 1000
    return Row(
        run=run.id,
        session=run.session,
        label=label,
        model=bundle.model,
        size_bytes=bundle.size_bytes,
        parameters=bundle.architecture.parameters,
        backend=bundle.runtime.backend + ("+edgekit" if kernels else ""),
        kernels=list(kernels),
        threads=test.threads,
        test=test.name,
        kind=test.kind,
        tokens=test.tokens,
        depth=test.depth,
        median_tok_s=summary.median,
        low_tok_s=summary.low,
        high_tok_s=summary.high,
        mean_tok_s=summary.mean,
        stddev_tok_s=summary.stddev,
        samples=summary.n,
        samples_tok_s=speeds,
        recipe=bundle.recipe.name,
        runtime=bundle.runtime.name,
        runtime_version=bundle.runtime.version,
        device=run.device.name,
        fidelity=run.device.fidelity,
        bits_per_weight=bundle.recipe.bits_per_weight,
        kl_mean=bundle.gate.figures.kl_mean,
        same_top=bundle.gate.figures.same_top,
        perplexity=bundle.gate.figures.perplexity,
        perplexity_reference=bundle.gate.figures.perplexity_reference,
        faithful=bundle.gate.passed,
        golden_passed=None if golden is None else golden.passed,
        **whole.memory(test.threads),
        load_cold_s=_median(loads.cold),
        load_warm_s=_median(loads.warm),
        load_other_s=_median(loads.other),
        ttft_ms=ttft,
        token_p50_ms=p50,
        token_p90_ms=p90,
        token_p99_ms=p99,
        token_max_ms=max(steps, default=None),
        unstable=statistics.stability(speeds).reasons,
        ratio=None,
        no_ratio=no_ratio,
    )


def _median(values: Sequence[float]) -> float | None:
    return plain.median(values) if values else None


def _percentiles(steps: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """50th, 90th and 99th percentile, linear between neighbours."""
    if not steps:
        return None, None, None
    ordered = sorted(steps)

    def at(share: float) -> float:
        below, part = divmod(share * (len(ordered) - 1), 1)
        first = ordered[int(below)]
        return first + part * (ordered[min(int(below) + 1, len(ordered) - 1)] - first)

    return at(0.50), at(0.90), at(0.99)
