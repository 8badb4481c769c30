"""Medians, intervals and verdicts from few, noisy samples.

- A speed is summed up by its median and a 95% interval. The bootstrap distribution of a median
  lies on the samples themselves, so its percentile interval ends at two of them; which two is
  calibrated so that the interval holds the true median in at least 95% of cases whatever the
  distribution (uncalibrated it is 87% at 7 samples). With fewer than six samples it is their
  range: that holds the true median in 75% of cases at 3 samples, 88% at 4, 94% at 5.
- A difference is a ratio of speeds. Measured in turn, the two samples of a round form a
  pair, and the ratio is the median of the rounds' ratios; otherwise it is the ratio of medians.
- Whether it is a difference is tested on logarithms, with the fastest and slowest fifth trimmed
  (Yuen's t test, paired or of two samples; below seven samples nothing is trimmed), so that one
  stalled launch neither makes nor hides a difference. The ratio's interval comes from the same
  test: it leaves out 1 exactly where the test finds a difference. p values are corrected after
  Holm for the number of comparisons, intervals on request after Bonferroni. Runs that were not
  measured in turn must differ by more than ``SESSION_ALLOWANCE``.
- What drifts, throttles, falls into clusters or scatters too much is called unstable, with the reason.

Everything is deterministic.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, get_args

from edgekit.analysis.distributions import heads, student_p, student_quantile
from edgekit.analysis.stability import (
    MIN_SAMPLES,
    Stability,
    changed_at_the_edge,
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
#: Share trimmed from each end before a test, from ``_MIN_TRIMMED`` samples on.
TRIMMED = 0.2
_MIN_TRIMMED = 7
#: With few samples kept Yuen's test calls 5.8% of equal pairs different, and 1.2% at a level of 0.8%. Widening the
#: error by this over the number kept holds both levels from 7 to 30 samples, also on devices that wander.
_TRIMMED_WIDER = 0.75
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

    def interval(self, comparisons: int = 1) -> tuple[float, float] | None:
        """The ratio's interval; those of so many comparisons then hold together in 95% of cases (Bonferroni)."""
        if self.p is None:
            return None
        half = student_quantile((1 - CONFIDENCE) / comparisons, round(self.freedom, 6)) * self.error
        # The median of a skewed sample can lie outside its trimmed mean's interval, which would confuse.
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
    sides = [[math.log(value) for value in side] for side in (values, base)]
    (centre, error, freedom), (other, other_error, other_freedom) = (_trimmed(side) for side in sides)
    # Neighbours in time are alike on a device that warms and cools: so many samples are worth fewer.
    error, other_error = error * _inflation(sides[0]), other_error * _inflation(sides[1])
    total = error**2 + other_error**2
    if total > 0:
        freedom = total**2 / (error**4 / freedom + other_error**4 / other_freedom)
    return _difference(ratio, centre - other, math.sqrt(total), freedom, n, paired=False, allowance=allowance)


def compare_paired(values: Sequence[float], base: Sequence[float]) -> Difference:
    """Median of the pairs' ratios; entry ``i`` of both comes from one round."""
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    ratio = statistics.median(ratios)
    if len(ratios) < MIN_SAMPLES:
        return Difference(ratio, None, None, None, len(ratios), paired=True)
    centre, error, freedom = _trimmed([math.log(value) for value in ratios])
    return _difference(ratio, centre, error, freedom, len(ratios), paired=True)


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
) -> tuple[Verdict, list[str]]:
    """The verdict on a difference and, where it is ``unstable``, why.

    Args:
        difference: of ``values`` over ``base``.
        corrected_p: its p value after :func:`holm`.
        values, base: the samples in order; of equal length and by round if the difference is paired.
        evidence: what the device itself reported that forbids a verdict (it was throttled).
    """
    if corrected_p is None or difference.p is None:
        return "unstable", [f"too few samples: {difference.n}, a verdict needs {MIN_SAMPLES}"]
    if evidence:
        return "unstable", list(evidence)
    if difference.paired:
        # What both share cancels in the rounds' ratios, so only theirs counts; but a throttled device does not pass.
        ratios = [value / other for value, other in zip(values, base, strict=True)]
        fallen = session_fall(values, base)
        sides = [stability(values), stability(base)]
        thrown = [reason for side in sides if side.throttled for reason in side.reasons]
        if fallen or thrown:
            return "unstable", [fallen] if fallen else thrown
        found = [stability(ratios)]
        # A ratio of clusters has more than two clusters; its sides say it better.
        clustered = [reason for side in sides if side.clusters for reason in side.reasons]
        if clustered and not found[0].stable:
            return "unstable", clustered
        apart = min(ratios) > 1 or max(ratios) < 1
    else:
        found = [stability(values), stability(base)]
        edge = changed_at_the_edge(values, base)
        if edge is not None:
            return "unstable", [edge]
        apart = min(values) > max(base) or max(values) < min(base)
    reasons = [reason for entry in found for reason in entry.reasons]
    clear = corrected_p < 1 - CONFIDENCE
    if any(entry.drifts or entry.throttled or entry.clusters for entry in found):
        return "unstable", reasons
    if any(entry.scatters for entry in found) and not (clear and apart):
        return "unstable", reasons
    if not clear:
        return "no difference shown", []
    return ("faster" if difference.ratio > 1 else "slower"), []


def _difference(
    ratio: float, centre: float, error: float, freedom: float, n: int, *, paired: bool, allowance: float = 0.0
) -> Difference:
    beyond = max(0.0, abs(centre) - math.log1p(allowance))
    p = student_p(beyond / error, freedom) if error > 0 else float(beyond == 0)
    made = Difference(ratio, None, None, p, n, paired, centre, error, freedom)
    low, high = made.interval() or (None, None)
    return Difference(ratio, low, high, p, n, paired, centre, error, freedom)


def _trimmed(values: Sequence[float]) -> tuple[float, float, float]:
    """Trimmed mean, its standard error from the winsorized variance, and degrees of freedom (Yuen 1974)."""
    n = len(values)
    cut = int(TRIMMED * n) if n >= _MIN_TRIMMED else 0
    ordered = sorted(values)
    kept = ordered[cut : n - cut]
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    held = len(kept)
    error = math.sqrt(squares(winsorized) / (held * (held - 1)))
    if cut:
        error *= 1 + _TRIMMED_WIDER / held
    return math.fsum(kept) / held, error, held - 1


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
