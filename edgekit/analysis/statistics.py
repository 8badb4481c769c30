"""Medians, intervals and verdicts from few, noisy samples.

- A speed is summed up by its median and a 95% interval. The bootstrap distribution of a median
  lies on the samples themselves, so its percentile interval ends at two of them; which two is
  calibrated so that the interval holds the true median in at least 95% of cases whatever the
  distribution (uncalibrated it is 87% at 7 samples). With fewer than six samples it is their
  range: that holds the true median in 75% of cases at 3 samples, 88% at 4, 94% at 5.
- A difference is a ratio of speeds. Measured in turn, the two samples of a round form a
  pair, and the ratio is the median of the rounds' ratios; otherwise it is the ratio of medians.
- Whether it is a difference is tested on logarithms by Student's t of Huber's estimate of the
  centre (:mod:`edgekit.analysis.robust`; below seven samples, of the mean), paired or of two samples
  after Welch, so that one stalled launch neither makes nor hides a difference. The ratio's interval
  comes from the same test: it leaves out 1 exactly where the test finds a difference. p values are
  corrected after Holm (1979) for the number of comparisons, intervals on request after Bonferroni.
  Runs that were not measured in turn must differ by more than ``SESSION_ALLOWANCE``.
- Launches in turn on a device with two modes are compared mode by mode (:mod:`edgekit.analysis.modes`).
- What drifts, throttles, falls into clusters or scatters too much is called unstable, with the reason, unless the
  two are further apart than either moved; throttled ones always are.

Everything is deterministic.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal, get_args

from edgekit.analysis.distributions import heads, student_p, student_quantile
from edgekit.analysis.modes import Modes, find_modes
from edgekit.analysis.robust import MIN_ROBUST, Centre, centre
from edgekit.analysis.stability import (
    MIN_SAMPLES,
    Stability,
    changed_at_the_edge,
    find_clusters,
    session_fall,
    squares,
    stability,
)

__all__ = ["MIN_SAMPLES", "Stability", "stability"]

Verdict = Literal["faster", "slower", "no difference shown", "unstable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

CONFIDENCE = 0.95
#: Runs that were not measured in turn differ by this much without a cause in the bundles: the device was warmer,
#: another process ran, memory came to lie elsewhere. Nothing inside the runs tells such a shift from a difference.
SESSION_ALLOWANCE = 0.03
#: Where fewer samples follow each other, their correlation is not estimated.
_MIN_CORRELATED = 8
_MAX_CORRELATION = 0.8


@dataclass(frozen=True)
class Estimate:
    """Median of ``n`` samples with its interval; ``low`` and ``high`` are None below three samples."""

    median: float
    low: float | None
    high: float | None
    mean: float
    #: Sample standard deviation; 0 for one sample.
    stddev: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Speed of one over speed of the other; ``n`` are the rounds, or the samples of the smaller side."""

    ratio: float
    low: float | None
    high: float | None
    #: Two-sided, not corrected; None below three samples.
    p: float | None
    n: int
    paired: bool
    #: Centre, standard error and degrees of freedom of the test on logarithms.
    centre: float = 0.0
    error: float = 0.0
    freedom: float = 1.0
    #: The device's modes, where the pairs were put right for them, and the step between them that the pairs told.
    modes: Modes | None = None
    step: float = 0.0

    def interval(self, comparisons: int = 1) -> tuple[float, float] | None:
        """The ratio's interval; those of so many comparisons then hold together in 95% of cases (Bonferroni)."""
        if self.p is None:
            return None
        half = student_quantile((1 - CONFIDENCE) / comparisons, round(self.freedom, 6)) * self.error
        # The median of a skewed sample can lie outside the interval of its centre, which would confuse.
        return min(math.exp(self.centre - half), self.ratio), max(math.exp(self.centre + half), self.ratio)


