"""Claims 9 and 10: processors, and what they keep up."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit.analysis.survey.evidence import Evidence, Phase, Stamina, Timing, shared_rounds
from edgekit.analysis.survey.judging import Examined, Hypothesis
from edgekit.analysis.survey.testing import of_mean, over_rounds, slope

#: A loss of speed below this is no throttling.
MARGIN = math.log(1.02)

_Pair = tuple[Timing, Timing]


def gpu_gains_in_prefill(evidence: Evidence) -> Examined:
    """Claim 9: the GPU's speed-up of prefill over that of decode, and of prefill for each doubled prompt, above one."""
    kinds = {timing.subject.processor for timing in evidence.timings}
    if "gpu" not in kinds:
        return Examined(missing=evidence.gaps.get(9, "nothing was measured on a GPU"))
    if "cpu" not in kinds:
        return Examined(missing=evidence.gaps.get(9, "nothing was measured on the CPU beside the GPU"))
    pairs = _pairs(evidence.timings)
    phases = {pair[0].phase for pair in pairs}
    rounds = shared_rounds([timing for pair in pairs for timing in pair])
    if phases != {"prefill", "decode"} or not rounds:
        return Examined(missing="no model was measured in turn on both processors")

    def more(kept: Sequence[int]) -> float:
        return _gain(pairs, "prefill", kept) - _gain(pairs, "decode", kept)

    hypotheses = [
        Hypothesis("GPU's speed-up of prefill over that of decode", over_rounds(more, rounds), "greater", "x"),
    ]
    curves: dict[tuple[str, str], list[_Pair]] = {}
    for pair in pairs:
        if pair[0].phase == "prefill" and pair[0].depth == 0:
            curves.setdefault((pair[0].subject.shape.name, pair[0].subject.recipe), []).append(pair)
    long = [curve for curve in curves.values() if len(curve) > 1]
    if not long:
        return Examined(hypotheses, missing="prompts of one length only")

    def per_doubling(kept: Sequence[int]) -> float:
        slopes = [
            slope([math.log2(pair[0].tokens) for pair in curve], [_gain([pair], "prefill", kept) for pair in curve])
            for curve in long
        ]
        return sum(slopes) / len(slopes)

    what = "GPU's speed-up of prefill for each doubling of the prompt"
    hypotheses.append(Hypothesis(what, over_rounds(per_doubling, rounds), "greater", "x"))
    return Examined(hypotheses)


def sustained_work_throttles(evidence: Evidence) -> Examined:
    """Claim 10: speed that long runs settle at over that at their start, below one; at least 2% to matter."""
    if not evidence.stamina:
        return Examined(missing=evidence.gaps.get(10, "no long run was measured, or none settled"))
    values = [math.log(item.retained) for item in evidence.stamina]
    minutes = min(item.seconds for item in evidence.stamina) / 60
    what = f"speed settled at over speed at the start, {len(values)} runs of {minutes:.3g} min or more"
    effect = of_mean(values, 0.0, "long runs")
    return Examined([Hypothesis(what, effect, "less", "x", margin=MARGIN)], notes=_by_model(evidence.stamina))


def _by_model(runs: Sequence[Stamina]) -> list[str]:
    return [f"{run.subject.shape.name} {run.subject.recipe}: {run.retained:.0%} of the start" for run in runs]


def _pairs(timings: Sequence[Timing]) -> list[_Pair]:
    """The same test on the CPU and on the GPU, measured in turn."""
    places: dict[tuple[object, ...], dict[str, Timing]] = {}
    for timing in timings:
        subject = timing.subject
        key = (timing.group, subject.shape.name, subject.recipe, timing.phase, timing.tokens, timing.depth)
        places.setdefault(key, {})[subject.processor] = timing
    return [(found["cpu"], found["gpu"]) for found in places.values() if len(found) == 2]


def _gain(pairs: Sequence[_Pair], phase: Phase, rounds: Sequence[int]) -> float:
    values = [
        math.log(cpu.seconds[number] / gpu.seconds[number])
        for cpu, gpu in pairs
        if cpu.phase == phase
        for number in rounds
    ]
    return sum(values) / len(values)
