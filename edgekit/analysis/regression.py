"""Limits for continuous integration: which rows of a comparison are worse than the baseline allows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgekit.analysis.comparison import Comparison, Row
from edgekit.errors import InputError

LimitKind = Literal["slower", "larger", "unstable", "missing"]
#: Limits without a number.
_PLAIN: dict[str, LimitKind] = {"unstable": "unstable", "missing": "missing"}

_LIMIT = re.compile(r"(slower|larger):(\d+(?:\.\d+)?)%")


@dataclass(frozen=True)
class Limit:
    """How much worse than the baseline a row may be.

    ``slower``: the verdict is slower, or is so unless the device was throttled between two runs that were not measured
    in turn, and the ratio of speeds is below ``1 - share``.
    ``larger``: the process's peak memory is above ``1 + share`` of the baseline's.
    ``unstable``: there is no verdict, because samples are unstable or too few.
    ``missing``: a test of the baseline was not measured, or could not be compared; the row is then the baseline's.
    """

    kind: LimitKind
    share: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind in _PLAIN else f"{self.kind}:{self.share * 100:g}%"


@dataclass(frozen=True)
class Regression:
    """A row beyond a limit; ``message`` is one sentence for people."""

    row: Row
    limit: Limit
    message: str


def parse_limit(text: str) -> Limit:
    """A limit as the command line takes it: ``slower:3%``, ``larger:5%``, ``unstable``, ``missing``.

    Raises:
        InputError: it is none of these.
    """
    if text in _PLAIN:
        return Limit(_PLAIN[text])
    match = _LIMIT.fullmatch(text)
    if match is None or float(match[2]) >= 100:
        raise InputError(
            f"{text!r} is no limit for a regression", hint=f"kinds: {', '.join(get_args(LimitKind))}; e.g. slower:3%"
        )
    return Limit("slower" if match[1] == "slower" else "larger", float(match[2]) / 100)


def regressions(comparison: Comparison, limits: Sequence[Limit]) -> list[Regression]:
    """Rows beyond the limits, in the comparison's order.

    Raises:
        InputError: nothing was comparable with the baseline, so that no limit could be checked.
    """
    if limits and not any(row.ratio for row in comparison.rows):
        reasons = sorted({row.no_ratio for row in comparison.rows if row.no_ratio not in (None, "baseline")})
        raise InputError(
            f"check {', '.join(map(str, limits))}: nothing can be compared with {comparison.baseline_label}",
            hint="give a run of the same tests on the same device as the baseline",
            detail="\n".join(reason for reason in reasons if reason) or None,
        )
    base = {(row.threads, row.test): row for row in comparison.rows if row.run == comparison.baseline}
    found = []
    weighed = set()
    for row in comparison.rows:
        if row.ratio is None:
            continue
        for limit in limits:
            message = _beyond(row, base[row.threads, row.test], limit)
            # Memory is of the process: one figure for all tests with as many threads.
            key = (row.run, row.threads, limit)
            if message and not (limit.kind == "larger" and key in weighed):
                weighed.add(key)
                found.append(Regression(row, limit, message))
    wanted = next((limit for limit in limits if limit.kind == "missing"), None)
    return found if wanted is None else [*found, *_missing(comparison, list(base.values()), wanted)]


def _missing(comparison: Comparison, base: Sequence[Row], limit: Limit) -> list[Regression]:
    of_run: dict[str, dict[tuple[int, str], Row]] = {}
    for row in comparison.rows:
        if row.run != comparison.baseline:
            of_run.setdefault(row.run, {})[row.threads, row.test] = row
    found = []
    for rows in of_run.values():
        label = next(iter(rows.values())).label
        for wanted in base:
            mine = rows.get((wanted.threads, wanted.test))
            named = f"{label} {wanted.test}, {wanted.threads} {'thread' if wanted.threads == 1 else 'threads'}"
            if mine is None:
                found.append(Regression(wanted, limit, f"{named}: not measured, the baseline has it"))
            elif mine.ratio is None:
                found.append(Regression(mine, limit, f"{named}: not compared: {mine.no_ratio}"))
    return found


def where(row: Row) -> str:
    """The row in words: label, test and threads."""
    return f"{row.label} {row.test}, {row.threads} {'thread' if row.threads == 1 else 'threads'}"


def _beyond(row: Row, base: Row, limit: Limit) -> str | None:
    ratio = row.ratio
    assert ratio is not None
    if (
        limit.kind == "slower"
        and "slower" in (ratio.verdict, ratio.unless_throttled)
        and ratio.median < 1 - limit.share
    ):
        unless = "" if ratio.verdict == "slower" else "; unless the device was throttled in between: measure in turn"
        ends = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.3f}, {ratio.high:.3f}]"
        return (
            f"{where(row)}: slower by {1 - ratio.median:.1%}, limit {limit.share * 100:g}% "
            f"({row.median_tok_s:.2f} against {base.median_tok_s:.2f} tok/s; {ratio.median:.3f}x{ends}){unless}"
        )
    mine, theirs = row.peak_memory_bytes, base.peak_memory_bytes
    if limit.kind == "larger" and mine and theirs and mine > (1 + limit.share) * theirs:
        return (
            f"{where(row)}: peak memory larger by {mine / theirs - 1:.1%}, limit {limit.share * 100:g}% "
            f"({mine / 2**20:.1f} against {theirs / 2**20:.1f} MiB)"
        )
    if limit.kind == "unstable" and ratio.verdict == "unstable":
        return f"{where(row)}: no verdict ({'; '.join(ratio.reasons)})"
    return None
