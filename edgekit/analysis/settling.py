"""Where a series settles: warm-up at its beginning, and the level that it reaches and keeps.

Pure functions of numbers. What the data cannot tell is None, with the reason.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from edgekit.analysis.distributions import student_quantile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    #: Values, shape ``[n]``.
    Series: TypeAlias = npt.NDArray[np.float64]

#: A value counts as warm-up only if it is beyond what the settled values predict with this confidence …
WARMUP_CONFIDENCE = 0.999
#: … and slower than them by more than this.
WARMUP_MARGIN = 0.02
#: Settled values that a prediction needs.
MIN_SETTLED = 3
#: A level is kept when the smoothed series stays within this share of it.
TOLERANCE = 0.03
#: A series shorter than this has no level to speak of.
MIN_SERIES = 12
#: Share of the series at its end that gives the level.
TAIL = 1 / 3
#: A tail that rises or falls by more than this from its first to its last third has not settled.
MAX_TAIL_DRIFT = 0.03
_MAD_TO_SIGMA = 1.4826
_RESAMPLES = 120
_SEED = 20260101


@dataclass(frozen=True)
class Settling:
    """What a series settles at.

    ``start`` is the index from which it stays at ``level``; ``start_low`` and ``start_high`` hold it in 95% of
    resampled series. Where the series did not settle all are None and ``reason`` says why.
    """

    level: float | None
    low: float | None
    high: float | None
    start: int | None
    start_low: int | None
    start_high: int | None
    reason: str | None


def warmup_length(values: Sequence[float], *, confidence: float = WARMUP_CONFIDENCE) -> int:
    """How many of the first times (seconds, in the order of measuring) are warm-up.

    The later half is taken as settled and predicts where one more value falls; the leading values that are slower
    than that prediction and by more than ``WARMUP_MARGIN`` are warm-up. With few or scattered values the
    prediction is wide, and nothing is called warm-up. Never more than half of the values.
    """
    settled = [value for value in values[len(values) // 2 :] if math.isfinite(value)]
    if len(settled) < MIN_SETTLED:
        return 0
    mean, spread = statistics.fmean(settled), statistics.stdev(settled)
    reach = student_quantile(2 * (1 - confidence), len(settled) - 1) * spread * math.sqrt(1 + 1 / len(settled))
    limit = mean + max(reach, WARMUP_MARGIN * mean)
    length = 0
    for value in values[: len(values) // 2]:
        if not value > limit:
            break
        length += 1
    return length


def settle(values: Sequence[float], *, tolerance: float = TOLERANCE) -> Settling:
    """The level at which a series of evenly spaced, positive values settles, and from where on.

    The level is the median of the last third, which must neither drift nor swing: a series that only looks settled
    at its end has not settled. From the end backwards the smoothed series then stays within ``tolerance`` of it,
    or within what its own noise explains.
    """
    import numpy as np

    series = np.asarray(values, dtype=float)
    if len(series) < MIN_SERIES:
        return _unsettled(f"{len(series)} values are too few, at least {MIN_SERIES} are needed")
    if not bool(np.isfinite(series).all()) or float(series.min()) <= 0:
        return _unsettled("it holds values that are no speeds")
    smooth = _smoothed(series)
    reason = _restless(series, smooth, tolerance)
    if reason is not None:
        return _unsettled(reason)
    level, start = _level_and_start(series, smooth, tolerance)
    residuals = series / smooth
    draw = np.random.default_rng(_SEED)
    block = max(1, round(len(series) ** (1 / 3)))
    levels, starts = [], []
    for _ in range(_RESAMPLES):
        # Neighbours resemble each other: residuals are drawn in blocks.
        picks = draw.integers(0, len(series) - block + 1, size=math.ceil(len(series) / block))
        order = (picks[:, None] + np.arange(block)).ravel()[: len(series)]
        again = smooth * residuals[order]
        found_level, found_start = _level_and_start(again, _smoothed(again), tolerance)
        levels.append(found_level)
        starts.append(found_start)
    low, high = (float(value) for value in np.quantile(levels, [0.025, 0.975]))
    first, last = (round(float(value)) for value in np.quantile(starts, [0.025, 0.975]))
    return Settling(level, min(low, level), max(high, level), start, min(first, start), max(last, start), None)


def _unsettled(reason: str) -> Settling:
    return Settling(None, None, None, None, None, None, reason)


def _smoothed(series: Series) -> Series:
    """Running medians over ``2 * reach + 1`` values; the ends are mirrored."""
    import numpy as np

    reach = _reach(series)
    padded = np.pad(series, reach, mode="symmetric")
    smooth: Series = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), axis=1)
    return smooth


def _reach(series: Series) -> int:
    return max(1, len(series) // 24)


def _tail(series: Series) -> Series:
    return series[-max(MIN_SERIES // 3, round(len(series) * TAIL)) :]


def _noise(series: Series) -> float:
    """Relative scatter between neighbours, which a slow change does not raise."""
    import numpy as np

    steps = np.abs(np.diff(np.log(series)))
    return _MAD_TO_SIGMA * float(np.median(steps)) / math.sqrt(2)


def _band(series: Series, tolerance: float) -> float:
    """How far from its level the smoothed series may be, as a share: 1.25 is a median's price in scatter."""
    return max(tolerance, 4 * 1.25 * _noise(series) / math.sqrt(2 * _reach(series) + 1))


def _restless(series: Series, smooth: Series, tolerance: float) -> str | None:
    """Why the tail is no level, if it is none."""
    import numpy as np

    tail = _tail(series)
    third = max(1, len(tail) // 3)
    early, late = float(np.median(tail[:third])), float(np.median(tail[-third:]))
    change = late / early - 1
    # What scatter alone does to the difference of two medians.
    chance = 3 * 1.25 * _noise(tail) * math.sqrt(2 / third)
    if abs(change) > max(MAX_TAIL_DRIFT, chance):
        return f"still {'rising' if change > 0 else 'falling'} at its end, by {abs(change):.0%} over the last third"
    level = float(np.median(tail))
    away = np.abs(_tail(smooth) / level - 1) > 2 * _band(series, tolerance)
    if float(np.mean(away)) > 0.1:
        low, high = float(_tail(smooth).min()), float(_tail(smooth).max())
        return f"it swings between {low:.4g} and {high:.4g} to its end"
    return None


def _level_and_start(series: Series, smooth: Series, tolerance: float) -> tuple[float, int]:
    import numpy as np

    level = float(np.median(_tail(series)))
    outside = np.abs(smooth / level - 1) > _band(series, tolerance)
    # A short excursion (a window that something else disturbed) does not begin the wait anew.
    brief = _reach(series)
    run, start = 0, 0
    for index in range(len(series) - 1, -1, -1):
        run = run + 1 if outside[index] else 0
        if run > brief:
            start = index + run
            break
    else:
        start = run
    return level, min(start, len(series) - 1)