def estimate(values: Sequence[float]) -> Estimate:
    """Median and interval of at least one value."""
    median = statistics.median(values)
    mean = math.fsum(values) / len(values)
    stddev = math.sqrt(squares(values) / (len(values) - 1)) if len(values) > 1 else 0.0
    if len(values) < MIN_SAMPLES:
        return Estimate(median, None, None, mean, stddev, len(values))
    low, high = median_interval(values)
    return Estimate(median, low, high, mean, stddev, len(values))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest percentile interval of the bootstrapped median that holds the true one in 95% of cases.

    The median lies below the k-th smallest of n values with the probability of fewer than k
    heads in n tosses. Where even the range does not reach 95% (n < 6), it is the range.
    """
    ordered = sorted(values)
    rank = _rank(len(ordered))
    return ordered[rank], ordered[-1 - rank]


@lru_cache(maxsize=1024)
def _rank(n: int) -> int:
    tail = (1 - CONFIDENCE) / 2
    rank = max(0, int(n / 2 - 2 * math.sqrt(n)))
    while heads(rank + 1, n) <= tail:
        rank += 1
    return rank


def compare_unpaired(values: Sequence[float], base: Sequence[float], allowance: float = 0.0) -> Difference:
    """Ratio of medians of two independent sets of positive values, each in the order of measuring.

    ``allowance`` is a share by which the two may differ without a cause that matters: only
    what goes beyond it is tested.
    """
    ratio = statistics.median(values) / statistics.median(base)
    n = min(len(values), len(base))
    if n < MIN_SAMPLES:
        return Difference(ratio, None, None, None, n, paired=False)
    (one, error), (other, other_error) = _side(tuple(values)), _side(tuple(base))
    total = error**2 + other_error**2
    freedom = total**2 / (error**4 / one.freedom + other_error**4 / other.freedom) if total > 0 else one.freedom
    found = Centre(one.value - other.value, math.sqrt(total), freedom)
    return _difference(ratio, found, n, paired=False, allowance=allowance)


@lru_cache(maxsize=256)
def _side(values: tuple[float, ...]) -> tuple[Centre, float]:
    """Centre of one side's logarithms, and its error; a baseline is asked for once for every run beside it."""
    logs = [math.log(value) for value in values]
    found = centre(logs)
    # Neighbours in time are alike on a device that warms and cools: so many samples are worth fewer.
    return found, found.error * _inflation(logs)


def compare_paired(values: Sequence[float], base: Sequence[float]) -> Difference:
    """Median of the pairs' ratios; entry ``i`` of both comes from one round. Put right for the device's modes."""
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    n = len(ratios)
    if n < MIN_SAMPLES:
        return Difference(statistics.median(ratios), None, None, None, n, paired=True)
    modes = find_modes(values, base) if n >= MIN_ROBUST else None
    logs = [math.log(value) for value in ratios]
    found = centre(logs, modes.shifts, modes.step) if modes is not None else centre(logs)
    # Without a pair of one fast and one slow launch there is nothing to put right, and no step to be told by pairs.
    step = found.slope if modes is not None and any(modes.shifts) else modes.step if modes is not None else 0.0
    if modes is not None:
        ratios = modes.put_right(ratios, step)
    return _difference(statistics.median(ratios), found, n, paired=True, modes=modes, step=step)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; entries keep their places."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [1.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def judge(
    difference: Difference,
    corrected_p: float | None,
    values: Sequence[float],
    base: Sequence[float],
    evidence: Sequence[str] = (),
    *,
    doubtful: Collection[Verdict] = (),
) -> tuple[Verdict, list[str]]:
    """The verdict on a difference and, where it is ``unstable``, why; else what is to be known of it.

    Args:
        difference: of ``values`` over ``base``.
        corrected_p: its p value after :func:`holm`.
        values, base: the samples in order; of equal length and by round if the difference is paired.
        evidence: what the device itself reported that forbids a verdict (it was throttled).
        doubtful: what a device that was throttled between the two would look like: ``slower`` where ``values`` were
            measured later. Such a verdict is not given. Empty if the two were measured in turn, or the device
            told that its clock stayed.
    """
    if corrected_p is None or difference.p is None:
        return "unstable", [f"too few samples: {difference.n}, a verdict needs {MIN_SAMPLES}"]
    if evidence:
        return "unstable", list(evidence)
    found = _in_turn(difference, values, base) if difference.paired else _not_in_turn(values, base)
    clear = corrected_p < 1 - CONFIDENCE
    state, reasons = found.state, list(found.state.reasons)
    if state.throttled or ((state.drifts or state.clusters) and not (clear and found.wide)):
        return "unstable", reasons
    if state.scatters and not (clear and found.apart):
        return "unstable", reasons
    if not clear:
        return "no difference shown", reasons
    verdict: Verdict = "faster" if difference.ratio > 1 else "slower"
    if verdict in doubtful:
        return "unstable", [
            "what was measured later is slower: so it is where the device was throttled in between, and nothing tells "
            "its clock; measure the two in turn"
        ]
    return verdict, reasons


