"""Power and energy over time, from whatever tells them, integrated with bounds.

Two kinds of source: counters of energy (RAPL), and samples of power (a battery's gauge, a meter). A counter's reading
between two samples lies between both, so its bounds are certain. Power between two samples is taken to lie between
both, too: right for edges and slopes, wrong for pulses shorter than the sampling.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median

#: Samples further apart than this many usual distances leave a gap.
GAP_FACTOR = 5


class GapError(Exception):
    """What was asked for lies where nothing was measured; the text says why."""


@dataclass(frozen=True)
class Joules:
    """Energy of one region: the best value, and between which bounds it lies."""

    best: float
    low: float
    high: float


@dataclass(frozen=True)
class CounterTrace:
    """Energy since some moment: ``joules[i]`` at ``at_s[i]``, never falling. ``slack_s``: uncertainty of the times."""

    at_s: list[float]
    joules: list[float]
    slack_s: float = 0.0

    @cached_property
    def usual_s(self) -> float:
        """The usual time between samples."""
        return usual_distance(self.at_s)

    def energy(self, start: float, end: float) -> Joules:
        """Energy of a region.

        Raises:
            GapError: the samples do not reach from before it to after it, or leave a gap in it.
        """
        _check_cover(self.at_s, self.usual_s, start - self.slack_s, end + self.slack_s)
        low = self._below(end - self.slack_s) - self._above(start + self.slack_s)
        high = self._above(end + self.slack_s) - self._below(start - self.slack_s)
        best = self._between(end) - self._between(start)
        return Joules(best=best, low=max(0.0, low), high=high)

    def _below(self, at: float) -> float:
        return self.joules[max(0, bisect_right(self.at_s, at) - 1)]

    def _above(self, at: float) -> float:
        return self.joules[min(len(self.at_s) - 1, bisect_left(self.at_s, at))]

    def _between(self, at: float) -> float:
        after = min(len(self.at_s) - 1, max(1, bisect_right(self.at_s, at)))
        first, last = self.at_s[after - 1], self.at_s[after]
        share = (at - first) / (last - first) if last > first else 0.0
        return self.joules[after - 1] + share * (self.joules[after] - self.joules[after - 1])


class PowerTrace:
    """Samples of power: ``watts[i]`` at ``at_s[i]``, ascending. ``slack_s``: uncertainty of all times together."""

    def __init__(self, at_s: Sequence[float], watts: Sequence[float], slack_s: float = 0.0) -> None:
        self.at_s, self.watts, self.slack_s = list(at_s), list(watts), slack_s
        self.usual_s = usual_distance(self.at_s) if len(self.at_s) > 1 else 0.0
        # Running integrals: of the straight line between samples, of the lower and of the higher of both.
        self._sums: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)]
        for at in range(1, len(self.at_s)):
            length = self.at_s[at] - self.at_s[at - 1]
            one, other = self.watts[at - 1], self.watts[at]
            best, low, high = self._sums[-1]
            self._sums.append(
                (best + length * (one + other) / 2, low + length * min(one, other), high + length * max(one, other))
            )

    def energy(self, start: float, end: float) -> Joules:
        """Energy of a region (errors as :meth:`CounterTrace.energy`)."""
        _check_cover(self.at_s, self.usual_s, start - self.slack_s, end + self.slack_s)
        shifts = (-self.slack_s, 0.0, self.slack_s) if self.slack_s else (0.0,)
        ends = [(self._until(start + shift), self._until(end + shift)) for shift in shifts]
        best = ends[len(ends) // 2]
        # The extremes of a shifted window lie at its ends or where a sample passes an edge: the edges' own power
        # over the shift covers both.
        edges = 2 * self.slack_s * (self._spread(start) + self._spread(end))
        return Joules(
            best=best[1][0] - best[0][0],
            low=max(0.0, min(last[1] - first[1] for first, last in ends) - edges),
            high=max(last[2] - first[2] for first, last in ends) + edges,
        )

    def mean(self, start: float, end: float) -> float:
        """Mean power of a region within the trace, along straight lines between samples."""
        return (self._until(end)[0] - self._until(start)[0]) / (end - start)

    def _until(self, at: float) -> tuple[float, float, float]:
        place = min(len(self.at_s) - 1, max(1, bisect_right(self.at_s, at)))
        first, length = self.at_s[place - 1], at - self.at_s[place - 1]
        one, other = self.watts[place - 1], self.watts[place]
        whole = self.at_s[place] - first
        here = one + (other - one) * (length / whole if whole else 0.0)
        best, low, high = self._sums[place - 1]
        return (
            best + length * (one + here) / 2,
            low + length * min(one, other),
            high + length * max(one, other),
        )

    def _spread(self, at: float) -> float:
        """How far power moves within the slack around a moment."""
        first = max(0, bisect_right(self.at_s, at - self.slack_s) - 1)
        last = min(len(self.at_s), bisect_left(self.at_s, at + self.slack_s) + 1)
        around = self.watts[first:last]
        return max(around) - min(around) if around else 0.0


def unwrap(raw: Sequence[float], wraps_at: float | None) -> list[float] | None:
    """A counter that begins again after ``wraps_at`` as one that never falls; None where it fell without that."""
    found: list[float] = []
    added = 0.0
    for place, value in enumerate(raw):
        if place and value < raw[place - 1]:
            if wraps_at is None:
                return None
            added += wraps_at
        found.append(value + added)
    return found


def usual_distance(at_s: Sequence[float]) -> float:
    """The median time between samples."""
    return median(after - before for before, after in pairwise(at_s))


def _check_cover(at_s: Sequence[float], usual_s: float, start: float, end: float) -> None:
    if len(at_s) < 2 or at_s[0] > start or at_s[-1] < end:
        raise GapError("the samples do not reach from before the trial to after it")
    limit = GAP_FACTOR * usual_s
    first, last = max(0, bisect_right(at_s, start) - 1), bisect_left(at_s, end)
    longest = max(at_s[place + 1] - at_s[place] for place in range(first, last)) if last > first else 0.0
    if longest > limit:
        raise GapError(f"samples are missing: a gap of {longest:.2f} s where {usual_s:.2f} s are usual")
