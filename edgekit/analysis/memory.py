"""Whose memory it is: the resident memory of a launch, split, over time, and its growth with the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from edgekit.analysis.distributions import student_quantile
from edgekit.analysis.load import LaunchData, RunData
from edgekit.schema.event import Bye, Footprint, Loaded, MemorySamples, ProportionalSamples

#: How private weights were told from other private memory: the runtime's allocator said what it had handed out once
#: the model was loaded; or all that grew while loading is taken for weights, the session's own structures included.
WeightsBasis = Literal["allocator", "growth while loading"]


class MemorySplit(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory at one moment, in bytes: the six parts add up to ``observed``, exactly.

    The moment is the one between trials with the most resident memory. What the parts rest on: file pages and the
    cache were counted page by page; private weights as ``weights_basis`` says; activations are the tensors' pages and
    what private memory grew by since the load, as far as the runtime's allocator can have it where it tells.
    """

    observed: int
    #: Pages of the model's files: the system can drop them and read them again.
    weights_file: int
    #: Copies that the runtime made: unpacked, transposed or packed for its kernels.
    weights_private: int
    weights_basis: WeightsBasis
    #: Pages of the key-value cache that are filled, of the whole context's ``kv_cache_size``.
    kv_cache: int
    kv_cache_size: int
    activations: int
    #: Programs and libraries, and private memory that nobody claims. Negative only where ``doubt`` says so.
    rest: int
    #: Of the rest: resident pages of other files, libraries above all.
    rest_file: int
    #: Proportional share where pages are shared, and what lies in swap (not part of ``observed``).
    pss: int
    swap: int
    #: The kernel's high-water mark less ``observed``: what was there for a moment only; None where it is not known.
    above: int | None
    #: Why the parts are not to be trusted; None where they are.
    doubt: str | None = None

    @property
    def parts(self) -> dict[str, int]:
        """The parts that add up, by the names that people see."""
        return {
            "weights, file": self.weights_file,
            "weights, private": self.weights_private,
            "KV cache": self.kv_cache,
            "activations": self.activations,
            "rest": self.rest,
        }


class ContextGrowth(msgspec.Struct, frozen=True, kw_only=True):
    """A least-squares line through memory over filled positions of the context."""

    what: Literal["KV cache", "activations", "resident"]
    bytes_per_token: float
    #: 95% interval of the slope; None with two points, which any line fits.
    low: float | None
    high: float | None
    #: Bytes where the line crosses an empty context.
    at_zero: float
    points: int
    #: The fewest and the most positions that a point had filled.
    fewest: int
    most: int


@dataclass(frozen=True)
class ProportionalCurve:
    """Proportional memory of one launch on the probe's clock, sampled and looked at between trials; bytes."""

    launch: int
    at_ns: list[int]
    rss: list[int]
    pss: list[int]


def proportional(data: LaunchData) -> ProportionalCurve | None:
    """Proportional memory over one launch; None where it was not sampled or cannot be read."""
    points: list[tuple[int, int, int]] = []
    for event in _events(data):
        if isinstance(event, ProportionalSamples):
            points += zip(event.at_ns, event.rss, event.pss, strict=True)
        elif isinstance(event, Footprint):
            points.append((event.at_ns, event.rss, event.pss))
    if not points:
        return None
    at_ns, rss, pss = (list(column) for column in zip(*sorted(points), strict=True))
    return ProportionalCurve(data.launch.index, at_ns, rss, pss)


def peak_pss(run: RunData, threads: int) -> int | None:
    """Largest proportional memory seen in launches with that many threads that ran trials; None when unknown."""
    seen = [
        value
        for data in _measuring(run, threads)
        for value in (
            *(event.pss for event in data.events(Footprint)),
            *(value for event in data.events(ProportionalSamples) for value in event.pss),
        )
    ]
    return max(seen, default=None)


def split(run: RunData, threads: int) -> MemorySplit | None:
    """The split of the launch with that many threads that had the most resident; None where it was not looked at."""
    found = [entry for data in _measuring(run, threads) if (entry := launch_split(data))]
    return max(found, key=lambda entry: entry.observed, default=None)


def launch_split(data: LaunchData) -> MemorySplit | None:
    """The split at the moment of one launch with the most resident memory after the last load."""
    start, loaded, after = _moments(data)
    if loaded is None:
        return None
    moments = [loaded, *after]
    fullest = max(moments, key=lambda event: event.rss)
    return _split(start, loaded, fullest, _peak(data))


