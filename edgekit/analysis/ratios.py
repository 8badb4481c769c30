"""The ratio between a run and the baseline in one test: whether there is one, and what it is worth."""

from __future__ import annotations

import statistics as plain
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edgekit.analysis import sameness, statistics
from edgekit.analysis.comparison import Pairing, Ratio
from edgekit.analysis.facts import golden
from edgekit.analysis.limited import Clocks, clock_stayed, lowered_limits
from edgekit.analysis.load import RunData
from edgekit.analysis.metrics import Sample, Test


@dataclass(frozen=True)
class Pair:
    """A test of a run beside the baseline's: their difference, and all that its verdict rests on."""

    difference: statistics.Difference
    #: Speeds that are compared, tokens a second: of the run, and of the baseline.
    values: list[float]
    base: list[float]
    pairing: Pairing
    #: What the device itself reported that forbids a verdict.
    evidence: list[str]
    #: Verdicts that throttling between the two would look like.
    doubtful: tuple[statistics.Verdict, ...] = ()


def why_no_ratio(data: RunData, base: RunData, test: Test, tests: Collection[Test]) -> str | None:
    """Why there is no ratio between a run's test and the baseline's, which has ``tests``; None where there is one."""
    if data is base:
        return "baseline"
    for side, whose in ((data, "this run"), (base, "the baseline")):
        facts = side.run.device
        if facts.fidelity != "real":
            why = f" ({facts.fidelity_reason})" if facts.fidelity_reason else ""
            return f"{whose} is {facts.fidelity}{why}: its times say nothing about speed"
        if side.run.beside:
            return f"{whose} shared its machine with others that were measured at the same time"
        verdict = golden(side)
        if verdict is not None and not verdict.passed:
            return f"{whose} failed the golden check on the device"
    if not sameness.same_device(data, base):
        return f"measured on another device than the baseline ({base.run.device.name})"
    if test not in tests:
        return f"the baseline has no {test.name} with {test.threads} {'thread' if test.threads == 1 else 'threads'}"
    return None


def pair_of(
    measured: Sequence[Sample],
    base: Sequence[Sample],
    data: RunData,
    other: RunData,
    clocks: tuple[Clocks, Clocks],
) -> Pair:
    """Hold a test's samples against the baseline's.

    Args:
        measured: samples that count.
        base: those of the baseline.
        data: the run.
        other: the baseline.
        clocks: of the baseline and of the run.
    """
    same_session = data.run.session == other.run.session
    pairs = _paired_values(measured, base, same_session=same_session)
    evidence = lowered_limits(clocks)
    if (governor := sameness.other_governor(data, other)) is not None:
        evidence = [*evidence, governor]
    if pairs is not None and len(pairs[0]) >= statistics.MIN_SAMPLES:
        values, others = pairs
        return Pair(statistics.compare_paired(values, others), values, others, "in turn", evidence)
    values = [sample.tok_s for sample in measured]
    others = [sample.tok_s for sample in base]
    pairing: Pairing = "not measured in turn"
    if same_session:
        pairing = "same session, not in turn" if pairs is None else "in turn"
    allowance = 0.0 if pairing == "in turn" else statistics.SESSION_ALLOWANCE
    difference = statistics.compare_unpaired(values, others, allowance)
    doubtful = () if pairing == "in turn" else _doubtful(measured, base, data, other, clocks)
    return Pair(difference, values, others, pairing, evidence, doubtful)


def ratios(pairs: Sequence[Pair]) -> list[Ratio]:
    """The ratio of each pair, corrected for as many comparisons as all of them are."""
    tested = [place for place, entry in enumerate(pairs) if entry.difference.p is not None]
    p_values = [entry.difference.p for entry in pairs if entry.difference.p is not None]
    corrected = dict(zip(tested, statistics.holm(p_values), strict=True))
    return [_ratio(entry, corrected.get(place), len(tested)) for place, entry in enumerate(pairs)]


def _ratio(entry: Pair, corrected: float | None, comparisons: int) -> Ratio:
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


def _paired_values(
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


def _doubtful(
    measured: Sequence[Sample],
    base: Sequence[Sample],
    data: RunData,
    other: RunData,
    clocks: tuple[Clocks, Clocks],
) -> tuple[statistics.Verdict, ...]:
    """What a device that was throttled between two runs would look like, unless it told its clock in both."""
    mine, theirs = (
        [(run.run.created_at, sample.position) for sample in samples]
        if data.run.session != other.run.session
        else [("", sample.position) for sample in samples]
        for run, samples in ((data, measured), (other, base))
    )
    before, after = clocks
    found: list[statistics.Verdict] = []
    if max(mine) > min(theirs) and not clock_stayed(before, after):
        found.append("slower")
    if max(theirs) > min(mine) and not clock_stayed(after, before):
        found.append("faster")
    return tuple(found)
