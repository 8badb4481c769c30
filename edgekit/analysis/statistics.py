"""Medians, intervals and verdicts from few, noisy samples.

- A speed is summed up by its median and the 95% interval between two order statistics, which
  holds for any distribution. With fewer than six samples it is their range: that holds the
  true median in 75% of cases at 3 samples, 88% at 4, 94% at 5. (A bootstrap of the median
  holds it in 87% at 7, 92% at 15: see :func:`median_interval`.)
- A difference is a ratio of speeds. Measured in turn, the two samples of a round form a
  pair, and the ratio is the median of the rounds' ratios; otherwise it is the ratio of medians
  with a percentile bootstrap interval.
- A difference is only called one if a t test of the logarithms finds it (paired, or Welch's),
  corrected after Holm for the number of comparisons, and the ratio's interval leaves out 1.
  The test guards against chance, the interval against a mean that one outlier moved.
- What drifts or scatters too much is called unstable instead, with the reason.

Everything is deterministic: resampling is seeded.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["faster", "slower", "no difference shown", "unstable", "too few samples"]

#: Below this nothing can be said about scatter.
MIN_SAMPLES = 3
CONFIDENCE = 0.95
#: Resamples: the interval's ends then vary by less than 2% of its width between seeds.
RESAMPLES = 2000
#: Relative scatter (robust standard deviation over median) above which samples are called unstable.
MAX_SCATTER = 0.10
#: Drift is reported when it is monotone beyond chance and exceeds this share of the median over the session.
MAX_DRIFT = 0.05
#: Five samples in strict order reach 2.45 and come about by chance in 1.7% of cases.
_MIN_DRIFT_Z = 2.2
#: Makes the median absolute deviation estimate a normal distribution's standard deviation.
_MAD_TO_SIGMA = 1.4826
_MAX_DRIFT_POINTS = 300
_SEED = 20260101


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


@dataclass(frozen=True)
class Stability:
    """Whether samples can carry a verdict; ``reasons`` are for people."""

    drifts: bool
    scatters: bool
    reasons: list[str] = field(default_factory=list)

    @property
    def stable(self) -> bool:
        """Neither drift nor scatter."""
        return not (self.drifts or self.scatters)


def estimate(values: Sequence[float]) -> Estimate:
    """Median and interval of at least one value."""
    median = statistics.median(values)
    mean = statistics.fmean(values)
    stddev = statistics.stdev(values) if len(values) > 1 else 0.0
    if len(values) < MIN_SAMPLES:
        return Estimate(median, None, None, mean, stddev, len(values))
    low, high = median_interval(values)
    return Estimate(median, low, high, mean, stddev, len(values))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of order statistics, alike from both ends, that holds the true median in 95% of cases.

    The median lies below the k-th smallest of n values with the probability of fewer than k
    heads in n tosses. Where even the range does not reach 95% (n < 6), it is the range.
    """
    from scipy.special import bdtr

    ordered = sorted(values)
    rank = 0
    while bdtr(rank + 1, len(ordered), 0.5) <= (1 - CONFIDENCE) / 2:
        rank += 1
    return ordered[rank], ordered[-1 - rank]


def compare_unpaired(values: Sequence[float], base: Sequence[float]) -> Difference:
    """Ratio of medians of two independent sets of positive values."""
    import numpy as np

    ratio = statistics.median(values) / statistics.median(base)
    n = min(len(values), len(base))
    if n < MIN_SAMPLES:
        return Difference(ratio, None, None, None, n, paired=False)
    low, high = _ends(_resampled_medians(values, _SEED) / _resampled_medians(base, _SEED + 1))
    return Difference(ratio, low, high, _welch_p(np.log(values), np.log(base)), n, paired=False)


def compare_paired(values: Sequence[float], base: Sequence[float]) -> Difference:
    """Median of the pairs' ratios; entry ``i`` of both comes from one round."""
    import numpy as np

    ratios = [value / other for value, other in zip(values, base, strict=True)]
    ratio = statistics.median(ratios)
    if len(ratios) < MIN_SAMPLES:
        return Difference(ratio, None, None, None, len(ratios), paired=True)
    low, high = median_interval(ratios)
    return Difference(ratio, low, high, _one_sample_p(np.log(ratios)), len(ratios), paired=True)


