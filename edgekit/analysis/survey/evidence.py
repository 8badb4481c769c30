"""What the claims are tested on: timings, memory and shares of models, whoever measured them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["prefill", "decode"]
#: In what two models of a pair differ, sizes being equal.
Property = Literal["depth", "feed-forward ratio", "vocabulary", "sharing", "attention", "several"]

#: Models are of one size when the largest has at most this share more parameters than the smallest.
ONE_SIZE = 0.10


@dataclass(frozen=True)
class Shape:
    """A model as the claims see it. ``parameters`` are unique: a tied matrix counts once."""

    name: str
    parameters: int
    #: Width of all query heads, and of all key (or value) heads, over all layers.
    query_width: int
    cache_width: int
    vocabulary: int
    tied: bool


@dataclass(frozen=True)
class Subject:
    """One model in one format with one runtime and context."""

    shape: Shape
    recipe: str
    #: Bits of a weight of the linear layers, scales left out; 16 or more: not quantized.
    bits: float
    runtime: str
    context: int
    processor: Literal["cpu", "gpu"] = "cpu"


@dataclass(frozen=True)
class Timing:
    """Times of one test: seconds per token by round. What shares a ``group`` was measured in turn, round by round."""

    subject: Subject
    group: str
    threads: int
    phase: Phase
    tokens: int
    depth: int
    seconds: Mapping[int, float]


@dataclass(frozen=True)
class Memory:
    """Bytes held by one subject; ``parts`` None where the split is not known."""

    subject: Subject
    #: Tokens that were in the cache at most.
    filled: int
    total: int
    weights: int | None = None
    kv_cache: int | None = None
    #: Activations, scores, logits: what is computed with.
    compute: int | None = None
    #: Bytes of one element of the cache.
    cache_element: float = 2


@dataclass(frozen=True)
class Shares:
    """Shares of a pass's time. None where they were not measured."""

    subject: Subject
    phase: Phase
    matrix_products: float | None
    lm_head: float | None


@dataclass(frozen=True)
class Stamina:
    """One long run: the speed it settled at over the speed at its start."""

    subject: Subject
    seconds: float
    retained: float


@dataclass(frozen=True)
class Contrast:
    """Two models of one size that differ in one property; names as in :class:`Shape`."""

    property: Property
    one: str
    other: str


@dataclass(frozen=True)
class Evidence:
    """All that is known from one source."""

    title: str
    device: str
    timings: Sequence[Timing] = ()
    memories: Sequence[Memory] = ()
    shares: Sequence[Shares] = ()
    stamina: Sequence[Stamina] = ()
    contrasts: Sequence[Contrast] = ()
    #: Why something that a claim needs is not there, by the claim's number.
    gaps: Mapping[int, str] = field(default_factory=dict)
    #: What could not be read.
    faults: Sequence[str] = ()


@dataclass(frozen=True)
class Cell:
    """What must be equal for two models to be compared."""

    group: str
    runtime: str
    processor: str
    context: int
    threads: int


def cell_of(timing: Timing) -> Cell:
    """The cell that a timing belongs to."""
    subject = timing.subject
    return Cell(timing.group, subject.runtime, subject.processor, subject.context, timing.threads)


def by_cell(timings: Iterable[Timing]) -> dict[Cell, list[Timing]]:
    """Timings that may be compared with each other."""
    found: dict[Cell, list[Timing]] = {}
    for timing in timings:
        found.setdefault(cell_of(timing), []).append(timing)
    return found


def shared_rounds(timings: Iterable[Timing]) -> list[int]:
    """Rounds in which every one of the timings has a value, in order."""
    sets = [set(timing.seconds) for timing in timings]
    return sorted(set.intersection(*sets)) if sets else []


def one_size(shapes: Iterable[Shape]) -> list[Shape]:
    """The largest set of different models of one size; of equally large ones, that of the smallest models."""
    ordered = sorted({shape.name: shape for shape in shapes}.values(), key=lambda shape: (shape.parameters, shape.name))
    best: list[Shape] = []
    for first, smallest in enumerate(ordered):
        window = [shape for shape in ordered[first:] if shape.parameters <= smallest.parameters * (1 + ONE_SIZE)]
        if len(window) > len(best):
            best = window
    return best


def alike(one: Shape, other: Shape) -> bool:
    """Whether two models are of one size."""
    sizes = sorted((one.parameters, other.parameters))
    return sizes[1] <= sizes[0] * (1 + ONE_SIZE)
