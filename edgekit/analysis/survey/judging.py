"""From hypotheses to verdicts: corrected for their number, decided by rules that are stated here.

A hypothesis is *supported* when its effect lies on the claimed side, with a p value below 5% after Holm's correction
over all hypotheses of the survey and an interval that leaves out the edge; *contradicted* when the same holds for the
other side, or when the interval shows an effect smaller than what would matter (``margin``); else *not shown*.
A claim is supported when each of its parts is, contradicted when one is, else not shown. A part is one hypothesis,
or several of one ``part`` of which one suffices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import msgspec

from edgekit.analysis.statistics import CONFIDENCE, holm
from edgekit.analysis.survey.testing import Effect
from edgekit.schema.codec import Document

Verdict = Literal["supported", "contradicted", "not shown"]
#: How a figure is read: a factor (of times, shown as such), a share, a rank correlation, or a plain number.
Unit = Literal["x", "share", "correlation", "R²", "bytes"]


#: More parts than these are counted, not named.
_NAMED = 2


@dataclass(frozen=True)
class Hypothesis:
    """One testable part of a claim. A figure in ``x`` is the logarithm of a factor until it is shown."""

    what: str
    effect: Effect
    claim: Literal["greater", "less", "different"]
    unit: Unit
    null: float = 0.0
    #: An effect nearer to ``null`` than this does not matter.
    margin: float = 0.0
    part: str | None = None


@dataclass(frozen=True)
class Examined:
    """What a claim's function found: hypotheses, or why there are none."""

    hypotheses: Sequence[Hypothesis] = ()
    missing: str | None = None
    notes: Sequence[str] = field(default_factory=tuple)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of a claim with its verdict. ``x``: a factor; interval of 95%, not corrected."""

    what: str
    value: float
    low: float | None
    high: float | None
    unit: Unit
    #: The claim says the value is on this side of ``edge``.
    claim: Literal["greater", "less", "different"]
    edge: float
    p: float | None
    p_corrected: float | None
    n: int
    over: str
    verdict: Verdict


class ClaimResult(msgspec.Struct, frozen=True, kw_only=True):
    """One of the twelve claims."""

    number: int
    claim: str
    #: The test, in words.
    test: str
    verdict: Verdict
    #: Why it is not shown, or which part contradicts.
    reason: str | None
    figures: list[Figure]
    notes: list[str]


class SurveyResult(Document, frozen=True, kw_only=True):
    """All claims on one source."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "survey result"

    title: str
    device: str
    #: Hypotheses with a p value: the family that Holm's correction covers.
    comparisons: int
    claims: list[ClaimResult]
    faults: list[str]


def judge_all(
    claims: Mapping[int, tuple[str, str, Examined]], *, title: str, device: str, faults: Sequence[str]
) -> SurveyResult:
    """Verdicts of all claims: their numbers with text, test and what was found."""
    tested = [
        (number, index, hypothesis.effect.p)
        for number, (_, _, examined) in claims.items()
        for index, hypothesis in enumerate(examined.hypotheses)
        if hypothesis.effect.p is not None
    ]
    corrected = holm([p for _, _, p in tested])
    by_place = {(number, index): p for (number, index, _), p in zip(tested, corrected, strict=True)}
    return SurveyResult(
        schema_version=SurveyResult.SCHEMA_VERSION,
        title=title,
        device=device,
        comparisons=len(tested),
        claims=[
            _judge_claim(
                number,
                text,
                test,
                examined,
                [by_place.get((number, index)) for index in range(len(examined.hypotheses))],
            )
            for number, (text, test, examined) in claims.items()
        ],
        faults=list(faults),
    )


def verdict_of(hypothesis: Hypothesis, corrected: float | None) -> Verdict:
    """The verdict on one hypothesis, given its p value after the correction."""
    effect, null, margin = hypothesis.effect, hypothesis.null, hypothesis.margin
    if effect.low is None or effect.high is None or corrected is None:
        return "not shown"
    sure = corrected < 1 - CONFIDENCE
    above, below = sure and effect.low > null, sure and effect.high < null
    if hypothesis.claim == "different":
        if above or below:
            return "supported"
        return "contradicted" if margin and null - margin < effect.low and effect.high < null + margin else "not shown"
    right, wrong = (above, below) if hypothesis.claim == "greater" else (below, above)
    if right:
        return "supported"
    too_small = effect.high < null + margin if hypothesis.claim == "greater" else effect.low > null - margin
    return "contradicted" if wrong or (margin and too_small) else "not shown"


def _judge_claim(
    number: int, text: str, test: str, examined: Examined, corrected: Sequence[float | None]
) -> ClaimResult:
    verdicts = [verdict_of(item, p) for item, p in zip(examined.hypotheses, corrected, strict=True)]
    figures = [
        _figure(item, p, verdict) for item, p, verdict in zip(examined.hypotheses, corrected, verdicts, strict=True)
    ]
    verdict, reason = _overall(examined, verdicts)
    return ClaimResult(
        number=number,
        claim=text,
        test=test,
        verdict=verdict,
        reason=reason,
        figures=figures,
        notes=list(examined.notes),
    )


def _overall(examined: Examined, verdicts: Sequence[Verdict]) -> tuple[Verdict, str | None]:
    if not verdicts:
        return "not shown", examined.missing or "nothing of the kind was measured"
    parts: dict[str, list[Verdict]] = {}
    for item, verdict in zip(examined.hypotheses, verdicts, strict=True):
        parts.setdefault(item.part or item.what, []).append(verdict)
    against = [part for part, found in parts.items() if all(verdict == "contradicted" for verdict in found)]
    open_parts = [part for part, found in parts.items() if "supported" not in found and part not in against]
    if against:
        return "contradicted", f"by {'; '.join(against)}"
    if examined.missing:
        return "not shown", examined.missing
    if open_parts:
        single = all(item.effect.p is None for item in examined.hypotheses if (item.part or item.what) in open_parts)
        why = "without repetitions no difference has an interval" if single else "the intervals leave it open"
        which = "; ".join(open_parts) if len(open_parts) <= _NAMED else f"{len(open_parts)} of {len(parts)} parts"
        return "not shown", f"{why}: {which}"
    return "supported", None


def _figure(item: Hypothesis, corrected: float | None, verdict: Verdict) -> Figure:
    import math

    def shown(value: float) -> float:
        return math.exp(value) if item.unit == "x" else value

    effect = item.effect
    return Figure(
        what=item.what,
        value=shown(effect.value),
        low=None if effect.low is None else shown(effect.low),
        high=None if effect.high is None else shown(effect.high),
        unit=item.unit,
        claim=item.claim,
        edge=shown(item.null),
        p=effect.p,
        p_corrected=corrected,
        n=effect.n,
        over=effect.over,
        verdict=verdict,
    )
