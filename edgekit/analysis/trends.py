"""How architectures changed over the years, counted in the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.analysis.catalogue import ModelFacts

#: Tokens per parameter at which a training budget is spent best (Hoffmann et al. 2022, "Chinchilla").
CHINCHILLA = 20


@dataclass(frozen=True)
class Share:
    """``count`` of the ``of`` models of a year whose fact is known have this value."""

    year: int
    value: str
    count: int
    of: int

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.count / self.of


@dataclass(frozen=True)
class Point:
    """One model on an axis of time: years with fractions, January is .0."""

    model: str
    at: float
    value: float
    kind: str


def year_of(model: ModelFacts) -> int | None:
    """The year of the release; None where it is unknown."""
    return int(model.released[:4]) if model.released else None


#: One function, whatever a configuration calls it.
_SAME = {
    "gelu_new": "gelu, tanh",
    "gelu_pytorch_tanh": "gelu, tanh",
    "gelu_tanh": "gelu, tanh",
    "relu2": "relu squared",
}


def shares(models: Sequence[ModelFacts], field: str, *, named: Sequence[str] = ()) -> list[Share]:
    """How often each value of a fact occurs, year by year; different names of one function count as one.

    Args:
        models: what is counted; those without a year or without the fact are not.
        field: a fact of :class:`~edgekit.analysis.catalogue.ModelFacts`.
        named: values that keep their name, in order; all others are ``other``. None named: all keep theirs.
    """
    known: dict[int, list[str]] = {}
    for model in models:
        year, value = year_of(model), getattr(model, field)
        if year is None or value is None or value == "unknown":
            continue
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else _SAME.get(str(value), str(value))
        known.setdefault(year, []).append(text if not named or text in named else "other")
    found = []
    for year, values in sorted(known.items()):
        order = [*named, "other"] if named else sorted(set(values))
        found += [Share(year, name, values.count(name), len(values)) for name in order if name in values]
    return found


def points(models: Sequence[ModelFacts], field: str, *, by: str) -> list[Point]:
    """A number of each model over time, with the fact that colours it; unknown ones are left out."""
    found = []
    for model in models:
        value, kind = getattr(model, field), getattr(model, by)
        if value is None or kind is None or not model.released:
            continue
        month = int(model.released[5:7]) if len(model.released) >= 7 else 7
        text = {True: "yes", False: "no"}[kind] if isinstance(kind, bool) else str(kind)
        found.append(Point(model.name, int(model.released[:4]) + (month - 1) / 12, float(value), text))
    return sorted(found, key=lambda point: (point.at, point.model))


def medians(found: Sequence[Point]) -> list[tuple[int, float]]:
    """Median of the points of each year."""
    years: dict[int, list[float]] = {}
    for point in found:
        years.setdefault(int(point.at), []).append(point.value)
    result = []
    for year, values in sorted(years.items()):
        values.sort()
        middle = len(values) // 2
        result.append((year, values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2))
    return result
