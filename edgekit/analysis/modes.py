"""Two modes of a device: each launch ends up in a fast or a slow one, whatever runs in it.

Where memory came to lie, or which cores were taken, decides of a launch and not of a bundle. Launches of both bundles
are then compared mode by mode: a pair of one fast and one slow launch is put right by the step between the modes, which
all pairs tell together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.analysis.distributions import heads
from edgekit.analysis.stability import MAX_FALL, MIN_SAMPLES, find_clusters

#: One side must have clear clusters, of so many launches or more; on the other a single one in a mode, and a gap of so
#: many times the spread inside, are enough if the step is alike.
_MIN_LAUNCHES = 2
_CLEAR = 1.5
#: The smaller of both sides' steps over the larger.
_ALIKE = 0.5
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Modes:
    """Which launches were fast, of both sides, round by round; ``step`` is the logarithm of fast over slow."""

    values: tuple[bool, ...]
    base: tuple[bool, ...]
    step: float
    #: Median speed of the fast launches of both.
    levels: tuple[float, float]

    @property
    def shifts(self) -> list[int]:
        """By pair: 1 where only the first side was fast, -1 where only the other was, else 0."""
        return [int(one) - int(other) for one, other in zip(self.values, self.base, strict=True)]

    def put_right(self, ratios: Sequence[float], step: float) -> list[float]:
        """The pairs' ratios as they were with both in one mode."""
        return [ratio * math.exp(-step * shift) for ratio, shift in zip(ratios, self.shifts, strict=True)]

    def text(self, step: float) -> str:
        """What there is to know beside a ratio."""
        counts = [f"{side.count(False)} of {len(side)}" for side in (self.values, self.base)]
        return (
            f"the device has two modes, {1 - math.exp(-step):.0%} apart: {counts[0]} launches were slow, "
            f"of the other's {counts[1]}; compared mode by mode"
        )

    def uneven(self) -> str | None:
        """Whether one side ended up in the slow mode more often, which then is a trait of it (McNemar's exact test)."""
        shifts = self.shifts
        faster, slower = shifts.count(1), shifts.count(-1)
        if 2 * heads(min(faster, slower), faster + slower) >= 1 - _CONFIDENCE:
            return None
        return (
            f"the device has two modes, and one side was in the slow mode in {self.values.count(False)}, "
            f"the other in {self.base.count(False)} of {len(shifts)} rounds"
        )

    def in_time(self) -> str | None:
        """Whether slow launches follow each other in time: that is no mode but throttling."""
        rounds = list(zip(self.values, self.base, strict=True))
        slow = [number for number, entry in enumerate(rounds) if not all(entry)]
        count = self.values.count(False) + self.base.count(False)
        # Who was first in a round is not known here: the first and the last of the rounds may be slow by half.
        inner = rounds[slow[0] + 1 : slow[-1]]
        if count < MIN_SAMPLES or any(entry != (False, False) for entry in inner):
            return None
        fall = 1 - math.exp(-self.step)
        if fall < MAX_FALL:
            return None
        return f"throttling: speed fell by {fall:.0%} after round {slow[0]} of {len(rounds)}"


def find_modes(values: Sequence[float], base: Sequence[float]) -> Modes | None:
    """The modes of launches measured in turn, entry ``i`` of both in one round; None where there are not two.

    Both sides must fall into two clusters with a step that is about as large; what only one of them does is its own.
    """
    strict = [find_clusters(side, fewest=_MIN_LAUNCHES, share=0.0) for side in (values, base)]
    one, other = (find_clusters(side, fewest=1, share=0.0, clear=_CLEAR) for side in (values, base))
    if one is None or other is None or strict == [None, None]:
        return None
    levels = statistics.median(one[1]), statistics.median(other[1])
    steps = math.log(levels[0] / statistics.median(one[0])), math.log(levels[1] / statistics.median(other[0]))
    if min(steps) < _ALIKE * max(steps):
        return None
    found = Modes(
        tuple(value >= one[1][0] for value in values),
        tuple(value >= other[1][0] for value in base),
        statistics.fmean(steps),
        levels,
    )
    # Where every pair is of one fast and one slow launch, the step cannot be told from the bundles.
    return None if abs(sum(found.shifts)) == len(values) else found
