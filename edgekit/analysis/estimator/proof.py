"""Predictions held against published measurements: each model predicted from all others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.analysis.accounting import gguf
from edgekit.analysis.accounting.families import decoder_of
from edgekit.schema.measurements import MeasuredModel, Measurements
from edgekit.schema.model_profile import load_model_profile

MIB = 2**20


@dataclass(frozen=True)
class Prediction:
    """One quantity of one model, with a 90% interval, beside what was measured and a line through parameters."""

    model: str
    quantity: str
    measured: float
    predicted: float
    low: float
    high: float
    #: What a straight line over the number of parameters, fitted to the same other models, says.
    naive: float
    #: The runtime, and the recipe, test and threads, where there are several.
    group: str = ""
    setting: str = ""

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / self.measured - 1

    @property
    def naive_error(self) -> float:
        """Relative error of the straight line."""
        return self.naive / self.measured - 1

    @property
    def covered(self) -> bool:
        """Whether the interval holds the measured value."""
        return self.low <= self.measured <= self.high


@dataclass(frozen=True)
class Summary:
    """One quantity over all models."""

    quantity: str
    mean_error: float
    naive_mean_error: float
    coverage: float
    target: float


@dataclass(frozen=True)
class Proof:
    """Everything predicted, how far off it is on average, and what is known of errors, by quantity."""

    predictions: list[Prediction]
    summaries: list[Summary]
    remarks: dict[str, str]


#: Mean absolute relative errors to stay within.
TARGETS = {"decode": 0.08, "time to first token": 0.12, "memory": 0.05}

#: Rows of features, each with the coefficient it multiplies in the fit; all non-negative.
_Features = Sequence[float]
_Fit = Callable[[Sequence[_Features], Sequence[float]], list[float]]


def leave_one_out(data: Measurements) -> list[Prediction]:
    """Predict every model from the others.

    Decode: bytes read per token over a bandwidth, and a time per block. Time to first token: multiply-adds of the
    prompt over a rate, and a time per block. Memory: the file, cache, buffers and what is copied, and one amount for
    the process. Two parameters, two, and one; each time fitted without the model that is predicted.
    """
    return [
        *_predict(data, "decode", _decode_features, lambda row: row.decode_ms),
        *_predict(data, "time to first token", _prefill_features, lambda row: row.prefill_ms),
        *_predict_memory(data),
    ]


def proof_of(data: Measurements) -> Proof:
    """The proof on a published measurement."""
    predictions = leave_one_out(data)
    return Proof(predictions, summarize(predictions), data.remarks)


def summarize(predictions: Sequence[Prediction]) -> list[Summary]:
    """Mean absolute relative errors and coverage, by quantity."""
    found = []
    for quantity, target in TARGETS.items():
        own = [item for item in predictions if item.quantity == quantity]
        found.append(
            Summary(
                quantity,
                sum(abs(item.error) for item in own) / len(own),
                sum(abs(item.naive_error) for item in own) / len(own),
                sum(item.covered for item in own) / len(own),
                target,
            )
        )
    return found


def _decode_features(row: MeasuredModel, data: Measurements) -> _Features:
    decoder = decoder_of(load_model_profile(row.model).config, origin=row.model)
    return (gguf.q4_k_m(decoder, own_head=row.own_head).read_per_token / 1e9, len(decoder.layers))


def _prefill_features(row: MeasuredModel, data: Measurements) -> _Features:
    decoder = decoder_of(load_model_profile(row.model).config, origin=row.model)
    products = sum(matrix.elements for matrix in decoder.linears)
    return ((data.prompt * products + decoder.head.elements) / 1e9, len(decoder.layers))


def _predict(
    data: Measurements,
    quantity: str,
    features: Callable[[MeasuredModel, Measurements], _Features],
    measured: Callable[[MeasuredModel], float],
) -> list[Prediction]:
    rows = [features(row, data) for row in data.rows]
    lines = [(1.0, row.parameters / 1e9) for row in data.rows]
    values = [measured(row) for row in data.rows]
    found = []
    for index, row in enumerate(data.rows):
        predicted = _without(rows, values, index)
        factor = _interval([_without(rest, others, i) / others[i] for rest, others, i in _inner(rows, values, index)])
        found.append(
            Prediction(
                row.model,
                quantity,
                values[index],
                predicted,
                predicted / factor,
                predicted * factor,
                _without(lines, values, index),
            )
        )
    return found


def _predict_memory(data: Measurements) -> list[Prediction]:
    known = []
    for row in data.rows:
        decoder = decoder_of(load_model_profile(row.model).config, origin=row.model)
        memory = gguf.memory(decoder, context=data.context, offloaded=data.offloaded, own_head=row.own_head)
        known.append(memory.total / MIB)
    values = [row.memory_mib for row in data.rows]
    lines = [(1.0, row.parameters / 1e9) for row in data.rows]
    found = []
    for index, row in enumerate(data.rows):
        others = [position for position in range(len(values)) if position != index]
        process = _median([values[position] - known[position] for position in others])
        predicted = known[index] + process
        factor = _interval([(known[position] + process) / values[position] for position in others])
        naive = _without(lines, values, index)
        found.append(
            Prediction(row.model, "memory", values[index], predicted, predicted / factor, predicted * factor, naive)
        )
    return found


def _without(rows: Sequence[_Features], values: Sequence[float], index: int) -> float:
    """The value of row ``index`` from a fit to the others."""
    kept = [position for position in range(len(values)) if position != index]
    weights = fit([rows[position] for position in kept], [values[position] for position in kept])
    return sum(weight * feature for weight, feature in zip(weights, rows[index], strict=True))


def _inner(
    rows: Sequence[_Features], values: Sequence[float], index: int
) -> list[tuple[list[_Features], list[float], int]]:
    """The others, each of them to be left out in turn: their errors are those of predictions, not of a fit."""
    rest = [row for position, row in enumerate(rows) if position != index]
    others = [value for position, value in enumerate(values) if position != index]
    return [(rest, others, position) for position in range(len(others))]


def fit(rows: Sequence[_Features], values: Sequence[float]) -> list[float]:
    """Non-negative coefficients with the least squared relative error."""
    import numpy as np
    from scipy.optimize import nnls

    scaled = np.asarray(rows, float) / np.asarray(values, float)[:, None]
    found, _ = nnls(scaled, np.ones(len(values)))
    return [float(value) for value in found]


def _interval(ratios: Sequence[float]) -> float:
    """The factor of a 90% interval from predicted over measured values of other models."""
    from scipy.stats import t

    squares = [math.log(ratio) ** 2 for ratio in ratios if ratio > 0]
    deviation = math.sqrt(sum(squares) / len(squares))
    return math.exp(float(t.ppf(0.95, len(squares))) * deviation)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