def stability(values: Sequence[float]) -> Stability:
    """Judge values in the order in which they were measured; too few values pass."""
    if len(values) < MIN_SAMPLES:
        return Stability(drifts=False, scatters=False)
    median = statistics.median(values)
    reasons = []
    scatter = _MAD_TO_SIGMA * statistics.median(abs(value - median) for value in values) / median
    scatters = scatter > MAX_SCATTER
    if scatters:
        reasons.append(f"samples scatter by {scatter:.0%}, limit {MAX_SCATTER:.0%}")
    change = _drift(values) / median
    drifts = abs(change) > MAX_DRIFT
    if drifts:
        reasons.append(f"speed {'rose' if change > 0 else 'fell'} by {abs(change):.0%} over the session")
    return Stability(drifts=drifts, scatters=scatters, reasons=reasons)


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
    difference: Difference, corrected_p: float | None, values: Sequence[float], base: Sequence[float]
) -> tuple[Verdict, list[str]]:
    """The verdict on a difference and, where it is ``unstable``, why.

    Args:
        difference: of ``values`` over ``base``.
        corrected_p: its p value after :func:`holm`.
        values, base: the samples in order; of equal length and by round if the difference is paired.
    """
    if corrected_p is None or difference.low is None or difference.high is None:
        return "too few samples", []
    if difference.paired:
        # A drift that both share cancels in the rounds' ratios, so only theirs counts.
        ratios = [value / other for value, other in zip(values, base, strict=True)]
        found = [stability(ratios)]
        apart = min(ratios) > 1 or max(ratios) < 1
    else:
        found = [stability(values), stability(base)]
        apart = min(values) > max(base) or max(values) < min(base)
    reasons = [reason for entry in found for reason in entry.reasons]
    clear = corrected_p < 1 - CONFIDENCE and not difference.low <= 1 <= difference.high
    if any(entry.drifts for entry in found):
        return "unstable", reasons
    if any(entry.scatters for entry in found) and not (clear and apart):
        return "unstable", reasons
    if not clear:
        return "no difference shown", []
    return ("faster" if difference.ratio > 1 else "slower"), []


def _resampled_medians(values: Sequence[float], seed: int) -> Any:
    """Medians of ``RESAMPLES`` draws with replacement, shape ``[RESAMPLES]``."""
    import numpy as np

    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(len(array), size=(RESAMPLES, len(array)))
    return np.median(array[draws], axis=1)


def _ends(resampled: Any) -> tuple[float, float]:
    import numpy as np

    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _one_sample_p(values: Any) -> float:
    """Two-sided t test of mean 0."""
    spread = float(values.std(ddof=1)) / math.sqrt(len(values))
    return _t_p(float(values.mean()), spread, len(values) - 1)


def _welch_p(values: Any, base: Any) -> float:
    """Two-sided t test of equal means, variances free."""
    shares = [float(side.var(ddof=1)) / len(side) for side in (values, base)]
    total = sum(shares)
    freedom = 1.0
    if total > 0:
        freedom = total**2 / sum(share**2 / (len(side) - 1) for share, side in zip(shares, (values, base), strict=True))
    return _t_p(float(values.mean() - base.mean()), math.sqrt(total), freedom)


def _t_p(mean: float, spread: float, freedom: float) -> float:
    # scipy.special loads in a third of scipy.stats' time, which every comparison would wait for.
    from scipy.special import stdtr

    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(mean) / spread))


def _drift(values: Sequence[float]) -> float:
    """Change over the whole series by the median of slopes (Theil-Sen); 0 when the order may be chance (Kendall)."""
    import numpy as np

    # Every pair is looked at: a long series is thinned, which a slow change survives.
    series = np.asarray(values, dtype=float)[:: max(1, len(values) // _MAX_DRIFT_POINTS)]
    n = len(series)
    early, late = np.triu_indices(n, k=1)
    steps = series[late] - series[early]
    z = float(np.sign(steps).sum()) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    if abs(z) < _MIN_DRIFT_Z:
        return 0.0
    return float(np.median(steps / (late - early))) * (n - 1)
