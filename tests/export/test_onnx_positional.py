"""What masks and positions of a trace mean."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import UnsupportedError
from edgekit_export.onnx.graph import Graph, Node
from edgekit_export.onnx.masks import read_mask
from edgekit_export.onnx.positional import TABLE, tabulate

LOWEST = np.finfo(np.float32).min


def mask(past: int, new: int, allowed, bias=None):
    query, key = np.arange(past, past + new)[:, None], np.arange(past + new)[None]
    shown = np.broadcast_to(allowed(query, key), (new, past + new))
    values = np.zeros((1, 1, new, past + new)) if bias is None else bias(query, key)
    return past, np.where(shown, values, LOWEST).astype(np.float32)


def samples(allowed, bias=None):
    return [mask(past, new, allowed, bias) for past, new in ((0, 16), (5, 16), (40, 16), (63, 1))]


def test_masks_are_read_for_what_they_mean() -> None:
    assert read_mask(samples(lambda q, k: k <= q)) == (None, None)
    assert read_mask(samples(lambda q, k: (k <= q) & (k > q - 24))) == (24, None)
    slopes = np.array([0.5, 0.25, -0.1])
    # A row's constant changes nothing: distances may count from anywhere.
    for offset in (0, 7):
        found = read_mask(
            samples(lambda q, k: k <= q, lambda q, k, o=offset: slopes[None, :, None, None] * (k + o * q))
        )
        assert found.window is None
        np.testing.assert_allclose(found.slopes, slopes, rtol=1e-5)


@pytest.mark.parametrize(
    ("allowed", "bias", "said"),
    [
        (lambda q, k: k >= 0, None, "neither causal"),
        (lambda q, k: (k <= q) & (k % 3 != 1), None, "neither causal"),
        (lambda q, k: (k <= q) & (k > q - 8 - q // 30), None, "changes with the position"),
        (lambda q, k: k <= q, lambda q, k: np.sqrt(np.abs(q - k))[None, None], "not ALiBi"),
        (lambda q, k: k <= q, lambda q, k: ((k - q) * (1 + q % 2))[None, None], "not ALiBi"),
    ],
)
def test_masks_of_another_kind_are_refused(allowed, bias, said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        read_mask(samples(allowed, bias))


def graph() -> Graph:
    """``input_ids`` plus a table that follows from ``position_ids``."""
    return Graph(
        nodes=[
            Node(op_type="Mul", inputs=["position_ids", "two"], outputs=["doubled"]),
            Node(op_type="Add", inputs=["input_ids", "doubled"], outputs=["logits"]),
        ],
        inputs=["input_ids", "position_ids"],
        outputs=["logits"],
        constants={"two": np.array(2)},
        weights={},
    )


def test_what_follows_from_positions_becomes_a_table() -> None:
    made = graph()
    tabulate(made, [], "input_ids", "total", 32, lambda names, past, new: [2 * np.arange(past, past + new)[None]])
    np.testing.assert_array_equal(made.constants[f"{TABLE}0"], 2 * np.arange(32)[None])
    assert [node.op_type for node in made.nodes] == [
        "Shape", "Gather", "Cast", "Sub", "Range", "Gather", "Mul", "Add",
    ]  # fmt: skip
    assert made.nodes[-1].inputs == ["input_ids", f"{TABLE}0.rows"]


def test_what_follows_the_length_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no table holds"):
        tabulate(graph(), [], "input_ids", "total", 32, lambda names, past, new: [np.arange(new)[None] * (past + new)])
