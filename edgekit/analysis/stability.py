"""Whether a series of measurements can carry a verdict: drift, throttling, clusters, scatter."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

#: Below this nothing can be said about scatter.
MIN_SAMPLES = 3
#: Relative scatter (robust standard deviation over median) above which samples are called unstable.
MAX_SCATTER = 0.10
#: Drift is reported when it is monotone beyond chance and exceeds this share of the median over the session.
MAX_DRIFT = 0.05
#: A step down beyond which the device is called throttled, and a slope over a session of runs in turn.
MAX_FALL = 0.08
MAX_SLOPE = 0.10
#: A gap between clusters must be this large, as a share.
MIN_GAP = 0.05
#: A step is told from chance by the t of its two sides. The best of all places is taken, so the limit is high.
_MIN_STEP_T = 5.0
#: Clusters: the empty gap between them over the spread inside them.
_MIN_GAP = 2.5
#: Fewer samples, or a smaller share of them, are outliers and no cluster.
_MIN_CLUSTER = 2
_MIN_CLUSTER_SHARE = 0.25
#: Five samples in strict order reach 2.45 and come about by chance in 1.7% of cases.
_MIN_DRIFT_Z = 2.4
#: Makes the median absolute deviation estimate a normal distribution's standard deviation.
MAD_TO_SIGMA = 1.4826
#: Every pair is looked at, so a longer series is first summed up by medians of blocks.
_MAX_POINTS = 64


@dataclass(frozen=True)
class Stability:
    """Whether samples can carry a verdict; ``reasons`` are for people."""

    drifts: bool = False
    scatters: bool = False
    #: The speed fell in a step, or fell for a while.
    throttled: bool = False
    #: The samples fall into two groups, in no order of time.
    clusters: bool = False
    reasons: list[str] = field(default_factory=list)

    @property
    def stable(self) -> bool:
        """None of them."""
        return not self.reasons


def stability(values: Sequence[float]) -> Stability:
    """Judge positive values in the order in which they were measured; too few values pass."""
    return _stability(tuple(values))


@lru_cache(maxsize=256)
def _stability(values: tuple[float, ...]) -> Stability:
    """A baseline is judged once for every run beside it."""
    if len(values) < MIN_SAMPLES:
        return Stability()
    median = statistics.median(values)
    reasons = []
    fall, after = throttling(values)
    throttled = fall > 0
    if throttled:
        reasons.append(_throttling_text(fall, after, len(values)))
    clusters = None if throttled else find_clusters(values)
    if clusters:
        low, high = clusters
        reasons.append(
            f"samples fall into two clusters, around {statistics.median(low):.4g} ({len(low)}) "
            f"and {statistics.median(high):.4g} ({len(high)})"
        )
    change = drift(values)
    drifts = abs(change) > MAX_DRIFT and not throttled
    if drifts:
        reasons.append(f"speed {'rose' if change > 0 else 'fell'} by {abs(change):.0%} over the session")
    scatter = MAD_TO_SIGMA * statistics.median(abs(value - median) for value in values) / median
    scatters = scatter > MAX_SCATTER
    if scatters and not reasons:
        reasons.append(f"samples scatter by {scatter:.0%}, limit {MAX_SCATTER:.0%}")
    return Stability(drifts, scatters, throttled, clusters is not None, reasons)


def session_fall(
    values: Sequence[float], base: Sequence[float], levels: tuple[float, float] | None = None
) -> str | None:
    """How far the device slowed while two runs were measured in turn, where it did; entry ``i`` of both is one round.

    ``levels`` are the usual speeds of both, their medians if None.

    A slope that both share cancels in the rounds' ratios, but a device that lost this much
    is not the device that was asked about.
    """
    middles = levels or (statistics.median(values), statistics.median(base))
    pooled = [
        sample / middle for pair in zip(values, base, strict=True) for sample, middle in zip(pair, middles, strict=True)
    ]
    fall, after = throttling(pooled)
    if fall > 0:
        return _throttling_text(fall, math.ceil(after / 2), len(values), what="round")
    change = drift(pooled)
    return f"throttling: speed fell by {-change:.0%} over the session" if change < -MAX_SLOPE else None


def changed_at_the_edge(values: Sequence[float], base: Sequence[float]) -> str | None:
    """Whether two series, measured one after the other, differ because the device changed within one of them.

    A change that came one sample before the end of the first, or one after the beginning of the second, is a single
    sample at the other's level: too few to be a step inside its own series.
    """
    for one, other in ((values, base), (base, values)):
        rest_low, rest_high = min(other), max(other)
        for name, edge, inner in (("first", one[0], one[1:]), ("last", one[-1], one[:-1])):
            if len(inner) < MIN_SAMPLES:
                continue
            apart = max(min(inner) / edge, edge / max(inner))
            near = rest_low * (1 - MAX_FALL) < edge < rest_high * (1 + MAX_FALL)
            # The rest must itself be apart from the other series, or there is no change to explain.
            clear = min(inner) > rest_high or max(inner) < rest_low
            if apart > 1 + MAX_FALL and near and clear:
                return (
                    f"the {name} sample of one run ({edge:.4g}) is at the level of the other: "
                    "the device may have changed between them"
                )
    return None


def drift(values: Sequence[float]) -> float:
    """Change over the whole series as a share of its median, by the median of slopes (Theil-Sen).

    0 when the order may be chance (Kendall).
    """
    series = _blocks(values)
    n = len(series)
    if n < MIN_SAMPLES:
        return 0.0
    slopes = []
    balance = 0
    for early in range(n - 1):
        for late in range(early + 1, n):
            step = series[late] - series[early]
            balance += (step > 0) - (step < 0)
            slopes.append(step / (late - early))
    if abs(balance) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18) < _MIN_DRIFT_Z:
        return 0.0
    return statistics.median(slopes) * (n - 1) / statistics.median(values)


def throttling(values: Sequence[float]) -> tuple[float, int]:
    """A lasting fall: its size as a share, and after how many samples it came; ``(0.0, 0)`` where there is none.

    Also a fall that ended again: the slow samples then follow each other.
    """
    logs = [math.log(value) for value in values]
    best = (0.0, 0)
    best_t = _MIN_STEP_T
    for at in range(_MIN_CLUSTER, len(logs) - 1):
        before, after = logs[:at], logs[at:]
        step = statistics.median(before) - statistics.median(after)
        t = step / _spread_of_step(before, after)
        if step > MAX_FALL and t > best_t:
            best, best_t = (1 - math.exp(-step), at), t
    if best[1]:
        return best
    clusters = find_clusters(values)
    if clusters is None:
        return best
    low, high = clusters
    slow = [index for index, value in enumerate(values) if value <= low[-1]]
    together = slow[-1] - slow[0] + 1 == len(slow)
    if together and len(slow) >= MIN_SAMPLES and slow[0] > 0:
        return 1 - statistics.median(low) / statistics.median(high), slow[0]
    return best


def find_clusters(
    values: Sequence[float],
    *,
    fewest: int = _MIN_CLUSTER,
    share: float = _MIN_CLUSTER_SHARE,
    clear: float = _MIN_GAP,
) -> tuple[list[float], list[float]] | None:
    """Slow and fast samples, each ascending, where a wide empty gap parts them.

    ``fewest`` samples make a cluster, and as large a ``share`` of them; fewer are outliers. The gap must be ``clear``
    times the spread inside the clusters.
    """
    ordered = sorted(values)
    if len(ordered) < 2 * _MIN_CLUSTER:
        return None
    gap, at = max((math.log(ordered[at] / ordered[at - 1]), at) for at in range(1, len(ordered)))
    low, high = ordered[:at], ordered[at:]
    if gap < MIN_GAP or min(len(low), len(high)) < max(fewest, share * len(ordered)):
        return None
    inside = max(_spread(low), _spread(high))
    return (low, high) if gap > clear * inside else None


def squares(values: Sequence[float]) -> float:
    """Sum of squared distances from the mean (:mod:`statistics` does it in fractions, 20 times as slowly)."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


def _spread(values: Sequence[float]) -> float:
    return math.sqrt(squares([math.log(value) for value in values]) / (len(values) - 1)) if len(values) > 1 else 0.0


def _spread_of_step(before: Sequence[float], after: Sequence[float]) -> float:
    """Standard error of the difference of two sides, their scatter taken to be the same."""
    freedom = len(before) + len(after) - 2
    inside = squares(before) + squares(after)
    return math.sqrt(inside / freedom * (1 / len(before) + 1 / len(after))) or 1e-12


def _throttling_text(fall: float, after: int, n: int, what: str = "sample") -> str:
    return f"throttling: speed fell by {fall:.0%} after {what} {after} of {n}"


def _blocks(values: Sequence[float]) -> Sequence[float]:
    size = -(-len(values) // _MAX_POINTS)
    if size == 1:
        return values
    return [statistics.median(values[at : at + size]) for at in range(0, len(values), size)]