@dataclass(frozen=True)
class _Found:
    """The state of what was measured; whether its sides are apart, and further than either moved."""

    state: Stability
    apart: bool
    wide: bool


def _in_turn(difference: Difference, values: Sequence[float], base: Sequence[float]) -> _Found:
    # What both share cancels in the rounds' ratios, so only theirs counts; but a throttled device does not pass.
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    modes = difference.modes
    if modes is None:
        sides = [stability(values), stability(base)]
        fallen = session_fall(values, base)
        thrown = [fallen] if fallen else [reason for side in sides if side.throttled for reason in side.reasons]
        clustered = [reason for side in sides if side.clusters for reason in side.reasons]
        noted = []
    else:
        ratios = modes.put_right(ratios, difference.step)
        fallen = modes.in_time() or session_fall(values, base, modes.levels)
        thrown = [fallen] if fallen else []
        uneven = modes.uneven()
        clustered = [uneven] if uneven else []
        noted = [modes.text(difference.step)]
    state = own = stability(ratios)
    if thrown:
        state = Stability(throttled=True, reasons=thrown)
    elif clustered and (modes is not None or not state.stable):
        # A ratio of clusters has more than two clusters; its sides say it better.
        state = Stability(clusters=True, reasons=clustered)
    else:
        state = replace(state, reasons=[*noted, *state.reasons])
    low, high = math.log(min(ratios)), math.log(max(ratios))
    nearest = max(low, -high)
    # Two modes that show on a side move it by the step between them and no further; what drifts has no such bound.
    bounded = state.clusters and modes is None and not own.drifts
    step = math.fsum(_step(side) for side in (values, base)) if bounded else 0.0
    return _Found(state, nearest > 0, nearest > (step or high - low))


def _step(values: Sequence[float]) -> float:
    """Logarithm of the ratio between the two clusters of samples, 0 where there are none."""
    clusters = find_clusters(values)
    return math.log(statistics.median(clusters[1]) / statistics.median(clusters[0])) if clusters else 0.0


def _not_in_turn(values: Sequence[float], base: Sequence[float]) -> _Found:
    edge = changed_at_the_edge(values, base)
    if edge is not None:
        state = Stability(throttled=True, reasons=[edge])
    else:
        sides = [stability(values), stability(base)]
        state = Stability(
            drifts=any(side.drifts for side in sides),
            scatters=any(side.scatters for side in sides),
            throttled=any(side.throttled for side in sides),
            clusters=any(side.clusters for side in sides),
            reasons=[reason for side in sides for reason in side.reasons],
        )
    gap = math.log(max(min(values) / max(base), min(base) / max(values)))
    width = math.log(max(max(side) / min(side) for side in (values, base)))
    return _Found(state, gap > 0, gap > width)


def _difference(
    ratio: float,
    found: Centre,
    n: int,
    *,
    paired: bool,
    allowance: float = 0.0,
    modes: Modes | None = None,
    step: float = 0.0,
) -> Difference:
    beyond = max(0.0, abs(found.value) - math.log1p(allowance))
    p = student_p(beyond / found.error, found.freedom) if found.error > 0 else float(beyond == 0)
    made = Difference(ratio, None, None, p, n, paired, found.value, found.error, found.freedom, modes, step)
    low, high = made.interval() or (None, None)
    return replace(made, low=low, high=high)


def _inflation(values: Sequence[float]) -> float:
    """Factor on the standard error for samples that resemble the one before (first-order autoregression)."""
    if len(values) < _MIN_CORRELATED:
        return 1.0
    middle = statistics.median(values)
    spread = 3 * statistics.median(abs(value - middle) for value in values)
    # One outlier would hide the resemblance of the rest.
    steps = [max(-spread, min(spread, value - middle)) for value in values]
    total = sum(step * step for step in steps)
    if total == 0:
        return 1.0
    found = sum(one * other for one, other in pairwise(steps)) / total
    correlation = min(_MAX_CORRELATION, max(0.0, found))
    return math.sqrt((1 + correlation) / (1 - correlation))
