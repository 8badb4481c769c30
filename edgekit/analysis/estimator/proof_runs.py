"""Predictions held against runs of our own: each shape predicted from all other shapes, on both runtimes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.analysis.accounting.families import decoder_of
from edgekit.analysis.accounting.resident import Request, resident
from edgekit.analysis.configurations import configuration
from edgekit.analysis.distributions import student_quantile
from edgekit.analysis.estimator.fitting import MIN_MODELS, Case, cases_of, left_out
from edgekit.analysis.estimator.proof import Prediction, Proof, Summary
from edgekit.errors import InputError
from edgekit.schema.own_runs import OwnRow, OwnRuns
from edgekit.schema.recipe import load_recipe

MIB = 2**20
#: Mean absolute relative errors to stay within.
TARGETS = {"decode": 0.08, "time to first token": 0.10, "memory": 0.05}
_QUANTITIES = {"decode": "decode", "prefill": "time to first token"}


@dataclass(frozen=True)
class _Line:
    """A straight line over the number of parameters."""

    base: float
    slope: float

    def at(self, parameters: float) -> float:
        return self.base + self.slope * parameters


def proof_of_runs(data: OwnRuns) -> Proof:
    """The proof on runs of our own (errors as :func:`leave_one_shape_out`)."""
    predictions = leave_one_shape_out(data)
    return Proof(predictions, summarize_runs(predictions), data.remarks)


def leave_one_shape_out(data: OwnRuns, prior: Mapping[str, float] | None = None) -> list[Prediction]:
    """Predict every test of every shape, and its memory, from all other shapes.

    Times are fitted for each runtime and number of threads: a rate for each kind of weights, for the cache, attention
    and what lies between products, and a time for each block. Memory is the accounting alone and one amount for the
    process, from the other shapes.

    Raises:
        InputError: runs of fewer than :data:`~edgekit.analysis.estimator.fitting.MIN_MODELS` shapes.
    """
    cases = cases_of(data.rows)
    if len({case.source for case in cases}) < MIN_MODELS:
        raise InputError(f"proof on {data.name}: it has runs of fewer than {MIN_MODELS} shapes")
    found: list[Prediction] = []
    for runtime, threads in sorted({(case.runtime, case.threads) for case in cases}):
        own = [case for case in cases if (case.runtime, case.threads) == (runtime, threads)]
        found += _times(own, prior)
    for runtime in sorted({row.runtime for row in data.rows}):
        found += _memory([row for row in data.rows if row.runtime == runtime and row.memory], data.context)
    order = list(TARGETS)
    return sorted(found, key=lambda item: order.index(item.quantity))


def summarize_runs(predictions: Sequence[Prediction]) -> list[Summary]:
    """Mean absolute relative errors and coverage, by quantity and runtime, and over both runtimes."""
    found = []
    for quantity, target in TARGETS.items():
        for group in (*sorted({item.group for item in predictions if item.quantity == quantity}), None):
            own = [item for item in predictions if item.quantity == quantity and group in (None, item.group)]
            if own:
                found.append(
                    Summary(
                        quantity if group is None else f"{quantity}, {group}",
                        sum(abs(item.error) for item in own) / len(own),
                        sum(abs(item.naive_error) for item in own) / len(own),
                        sum(item.covered for item in own) / len(own),
                        target,
                    )
                )
    return found


def _times(cases: Sequence[Case], prior: Mapping[str, float] | None) -> list[Prediction]:
    predicted = left_out(cases, prior)
    sources = list(dict.fromkeys(case.source for case in cases))
    factors: dict[tuple[str, str], float] = {}
    for source in sources:
        # Errors of predictions for shapes that were left out as well: those are what an interval is about.
        others = [case for case in cases if case.source != source]
        inner = left_out(others, prior)
        for kind in ("decode", "prefill"):
            ratios = [
                value / case.test.median_s
                for case, value in zip(others, inner, strict=True)
                if case.test.kind == kind and value > 0
            ]
            factors[source, kind] = _factor(ratios, len(sources) - 1)
    found = []
    for case, value in zip(cases, predicted, strict=True):
        factor = factors[case.source, case.test.kind]
        alike = [other for other in cases if other.name == case.name and other.source != case.source]
        line = _line([(other.parameters, other.test.median_s) for other in alike])
        found.append(
            Prediction(
                case.source.removeprefix("arch:"),
                _QUANTITIES[case.test.kind],
                case.test.median_s * 1000,
                value * 1000,
                value / factor * 1000,
                value * factor * 1000,
                line.at(case.parameters) * 1000,
                group=case.runtime,
                setting=f"{case.name}, {case.threads} threads",
            )
        )
    return found


def _memory(rows: Sequence[OwnRow], context: int) -> list[Prediction]:
    known, parameters = [], []
    for row in rows:
        decoder = decoder_of(configuration(row.source), origin=row.source)
        assert row.memory is not None
        request = Request(
            context=context,
            longest_pass=row.memory.longest_pass,
            filled=row.memory.filled,
            tokens=row.memory.tokens,
        )
        known.append(resident(decoder, load_recipe(row.recipe), row.runtime, request).without_process)
        parameters.append(decoder.parameters)
    values = [row.memory.peak for row in rows if row.memory]
    found = []
    for at, row in enumerate(rows):
        others = [index for index, other in enumerate(rows) if other.source != row.source]
        process = _median([values[index] - known[index] for index in others])
        predicted = known[at] + process
        ratios = [(known[index] + process) / values[index] for index in others]
        factor = _factor(ratios, len({rows[index].source for index in others}))
        alike = [index for index in others if (rows[index].recipe, rows[index].threads) == (row.recipe, row.threads)]
        line = _line([(parameters[index], values[index]) for index in alike])
        found.append(
            Prediction(
                row.source.removeprefix("arch:"),
                "memory",
                values[at] / MIB,
                predicted / MIB,
                predicted / factor / MIB,
                predicted * factor / MIB,
                line.at(parameters[at]) / MIB,
                group=row.runtime,
                setting=f"{row.recipe}, {row.threads} threads",
            )
        )
    return found


def _factor(ratios: Sequence[float], shapes: int) -> float:
    """The factor of a 90% interval; tests of one shape err alike, so shapes are what counts."""
    squares = [math.log(ratio) ** 2 for ratio in ratios if ratio > 0]
    return math.exp(student_quantile(0.1, max(shapes - 1, 1)) * math.sqrt(sum(squares) / len(squares)))


def _line(points: Sequence[tuple[float, float]]) -> _Line:
    """Least squares."""
    count = len(points)
    x_mean, y_mean = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0
    return _Line(y_mean - slope * x_mean, slope)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
