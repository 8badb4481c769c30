"""Which parameters a traced initializer was made of.

The trace runs on unique random weights, so what the exporter folded together
(transposed, packed side by side, shifted by one) is recognised by exact value.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit_export.onnx.graph import Array, Graph, Weight


def name_weights(graph: Graph, parameters: Mapping[str, Array]) -> None:
    """Turn every constant of ``graph`` that was made of ``parameters`` into a :class:`Weight`.

    Constants that match nothing stay; :func:`unexplained` lists those that may hide a weight.
    """
    for name, value in list(graph.constants.items()):
        if value.dtype != np.float32 or value.ndim == 0:
            continue
        weight = _match(value, parameters)
        if weight is not None:
            del graph.constants[name]
            graph.weights[name] = weight


def unexplained(graph: Graph) -> list[str]:
    """Constants with several floating-point values, which are neither arithmetic nor shapes."""
    return sorted(
        name
        for name, value in graph.constants.items()
        # Random weights are never all the same: such a tensor is what a norm without a weight multiplies with.
        if value.size > 1 and np.issubdtype(value.dtype, np.floating) and (value != value.flat[0]).any()
    )


def _match(value: Array, parameters: Mapping[str, Array]) -> Weight | None:
    # Some families compute (1 + weight) in their norms, which constant folding turns into one tensor.
    for plus in (0.0, 1.0):
        for transposed in (False, True) if value.ndim == 2 else (False,):
            parts = _rows(value.T if transposed else value, parameters, np.float32(plus))
            if parts:
                return Weight(parts=parts, plus=plus, transposed=transposed)
    return None


def _rows(value: Array, parameters: Mapping[str, Array], plus: np.float32) -> list[str]:
    """Names of the parameters that make up ``value`` along axis 0, or nothing."""
    parts: list[str] = []
    start = 0
    while start < len(value):
        for name, parameter in parameters.items():
            rows = len(parameter) if parameter.ndim else 0
            if (
                rows
                and parameter.shape[1:] == value.shape[1:]
                and start + rows <= len(value)
                and np.array_equal(parameter[0] + plus, value[start])
                and np.array_equal(parameter + plus, value[start : start + rows])
            ):
                parts.append(name)
                start += rows
                break
        else:
            return []
    return parts
