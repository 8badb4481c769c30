"""Effects with intervals: over rounds measured in turn, or over models.

- Over rounds: a statistic of all rounds is split into one value a round (the jackknife's pseudo-values); their mean has
  a t test, and a percentile bootstrap interval, widened for few values (Hesterberg 2015: an interval of five values
  would otherwise hold the true mean in 83% of cases and not in 95%).
- Over models: each model is one value, and the question is whether the rule holds for models like these.
  Correlations are of ranks, with a permutation test.

Everything is deterministic: resampling is seeded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.analysis.statistics import CONFIDENCE, MIN_SAMPLES

RESAMPLES = 4000
_SEED = 20240915
#: All orders of so many values are tried; of more a sample.
_EXACT = 7
#: Below this a correlation says nothing, whatever it is.
MIN_MODELS = 4


@dataclass(frozen=True)
class Effect:
    """A figure, its 95% interval and its p value against ``null``; None where one measurement is all there is."""

    value: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    over: Literal["rounds", "models", "long runs"]


def over_rounds(statistic: Callable[[Sequence[int]], float], rounds: Sequence[int], null: float = 0.0) -> Effect:
    """Effect of a statistic of rounds; ``statistic`` takes the rounds to use."""
    value = statistic(rounds)
    n = len(rounds)
    if n < MIN_SAMPLES:
        return Effect(value, None, None, None, n, "rounds")
    without = [statistic([kept for kept in rounds if kept != left_out]) for left_out in rounds]
    pseudo = [n * value - (n - 1) * rest for rest in without]
    return _of_values(value, pseudo, null, "rounds")


def of_mean(values: Sequence[float], null: float, over: Literal["models", "long runs"] = "models") -> Effect:
    """Effect of the mean of independent values."""
    mean = sum(values) / len(values)
    if len(values) < MIN_SAMPLES:
        return Effect(mean, None, None, None, len(values), over)
    return _of_values(mean, values, null, over)


def _of_values(value: float, values: Sequence[float], null: float, over: Any) -> Effect:
    import numpy as np
    from scipy.special import ndtr, stdtr, stdtrit

    array = np.asarray(values, dtype=float)
    n = len(array)
    error = float(array.std(ddof=1)) / math.sqrt(n)
    if not math.isfinite(error):
        return Effect(value, None, None, None, n, over)
    if error == 0:
        return Effect(value, value, value, 1.0 if value == null else 0.0, n, over)
    p = float(2 * stdtr(n - 1, -abs(value - null) / error))
    tail = float(ndtr(-math.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 + CONFIDENCE) / 2)))
    draws = np.random.default_rng(_SEED).integers(n, size=(RESAMPLES, n))
    low, high = np.quantile(array[draws].mean(axis=1), [tail, 1 - tail])
    return Effect(value, float(low), float(high), p, n, over)


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> Effect | None:
    """Spearman's correlation over models against none; None where all of one side are equal, or there are too few."""
    import numpy as np

    n = len(xs)
    if n < MIN_MODELS or len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    ranks_x, ranks_y = _ranks(np.asarray([xs], float))[0], _ranks(np.asarray([ys], float))[0]
    value = float(_correlations(ranks_x[None], ranks_y[None])[0])
    random = np.random.default_rng(_SEED)
    if n <= _EXACT:
        orders = np.asarray(list(itertools.permutations(range(n))))
        permuted = _correlations(np.broadcast_to(ranks_x, orders.shape), ranks_y[orders])
        p = float((np.abs(permuted) >= abs(value) - 1e-12).mean())
    else:
        orders = random.permuted(np.tile(np.arange(n), (RESAMPLES, 1)), axis=1)
        permuted = _correlations(np.broadcast_to(ranks_x, orders.shape), ranks_y[orders])
        p = float((np.abs(permuted) >= abs(value) - 1e-12).sum() + 1) / (RESAMPLES + 1)
    draws = random.integers(n, size=(RESAMPLES, n))
    resampled = _correlations(_ranks(np.asarray(xs, float)[draws]), _ranks(np.asarray(ys, float)[draws]))
    # A resample of one model only has no order.
    resampled = resampled[np.isfinite(resampled)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Effect(value, float(low), float(high), p, n, "models")


def explained(xs: Sequence[float], ys: Sequence[float], null: float) -> Effect | None:
    """Share of the variance over models that a straight line explains (R squared), against ``null``.

    The p value is Fisher's, of the correlation; None as for :func:`rank_correlation`.
    """
    import numpy as np
    from scipy.special import ndtr

    n = len(xs)
    if n < MIN_MODELS or len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    r = float(_correlations(x[None], y[None])[0])
    value = max(r, 0.0) ** 2
    edge = min(max(r, -1 + 1e-12), 1 - 1e-12)
    p = float(2 * ndtr(-abs(math.atanh(edge) - math.atanh(math.sqrt(null))) * math.sqrt(n - 3)))
    draws = np.random.default_rng(_SEED).integers(n, size=(RESAMPLES, n))
    resampled = _correlations(x[draws], y[draws])
    resampled = np.clip(resampled[np.isfinite(resampled)], 0, 1) ** 2
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Effect(value, float(low), float(high), p, n, "models")


def difference_of_groups(values: Sequence[float], base: Sequence[float]) -> Effect | None:
    """Mean of one set of models less that of another, with a permutation test; None with fewer than two a side."""
    import numpy as np

    if min(len(values), len(base)) < 2:
        return None
    pooled = np.asarray([*values, *base], float)
    n, k = len(pooled), len(values)
    value = float(pooled[:k].mean() - pooled[k:].mean())
    if math.comb(n, k) <= 20_000:
        chosen = np.asarray(list(itertools.combinations(range(n), k)))
        extra = 0
    else:
        chosen = np.random.default_rng(_SEED).permuted(np.tile(np.arange(n), (RESAMPLES, 1)), axis=1)[:, :k]
        extra = 1
    sums = pooled[chosen].sum(axis=1)
    differences = sums / k - (pooled.sum() - sums) / (n - k)
    p = float((np.abs(differences) >= abs(value) - 1e-12).sum() + extra) / (len(chosen) + extra)
    random = np.random.default_rng(_SEED)
    one = pooled[:k][random.integers(k, size=(RESAMPLES, k))].mean(axis=1)
    other = pooled[k:][random.integers(n - k, size=(RESAMPLES, n - k))].mean(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(one - other, [tail, 1 - tail])
    return Effect(value, float(low), float(high), p, n, "models")


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the least-squares line."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - mean_x) ** 2 for x in xs)


def _correlations(xs: Any, ys: Any) -> Any:
    """Pearson's correlation of each row of two arrays ``[rows, n]``; NaN where a row does not vary."""
    import numpy as np

    x = xs - xs.mean(axis=1, keepdims=True)
    y = ys - ys.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))


def _ranks(rows: Any) -> Any:
    """Ranks within each row of ``[rows, n]``; equal values share their mean rank."""
    smaller = (rows[:, None, :] < rows[:, :, None]).sum(axis=2)
    equal = (rows[:, None, :] == rows[:, :, None]).sum(axis=2)
    return smaller + (equal + 1) / 2
