"""Claims 6, 7 and 8: what quantization does to prefill and decode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.analysis.survey.evidence import Evidence, Phase, Timing, by_cell, shared_rounds
from edgekit.analysis.survey.judging import Examined, Hypothesis
from edgekit.analysis.survey.testing import over_rounds, slope

#: From here on a format is a float.
FLOAT_BITS = 16
REGULAR_BITS = (4, 8)
IRREGULAR_BITS = (3, 5, 6)


@dataclass(frozen=True)
class _SpeedUp:
    """One test of one model, unquantized and quantized."""

    base: Timing
    quantized: Timing

    def log(self, rounds: Sequence[int]) -> float:
        """Mean over rounds of log(time unquantized over time quantized)."""
        return sum(math.log(self.base.seconds[r] / self.quantized.seconds[r]) for r in rounds) / len(rounds)


def decode_gains_more(evidence: Evidence) -> Examined:
    """Claim 6: speed-up of decode over speed-up of prefill by quantization, mean of models and tests, above one."""
    found = _speed_ups(evidence)
    hypotheses, notes = [], []
    for recipe, pairs in found.items():
        models = sorted(
            {pair.base.subject.shape.name for pair in pairs if pair.base.phase == "decode"}
            & {pair.base.subject.shape.name for pair in pairs if pair.base.phase == "prefill"}
        )
        used = [pair for pair in pairs if pair.base.subject.shape.name in models]
        rounds = _rounds(used)
        if not rounds:
            continue

        def more(kept: Sequence[int], used: list[_SpeedUp] = used) -> float:
            return _mean(used, "decode", kept) - _mean(used, "prefill", kept)

        what = f"{recipe}: speed-up of decode over that of prefill, {_models(models)}"
        hypotheses.append(Hypothesis(what, over_rounds(more, rounds), "greater", "x"))
        gains = [f"{phase} {math.exp(_mean(used, phase, rounds)):.2f} times" for phase in ("prefill", "decode")]
        notes.append(f"{recipe} against {used[0].base.subject.recipe}: {', '.join(gains)}")
    return Examined(hypotheses, missing=None if hypotheses else _NO_PAIR, notes=notes)


def regular_widths_win(evidence: Evidence) -> Examined:
    """Claim 7: time of a 3-, 5- or 6-bit format over that of regular ones, above one.

    A width between 4 and 8 bits is held against the line between them (log time over bits), 3 bits against 4.
    """
    times: dict[tuple[object, ...], dict[float, Timing]] = {}
    for cell, timings in by_cell(evidence.timings).items():
        for timing in timings:
            key = (cell, timing.subject.shape.name, timing.phase, timing.tokens, timing.depth)
            times.setdefault(key, {})[timing.subject.bits] = timing
    hypotheses = []
    for bits in IRREGULAR_BITS:
        sets = [found for found in times.values() if bits in found and all(width in found for width in REGULAR_BITS)]
        rounds = shared_rounds([found[width] for found in sets for width in (bits, *REGULAR_BITS)])
        if not sets or not rounds:
            continue

        def excess(kept: Sequence[int], sets: list[dict[float, Timing]] = sets, bits: int = bits) -> float:
            return sum(_excess(found, bits, number) for found in sets for number in kept) / len(sets) / len(kept)

        against = "4 bits" if bits < min(REGULAR_BITS) else "the line from 4 to 8 bits"
        name = sets[0][bits].subject.recipe
        what = f"{name} ({bits} bits): time over {against}, mean of {len(sets)} tests"
        hypotheses.append(Hypothesis(what, over_rounds(excess, rounds), "greater", "x"))
    missing = "no recipe stores weights in 3, 5 or 6 bits"
    return Examined(hypotheses, missing=None if hypotheses else evidence.gaps.get(7, missing))


def prefill_gain_shrinks(evidence: Evidence) -> Examined:
    """Claim 8: factor by which the speed-up of prefill changes when the prompt doubles, below one (least squares)."""
    hypotheses, notes = [], []
    for recipe, pairs in _speed_ups(evidence).items():
        by_model: dict[str, dict[int, _SpeedUp]] = {}
        for pair in pairs:
            if pair.base.phase == "prefill" and pair.base.depth == 0:
                by_model.setdefault(pair.base.subject.shape.name, {})[pair.base.tokens] = pair
        curves = [curve for _, curve in sorted(by_model.items()) if len(curve) > 1]
        rounds = _rounds([pair for curve in curves for pair in curve.values()])
        if not rounds:
            continue

        def per_doubling(kept: Sequence[int], curves: list[dict[int, _SpeedUp]] = curves) -> float:
            slopes = [
                slope([math.log2(tokens) for tokens in curve], [pair.log(kept) for pair in curve.values()])
                for curve in curves
            ]
            return sum(slopes) / len(slopes)

        lengths = sorted({tokens for curve in curves for tokens in curve})
        names = sorted(name for name, curve in by_model.items() if len(curve) > 1)
        what = f"{recipe}: speed-up of prefill for each doubling of the prompt, {_models(names)}"
        hypotheses.append(Hypothesis(what, over_rounds(per_doubling, rounds), "less", "x"))
        gains = []
        for tokens in (lengths[0], lengths[-1]):
            here = [curve[tokens] for curve in curves if tokens in curve]
            gains.append(f"{math.exp(_mean(here, 'prefill', rounds)):.2f} times at {tokens} tokens")
        notes.append(f"{recipe}: {', '.join(gains)}")
    if hypotheses:
        return Examined(hypotheses, notes=notes)
    return Examined(missing=f"{_NO_PAIR}, at two prompt lengths")


_NO_PAIR = "no model was measured in turn both quantized and not"


def _speed_ups(evidence: Evidence) -> dict[str, list[_SpeedUp]]:
    """By quantized recipe: each test that was measured with it and, in turn, with the widest unquantized recipe."""
    found: dict[str, list[_SpeedUp]] = {}
    for timings in by_cell(evidence.timings).values():
        tests: dict[tuple[str, Phase, int, int], list[Timing]] = {}
        for timing in timings:
            tests.setdefault((timing.subject.shape.name, timing.phase, timing.tokens, timing.depth), []).append(timing)
        for same in tests.values():
            base = max(same, key=lambda timing: timing.subject.bits)
            if base.subject.bits < FLOAT_BITS:
                continue
            for timing in same:
                if timing.subject.bits < FLOAT_BITS:
                    found.setdefault(timing.subject.recipe, []).append(_SpeedUp(base, timing))
    return dict(sorted(found.items()))


def _rounds(pairs: Sequence[_SpeedUp]) -> list[int]:
    return shared_rounds([timing for pair in pairs for timing in (pair.base, pair.quantized)])


def _mean(pairs: Sequence[_SpeedUp], phase: Phase, rounds: Sequence[int]) -> float:
    values = [pair.log(rounds) for pair in pairs if pair.base.phase == phase]
    return sum(values) / len(values)


def _excess(found: dict[float, Timing], bits: int, number: int) -> float:
    low, high = REGULAR_BITS
    here, four, eight = (math.log(found[width].seconds[number]) for width in (bits, low, high))
    return here - (four if bits < low else four + (eight - four) * (bits - low) / (high - low))


def _models(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} models"
