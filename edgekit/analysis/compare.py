"""Comparing runs: every figure with its interval, every difference with its verdict."""

from __future__ import annotations

import statistics as plain
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from edgekit.analysis import sameness
from edgekit.analysis.causes import causes_of
from edgekit.analysis.comparison import Comparison, Row, SustainedLevel
from edgekit.analysis.energy import Energy, energies
from edgekit.analysis.facts import RunFacts, TestFacts, ThreadsFacts, facts_of
from edgekit.analysis.labels import labels
from edgekit.analysis.load import RunData
from edgekit.analysis.metrics import Sample, Test
from edgekit.analysis.power_meter import PlacedMeter
from edgekit.analysis.ratios import Pair, pair_of, ratios, why_no_ratio
from edgekit.analysis.roofline import roofline_of
from edgekit.analysis.sustained import Sustained
from edgekit.errors import InputError
from edgekit.schema.device_profile import DeviceProfile, Interval, measured_profiles, profile_of


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
        baseline: the run that ratios refer to, itself or its id or label; the first run that measured a speed
            when None.
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
    derived = [facts_of(data) for data in runs]
    base_index = _baseline_index(runs, names, baseline, derived)
    base, base_facts = runs[base_index], derived[base_index]
    base_samples, base_warmup = _split(base_facts)
    base_clocks = {entry.threads: entry.clocks for entry in base_facts.threads}

    known = measured_profiles() if profiles is None else profiles
    rows: list[Row] = []
    pairs: dict[int, Pair] = {}
    faults: list[str] = []
    levels: list[SustainedLevel] = []
    sessions: set[str] = set()
    for data, label, facts in zip(runs, names, derived, strict=True):
        faults += [f"{label}: {fault}" for fault in (*data.faults, *facts.dropped)]
        if facts.mixed_kernels:
            faults.append(f"{label}: {facts.mixed_kernels}")
        found, warming = (base_samples, base_warmup) if data is base else _split(facts)
        if data.run.session not in sessions:
            sessions.add(data.run.session)
            faults += [f"{label}: {text}" for text in _not_reached(data)]
        if data.run.profiled:
            faults.append(f"{label}: was profiled, so that its times are no speed")
        levels += [_level(entry, data, label) for entry in facts.sustained]
        if not data.run.profiled and not found and not facts.sustained:
            faults.append(f"{label}: no trial was measured")
        faults += [f"{label}: {text}" for text in _unlike(data, base, found, base_samples)]
        profile = profile_of(data.run.device, known)
        metered = energies(data, meter) if meter is not None else {}
        shared = {entry.threads: entry for entry in facts.threads}
        for entry in facts.tests:
            test, measured, whole = entry.test, found[entry.test], shared[entry.test.threads]
            reason = why_no_ratio(data, base, test, base_samples)
            if reason is None:
                clocks = base_clocks[test.threads], whole.clocks
                pairs[len(rows)] = pair_of(measured, base_samples[test], data, base, clocks)
            row = _row(data, facts, whole, label, entry, measured, reason)
            speed = Interval(median=row.median_tok_s, low=row.low_tok_s, high=row.high_tok_s)
            line = roofline_of(data, test, speed, profile)
            use = entry.usage
            causes = [] if use is None else causes_of(test, use, data.run.device, data.bundle, line, found)
            told = entry.energy if meter is None else metered.get(test)
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
    judged = ratios(list(pairs.values()))
    for place, ratio in zip(pairs, judged, strict=True):
        rows[place] = msgspec.structs.replace(rows[place], ratio=ratio)
    return Comparison(
        schema_version=Comparison.SCHEMA_VERSION,
        baseline=base.run.id,
        baseline_label=names[base_index],
        comparisons=sum(ratio.p is not None for ratio in judged),
        rows=rows,
        faults=faults,
        sustained=levels,
    )


def _split(facts: RunFacts) -> tuple[dict[Test, list[Sample]], dict[Test, list[float]]]:
    """The samples that count, and the speeds of those that were warm-up."""
    counted = {entry.test: [sample for sample in entry.samples if not sample.warmup] for entry in facts.tests}
    return counted, {entry.test: [sample.tok_s for sample in entry.samples if sample.warmup] for entry in facts.tests}


def _marks(measured: Sequence[Sample]) -> dict[str, int]:
    """How many of the samples carry each mark, the most frequent first."""
    return dict(Counter(mark for sample in measured for mark in sample.marks).most_common())


def _not_reached(data: RunData) -> list[str]:
    """That a session ended before its intervals were as narrow as was asked for."""
    asked, stopped = data.run.protocol.get("precision"), data.run.stopped
    if not isinstance(asked, float) or stopped is None or stopped.reason not in ("budget", "most repetitions"):
        return []
    return [f"the precision of {100 * asked:.3g}% that was asked for was not reached: {stopped.text}"]


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
    if data is base or not found or not sameness.same_device(data, base):
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


def _baseline_index(
    runs: Sequence[RunData], names: Sequence[str], baseline: RunData | str | None, derived: Sequence[RunFacts]
) -> int:
    if baseline is None:
        # A sustained run or one whose trials failed has no speeds that others could be held against.
        return next((index for index, facts in enumerate(derived) if facts.tests), 0)
    for index, (data, name) in enumerate(zip(runs, names, strict=True)):
        if data is baseline or baseline in (data.run.id, name, str(data.path), data.bundle.recipe.name):
            return index
    wanted = baseline if isinstance(baseline, str) else baseline.run.id
    raise InputError(
        f"compare: the baseline {wanted!r} is none of the runs",
        hint=f"runs: {', '.join(data.run.id for data in runs)}",
    )


def _row(
    data: RunData,
    facts: RunFacts,
    whole: ThreadsFacts,
    label: str,
    tested: TestFacts,
    measured: Sequence[Sample],
    no_ratio: str | None,
) -> Row:
    bundle, run, test = data.bundle, data.run, tested.test
    summary, peak, loads, verdict = tested.speed, whole.peak, facts.loads, facts.golden
    p50, p90, p99, longest = tested.token_ms
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
        backend=bundle.runtime.backend + ("+edgekit" if facts.kernels else ""),
        kernels=list(facts.kernels),
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
        samples_tok_s=[sample.tok_s for sample in measured],
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
        golden_passed=None if verdict is None else verdict.passed,
        peak_memory_bytes=peak.peak if peak else None,
        peak_anon_bytes=peak.anon if peak else None,
        peak_file_bytes=peak.file if peak else None,
        peak_pss_bytes=whole.peak_pss,
        memory=whole.split,
        memory_growth=whole.growth,
        load_cold_s=_median(loads.cold),
        load_warm_s=_median(loads.warm),
        load_other_s=_median(loads.other),
        ttft_ms=ttft,
        token_p50_ms=p50,
        token_p90_ms=p90,
        token_p99_ms=p99,
        token_max_ms=longest,
        unstable=tested.unstable,
        ratio=None,
        no_ratio=no_ratio,
    )


def _median(values: Sequence[float]) -> float | None:
    return plain.median(values) if values else None
