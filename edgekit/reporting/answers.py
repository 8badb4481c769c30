"""What a reader wants to know first: which bundle is fastest, smallest, most faithful, and at what price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.analysis.compare import compare
from edgekit.analysis.comparison import Comparison, Row
from edgekit.analysis.load import RunData
from edgekit.analysis.sameness import same_device
from edgekit.reporting import formats

#: Above this a bundle is not called quantized.
_FLOAT_BITS = 16
#: Peaks of memory closer than this, as a share, are those of one bundle measured twice.
SAME_MEMORY = 0.02


@dataclass(frozen=True)
class Answer:
    """``question`` (``fastest decode``), ``answer`` (a label), its ``figure``, and what must be said with it."""

    question: str
    answer: str
    figure: str
    because: str


@dataclass(frozen=True)
class Choice:
    """One bundle in the trade-off of quality, decode speed, memory and size.

    ``beaten_by`` names one that is at least as good in all of them, so that this one is not on the Pareto front;
    ``first_in`` is where no other is better.
    """

    row: Row
    beaten_by: str | None
    first_in: list[str]


def answers(runs: Sequence[RunData], comparison: Comparison) -> list[Answer]:
    """The answers for runs of one device, most wanted first."""
    rows = [row for row in comparison.rows if row.fidelity == "real" and row.golden_passed is not False]
    found = [
        answer
        for answer in (
            _fastest(runs, rows, "decode", "Fastest decode"),
            _fastest(runs, rows, "prefill", "Fastest prefill"),
        )
        if answer
    ]
    bundles = list({row.run: row for row in comparison.rows}.values())
    if bundles:
        found.append(_smallest(bundles))
        found.append(_most_faithful(bundles))
        memory = _least_memory(comparison.rows)
        if memory:
            found.append(memory)
    return found


def choices(comparison: Comparison) -> list[Choice]:
    """Each run at its best decode speed, and what beats it in quality, speed, memory and size at once.

    Only exports of one model on one device are held against each other: a divergence is from a model's own source.
    What failed its golden check is no choice.
    """
    best: dict[str, Row] = {}
    for row in _headline(comparison.rows, "decode"):
        usable = row.fidelity == "real" and row.golden_passed is not False
        if usable and (row.run not in best or row.median_tok_s > best[row.run].median_tok_s):
            best[row.run] = row
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in best.values():
        groups.setdefault((row.device, row.model), []).append(row)
    chosen = {choice.row.run: choice for rows in groups.values() for choice in _choices(rows)}
    return [chosen[run] for run in best]


def _choices(rows: Sequence[Row]) -> list[Choice]:
    goods = {row.run: _goods(row, rows) for row in rows}
    fastest = max(rows, key=lambda row: row.median_tok_s)
    return [
        Choice(
            row,
            next((other.label for other in rows if _beats(other, row, goods)), None),
            [
                name
                for name, value in goods[row.run].items()
                if value == max(entry[name] for entry in goods.values())
                or (name == "speed" and not _clearly_faster(fastest, row))
            ],
        )
        for row in rows
    ]


@dataclass(frozen=True)
class Advice:
    """Which of the bundles of one model on one device to ship: ``where`` each is first, and those in between."""

    where: list[tuple[str, str]]
    between: list[str]


def advice(found: Sequence[Choice]) -> list[Advice]:
    """What to ship, one entry for each model and device that has a choice; the gate's refusals are never advised."""
    groups: dict[tuple[str, str], list[Choice]] = {}
    for choice in found:
        groups.setdefault((choice.row.device, choice.row.model), []).append(choice)
    given = []
    for members in groups.values():
        front = [choice for choice in members if choice.beaten_by is None and choice.row.faithful]
        if len(members) > 1 and front:
            given.append(
                Advice(
                    [(choice.row.label, _listed(choice.first_in)) for choice in front if choice.first_in],
                    [choice.row.label for choice in front if not choice.first_in],
                )
            )
    return [entry for entry in given if entry.where]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def by_device(runs: Sequence[RunData]) -> list[list[RunData]]:
    """Runs grouped by device, in the order of their first run."""
    groups: list[list[RunData]] = []
    for run in runs:
        for group in groups:
            if same_device(group[0], run):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _goods(row: Row, rows: Sequence[Row]) -> dict[str, float]:
    """What is wanted of a bundle, each the more the better; memory only where that of all is known."""
    found = {"quality": -row.kl_mean, "speed": row.median_tok_s, "size": -float(row.size_bytes)}
    if all(entry.peak_memory_bytes for entry in rows):
        found["memory"] = -float(row.peak_memory_bytes or 0)
    return found