def growth(run: RunData, threads: int) -> list[ContextGrowth]:
    """How cache, activations and all resident memory grow with the filled context.

    Each trial gives a point: the positions filled by then in its launch, and the memory after it. Empty with fewer
    than two different numbers of positions.
    """
    points: list[tuple[int, MemorySplit]] = []
    for data in _measuring(run, threads):
        start, loaded, after = _moments(data)
        if loaded is None or data.plan is None:
            continue
        needs = {trial.id: trial.depth + trial.tokens for trial in data.plan.trials}
        filled = 0
        for event in after:
            filled = max(filled, needs.get(event.trial, 0) if event.trial is not None else 0)
            if event.moment == "trial" and filled:
                points.append((filled, _split(start, loaded, event, None)))
    positions = [filled for filled, _ in points]
    if len(set(positions)) < 2:
        return []
    return [
        _line("KV cache", positions, [entry.kv_cache for _, entry in points]),
        _line("activations", positions, [entry.activations for _, entry in points]),
        _line("resident", positions, [entry.observed for _, entry in points]),
    ]


def _split(start: Footprint | None, loaded: Footprint, at: Footprint, peak: int | None) -> MemorySplit:
    kept, grown = _unclaimed(loaded), _unclaimed(at) - _unclaimed(loaded)
    basis: WeightsBasis
    if loaded.allocated:
        weights, basis = loaded.allocated, "allocator"
    else:
        weights, basis = max(0, kept - (_unclaimed(start) if start else 0)), "growth while loading"
    doubts = []
    if start is None and basis != "allocator":
        doubts.append("nothing was seen before the load: private weights include what was there already")
    grown = max(0, grown)
    if at.allocated is not None and at.reserved is not None and loaded.allocated:
        # The allocator takes more from the system than is touched, but no more than that can be its.
        grown = min(grown, max(0, at.reserved - loaded.allocated))
    activations = at.buffers + grown
    rest = at.rss - at.weights_file - weights - at.cache - activations
    if weights > kept:
        where = f"{at.swap} bytes lie in swap" if at.swap else "pages it never touched are among them"
        doubts.append(f"the allocator holds {weights - kept} bytes more than were resident after the load: {where}")
    if rest < 0:
        doubts.append(f"the parts claim {-rest} bytes more than are resident")
    return MemorySplit(
        observed=at.rss,
        weights_file=at.weights_file,
        weights_private=weights,
        weights_basis=basis,
        kv_cache=at.cache,
        kv_cache_size=at.cache_size,
        activations=activations,
        rest=rest,
        rest_file=at.other_file,
        pss=at.pss,
        swap=at.swap,
        above=None if peak is None else max(0, peak - at.rss),
        doubt="; ".join(doubts) or None,
    )


def _unclaimed(event: Footprint) -> int:
    """Private memory that is neither cache nor a tensor the engine knows."""
    return event.anon - event.cache - event.buffers


def _moments(data: LaunchData) -> tuple[Footprint | None, Footprint | None, list[Footprint]]:
    """The footprints before and after the last load, and those that followed."""
    start: Footprint | None = None
    loaded: Footprint | None = None
    after: list[Footprint] = []
    for event in data.events(Footprint):
        if event.moment == "start":
            start, loaded, after = event, None, []
        elif event.moment == "loaded":
            loaded, after = event, []
        elif loaded is not None:
            after.append(event)
    return start, loaded, after


def _peak(data: LaunchData) -> int | None:
    known = [event.memory.peak for event in data.events(Loaded)] + [event.memory.peak for event in data.events(Bye)]
    sampled = [max(event.rss, default=0) for event in data.events(MemorySamples)]
    return max([value for value in known if value is not None] + sampled, default=None)


def _measuring(run: RunData, threads: int) -> Iterator[LaunchData]:
    for data in run.launches:
        if data.plan is not None and data.launch.threads == threads and data.plan.trials:
            yield data


def _events(data: LaunchData) -> Sequence[object]:
    return data.stream.events if data.stream is not None else ()


def _line(
    what: Literal["KV cache", "activations", "resident"], positions: Sequence[int], values: Sequence[int]
) -> ContextGrowth:
    n = len(positions)
    x_mean, y_mean = sum(positions) / n, sum(values) / n
    spread = sum((x - x_mean) ** 2 for x in positions)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(positions, values, strict=True)) / spread
    at_zero = y_mean - slope * x_mean
    low = high = None
    if n > 2:
        left = sum((y - at_zero - slope * x) ** 2 for x, y in zip(positions, values, strict=True))
        half = student_quantile(0.05, n - 2) * (left / (n - 2) / spread) ** 0.5
        low, high = slope - half, slope + half
    return ContextGrowth(
        what=what,
        bytes_per_token=slope,
        low=low,
        high=high,
        at_zero=at_zero,
        points=n,
        fewest=min(positions),
        most=max(positions),
    )
