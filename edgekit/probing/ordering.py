"""Orders in which what is compared takes its turn: drawn, seeded and balanced.

In a Williams design of k rows every item stands in every place once and follows every other one once (twice each in
the 2k rows of an odd k). So neither the place in a round nor the heat that a neighbour leaves behind favours anything.
"""

from __future__ import annotations

import random
from collections.abc import Iterator


def balanced_rows(count: int, seed: str) -> Iterator[list[int]]:
    """Endless permutations of ``range(count)``; each block of ``count`` (or twice that) rows is a Williams design."""
    draw = random.Random(seed)
    while True:
        names = list(range(count))
        draw.shuffle(names)
        rows = williams(count)
        draw.shuffle(rows)
        for row in rows:
            yield [names[place] for place in row]


def williams(count: int) -> list[list[int]]:
    """The rows of a Williams design over ``range(count)``: ``count`` rows, for an odd count its mirror as well."""
    # 0, n-1, 1, n-2, ...: neighbours differ by every value once.
    first = [place // 2 if place % 2 == 0 else count - 1 - place // 2 for place in range(count)]
    rows = [[(item + shift) % count for item in first] for shift in range(count)]
    return rows + [row[::-1] for row in rows] if count % 2 and count > 1 else rows
