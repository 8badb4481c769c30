"""The three distributions that verdicts need, without scipy.

Importing ``scipy.special`` takes longer than everything else a comparison does; tests hold
these functions against it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_MAX_STEPS = 500
_PRECISION = 1e-14
#: Smallest number the continued fraction may divide by.
_TINY = 1e-300
#: Above this a sum of binomial coefficients is replaced by the normal distribution.
_MAX_EXACT = 2000


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularized incomplete beta function I_x(a, b) for ``a, b > 0`` by its continued fraction."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # Lentz's method.
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MAX_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            value *= d * c
        if abs(d * c - 1) < _PRECISION:
            break
    return math.exp(log_front) * value / a


def student_p(t: float, freedom: float) -> float:
    """Two-sided p value of Student's t."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


@lru_cache(maxsize=4096)
def student_quantile(p: float, freedom: float) -> float:
    """The t whose two-sided p value is ``p``."""
    # Newton's method from the left of a convex, falling curve never overshoots; the normal quantile lies left of it.
    t = NormalDist().inv_cdf(1 - p / 2)
    log_peak = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    for _ in range(_MAX_STEPS):
        density = math.exp(log_peak - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (student_p(t, freedom) - p) / (2 * density)
        t += step
        if abs(step) < 1e-10 * t:
            break
    return t


def heads(at_most: int, tosses: int) -> float:
    """Probability of at most so many heads in tosses of a fair coin."""
    if tosses > _MAX_EXACT:
        return 0.5 * math.erfc(-(2 * at_most + 1 - tosses) / math.sqrt(2 * tosses))
    return sum(math.comb(tosses, count) for count in range(at_most + 1)) / (1 << tosses)


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
