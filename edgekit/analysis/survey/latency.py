"""Claims 1 and 2: architecture and latency."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.analysis.survey.evidence import (
    Cell,
    Contrast,
    Evidence,
    Phase,
    Shape,
    Timing,
    alike,
    by_cell,
    one_size,
    shared_rounds,
)
from edgekit.analysis.survey.judging import Examined, Hypothesis
from edgekit.analysis.survey.testing import over_rounds

PHASES: tuple[Phase, Phase] = ("prefill", "decode")
#: The study's prompt; where another was measured the longest stands for it.
_PROMPT = 50
#: A change of latency below this matters to nobody.
MARGIN = math.log(1.02)
#: A spread needs this many models.
_MIN_SPREAD = 3


def prefill_more_sensitive(evidence: Evidence) -> Examined:
    """Claim 1: among models of one size, the spread of prefill times over that of decode times, above one.

    A spread is the standard deviation over models of log time per token, less what scatter between rounds adds to it.
    """
    best: tuple[Cell, str, dict[str, dict[Phase, Timing]]] | None = None
    for cell, timings in by_cell(evidence.timings).items():
        for recipe in sorted({timing.subject.recipe for timing in timings}):
            pairs = _tests_by_model([timing for timing in timings if timing.subject.recipe == recipe])
            chosen = one_size(_shape(pair) for pair in pairs.values())
            pairs = {shape.name: pairs[shape.name] for shape in chosen}
            if len(pairs) >= _MIN_SPREAD and (best is None or _weight(pairs) > _weight(best[2])):
                best = (cell, recipe, pairs)
    if best is None:
        return Examined(missing=f"no {_MIN_SPREAD} models of one size were measured in turn")
    cell, recipe, pairs = best
    series = {phase: [pair[phase] for pair in pairs.values()] for phase in PHASES}
    rounds = shared_rounds([*series["prefill"], *series["decode"]])
    if not rounds:
        return Examined(missing="no round has all models of one size")

    def ratio(kept: Sequence[int]) -> float:
        return math.log(_spread(series["prefill"], kept) / _spread(series["decode"], kept))

    what = f"spread of prefill over spread of decode, {len(pairs)} models of one size, {recipe}"
    notes = [f"models of one size: {', '.join(pairs)}"]
    for phase in PHASES:
        times = [_mean_log(timing, rounds) for timing in series[phase]]
        notes.append(f"{phase}: slowest {math.exp(max(times) - min(times)):.2f} times the fastest")
    return Examined([Hypothesis(what, over_rounds(ratio, rounds), "greater", "x")], notes=notes)


def shape_changes_latency(evidence: Evidence) -> Examined:
    """Claim 2: ratios of time per token within pairs of one size that differ in one property; none within 2% of one."""
    wanted = ("depth", "feed-forward ratio", "vocabulary", "sharing")
    hypotheses: list[Hypothesis] = []
    notes: list[str] = []
    for contrast in evidence.contrasts:
        if contrast.property == "attention":
            continue
        found = _contrast(evidence, contrast)
        if isinstance(found, str):
            notes.append(found)
        else:
            hypotheses += found
    absent = [name for name in wanted if not any(item.part == name for item in hypotheses)]
    missing = f"no pair of one size that differs only in {', '.join(absent)}" if absent else None
    return Examined(hypotheses, missing=missing, notes=notes)


def _contrast(evidence: Evidence, contrast: Contrast) -> list[Hypothesis] | str:
    name = f"{contrast.property}: {contrast.one} over {contrast.other}"
    best: list[tuple[str, dict[Phase, Timing], dict[Phase, Timing]]] = []
    for timings in by_cell(evidence.timings).values():
        for recipe in sorted({timing.subject.recipe for timing in timings}):
            pairs = _tests_by_model([timing for timing in timings if timing.subject.recipe == recipe])
            if contrast.one in pairs and contrast.other in pairs:
                best.append((recipe, pairs[contrast.one], pairs[contrast.other]))
    if not best:
        return f"{name}: not measured in turn"
    recipe, one, other = max(best, key=lambda entry: len(shared_rounds([*entry[1].values(), *entry[2].values()])))
    if not alike(_shape(one), _shape(other)):
        return f"{name}: not of one size"
    found = []
    for phase in PHASES:
        rounds = shared_rounds([one[phase], other[phase]])
        if not rounds:
            return f"{name}: no round has both"

        def ratio(kept: Sequence[int], phase: Phase = phase) -> float:
            return _mean_log(one[phase], kept) - _mean_log(other[phase], kept)

        found.append(
            Hypothesis(
                f"{name}, {phase}, {recipe}",
                over_rounds(ratio, rounds),
                "different",
                "x",
                margin=MARGIN,
                part=contrast.property,
            )
        )
    return found


def _tests_by_model(timings: Sequence[Timing]) -> dict[str, dict[Phase, Timing]]:
    """A prefill and a decode of each model that has both; the same tests for all."""
    chosen: dict[Phase, tuple[int, int]] = {}
    for phase in PHASES:
        tests = sorted({(timing.tokens, timing.depth) for timing in timings if timing.phase == phase})
        shallow = [test for test in tests if test[1] == min(test[1] for test in tests)]
        if not shallow:
            return {}
        chosen[phase] = next((test for test in shallow if test[0] == _PROMPT), shallow[-1])
    found: dict[str, dict[Phase, Timing]] = {}
    for timing in timings:
        if (timing.tokens, timing.depth) == chosen[timing.phase]:
            found.setdefault(timing.subject.shape.name, {})[timing.phase] = timing
    return {name: pair for name, pair in found.items() if len(pair) == len(PHASES)}


def _shape(pair: dict[Phase, Timing]) -> Shape:
    return pair["prefill"].subject.shape


def _weight(pairs: dict[str, dict[Phase, Timing]]) -> tuple[int, int]:
    every = [timing for pair in pairs.values() for timing in pair.values()]
    return len(pairs), len(shared_rounds(every))


def _mean_log(timing: Timing, rounds: Sequence[int]) -> float:
    return sum(math.log(timing.seconds[number]) for number in rounds) / len(rounds)


def _spread(series: Sequence[Timing], rounds: Sequence[int]) -> float:
    """Standard deviation over models, scatter between rounds taken out as far as it can be told."""
    means = [_mean_log(timing, rounds) for timing in series]
    middle = sum(means) / len(means)
    between = sum((mean - middle) ** 2 for mean in means) / (len(means) - 1)
    scatter = 0.0
    if len(rounds) > 1:
        for timing, mean in zip(series, means, strict=True):
            squares = sum((math.log(timing.seconds[number]) - mean) ** 2 for number in rounds)
            scatter += squares / (len(rounds) - 1) / len(rounds) / len(series)
    # A spread that scatter alone explains is as good as none; its logarithm must still exist.
    return math.sqrt(max(between - scatter, between * 1e-4, 1e-12))