def _beats(other: Row, row: Row, goods: dict[str, dict[str, float]]) -> bool:
    """At least as good in all, and in one by more than two measurements of one thing differ."""
    mine, theirs = goods[row.run], goods[other.run]
    if other.run == row.run or any(theirs[name] < mine[name] for name in mine):
        return False
    smaller = theirs.get("memory", 0.0) > (1 - SAME_MEMORY) * mine.get("memory", 0.0)
    return (
        smaller or theirs["quality"] > mine["quality"] or theirs["size"] > mine["size"] or _clearly_faster(other, row)
    )


def _clearly_faster(other: Row, row: Row) -> bool:
    """Whether the intervals of both leave no doubt."""
    if other.low_tok_s is None or row.high_tok_s is None:
        return False
    return other.low_tok_s > row.high_tok_s


def _headline(rows: Sequence[Row], kind: str) -> list[Row]:
    """Rows of the longest test of a kind at the smallest depth: one question for all runs."""
    of_kind = [row for row in rows if row.kind == kind]
    if not of_kind:
        return []
    depth, tokens = min((row.depth, -row.tokens) for row in of_kind)
    return [row for row in of_kind if (row.depth, row.tokens) == (depth, -tokens)]


def _fastest(runs: Sequence[RunData], rows: Sequence[Row], kind: str, question: str) -> Answer | None:
    candidates = sorted(_headline(rows, kind), key=lambda row: row.median_tok_s, reverse=True)
    if not candidates:
        return None
    first = candidates[0]
    figure = f"{formats.number(first.median_tok_s)} tok/s"
    setting = f"{first.test}, {_threads(first.threads)}"
    rivals = [row for row in candidates if row.run != first.run and row.threads == first.threads]
    if not rivals:
        return Answer(question, first.label, figure, f"{setting}; nothing else ran it")
    rival = rivals[0]
    pair = [next(run for run in runs if run.run.id == row.run) for row in (rival, first)]
    ratio = next(row.ratio for row in compare(pair).rows if _same(row, first) and row.run == first.run)
    if ratio is None:
        return Answer(question, first.label, figure, setting)
    beside = formats.interval(ratio.low, ratio.high)
    times = f"{ratio.median:.2f}× {rival.label}" + ("" if beside == formats.MISSING else f", 95% interval {beside}")
    answer, because = first.label, f"{setting}; {times}"
    if ratio.verdict != "faster":
        answer = f"{first.label} or {rival.label}"
        figure = f"{formats.number(first.median_tok_s)} and {formats.number(rival.median_tok_s)} tok/s"
        why = "; ".join([ratio.verdict, *ratio.reasons])
        because = f"{setting}; not told apart: {times} ({why})"
    elif ratio.reasons:
        because += f" ({'; '.join(ratio.reasons)})"
    if ratio.pairing != "in turn":
        because += f"; {ratio.pairing}"
    return Answer(question, answer, figure, because)


def _same(row: Row, other: Row) -> bool:
    return (row.test, row.threads) == (other.test, other.threads)


def _smallest(bundles: Sequence[Row]) -> Answer:
    ranked = sorted(bundles, key=lambda row: row.size_bytes)
    first, last = ranked[0], ranked[-1]
    because = f"{formats.number(first.bits_per_weight)} bits per weight"
    if last.size_bytes > first.size_bytes:
        because += f"; {first.size_bytes / last.size_bytes:.0%} of {last.label}"
    return Answer("Smallest", first.label, formats.size(first.size_bytes), because)


def _most_faithful(bundles: Sequence[Row]) -> Answer:
    ranked = sorted(bundles, key=lambda row: row.kl_mean)
    quantized = [row for row in ranked if row.bits_per_weight < _FLOAT_BITS]
    first = quantized[0] if quantized else ranked[0]
    question = "Most faithful" + (" quantized" if quantized and len(quantized) < len(ranked) else "")
    because = (
        f"mean KL divergence to the source in nats; same top token at {formats.percent(first.same_top)} of positions"
    )
    if not first.faithful:
        because += "; it did not pass the gate"
    return Answer(question, first.label, formats.number(first.kl_mean, 2), because)


def _least_memory(rows: Sequence[Row]) -> Answer | None:
    known = [row for row in rows if row.peak_memory_bytes]
    if len({row.run for row in known}) < 2:
        return None
    first = min(known, key=lambda row: row.peak_memory_bytes or 0)
    return Answer(
        "Least memory",
        first.label,
        formats.size(first.peak_memory_bytes),
        f"largest resident size of the process, {_threads(first.threads)}",
    )


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
