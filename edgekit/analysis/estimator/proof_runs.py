"""Predictions held against runs of our own: each shape predicted from all other shapes, on both runtimes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.analysis.accounting.families import decoder_of
from edgekit.analysis.accounting.formats import formats_of
from edgekit.analysis.accounting.resident import Held, Request, held_values, resident
from edgekit.analysis.configurations import configuration
from edgekit.analysis.distributions import student_quantile
from edgekit.analysis.estimator.fitting import MIN_MODELS, Case, cases_of, enough_models, left_out
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


def leave_one_shape_out(data: OwnRuns) -> list[Prediction]:
    """Predict every test of every shape, and its memory, from all other shapes.

    Times are fitted for each runtime and number of threads: rates for each kind of weights (from the last cache and
    from memory), for the KV cache, attention and what lies between products, and a time for each block and pass; one
    size of the last cache for the device. Memory is the accounting and four
    amounts for a runtime (:class:`~edgekit.analysis.accounting.resident.Held`), from the other shapes.

    Raises:
        InputError: runs of fewer than :data:`~edgekit.analysis.estimator.fitting.MIN_MODELS` shapes.
    """
    cases = enough_models(cases_of(data.rows))
    if not cases:
        raise InputError(f"proof on {data.name}: it has runs of fewer than {MIN_MODELS} shapes")
    found = _times(cases)
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


def _times(cases: Sequence[Case]) -> list[Prediction]:
    cases = sorted(cases, key=lambda case: (case.runtime, case.threads))
    predicted = left_out(cases)
    factors: dict[tuple[str, str, int, str], float] = {}
    for source in dict.fromkeys(case.source for case in cases):
        # Errors of predictions for shapes that were left out as well: those are what an interval is about.
        others = [case for case in cases if case.source != source]
        ratios: dict[tuple[str, int, str], list[float]] = {}
        for case, value in zip(others, left_out(others), strict=True):
            ratios.setdefault((case.runtime, case.threads, case.test.kind), []).append(value / case.test.median_s)
        for group, own in ratios.items():
            factors[source, *group] = _factor(own, len({case.source for case in others}))
    found = []
    for case, value in zip(cases, predicted, strict=True):
        factor = factors[case.source, case.runtime, case.threads, case.test.kind]
        alike = [
            other
            for other in cases
            if (other.runtime, other.threads, other.name) == (case.runtime, case.threads, case.name)
            and other.source != case.source
        ]
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


@dataclass(frozen=True)
class _Footprint:
    """One row's peak, and what of it is known without any fit."""

    row: OwnRow
    parameters: int
    peak: int
    known: int
    #: What each amount of :class:`Held` is multiplied by.
    factors: tuple[float, float, float, float]

    def at(self, held: Held) -> float:
        """The peak with these amounts, bytes."""
        amounts = (held.process, held.layer, held.live, held.live_rounded)
        return self.known + sum(factor * amount for factor, amount in zip(self.factors, amounts, strict=True))


def _footprint(row: OwnRow, context: int) -> _Footprint:
    assert row.memory is not None
    decoder, recipe = decoder_of(configuration(row.source), origin=row.source), load_recipe(row.recipe)
    memory = row.memory
    request = Request(context, memory.longest_pass, memory.filled, memory.tokens)
    known = resident(decoder, recipe, row.runtime, request, Held(0, 0, 0, 0)).without_process
    values = held_values(decoder, formats_of(decoder, recipe, row.runtime), row.runtime, request)
    return _Footprint(row, decoder.parameters, memory.peak, known, (1, len(decoder.layers), *values))


def fit_held(rows: Sequence[_Footprint]) -> Held:
    """What a runtime holds beside weights and cache, with the least relative errors."""
    import numpy as np
    from scipy.optimize import nnls

    peaks = np.asarray([row.peak for row in rows], float)
    matrix = np.asarray([row.factors for row in rows]) / peaks[:, None]
    scale = np.maximum(matrix.max(axis=0), 1e-30)
    found, _ = nnls(matrix / scale, 1 - np.asarray([row.known for row in rows]) / peaks)
    return Held(*(float(value) for value in found / scale))


def _memory(rows: Sequence[OwnRow], context: int) -> list[Prediction]:
    every = [_footprint(row, context) for row in rows]
    found = []
    for item in every:
        others = [other for other in every if other.row.source != item.row.source]
        predicted = item.at(fit_held(others))
        ratios = []
        for source in dict.fromkeys(other.row.source for other in others):
            inner = fit_held([other for other in others if other.row.source != source])
            ratios += [other.at(inner) / other.peak for other in others if other.row.source == source]
        factor = _factor(ratios, len({other.row.source for other in others}))
        alike = [other for other in others if _kind(other.row) == _kind(item.row)]
        line = _line([(other.parameters, other.peak) for other in alike])
        found.append(
            Prediction(
                item.row.source.removeprefix("arch:"),
                "memory",
                item.peak / MIB,
                predicted / MIB,
                predicted / factor / MIB,
                predicted * factor / MIB,
                line.at(item.parameters) / MIB,
                group=item.row.runtime,
                setting=f"{item.row.recipe}, {item.row.threads} threads",
            )
        )
    return found


def _kind(row: OwnRow) -> tuple[str, int]:
    return row.recipe, row.threads


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
