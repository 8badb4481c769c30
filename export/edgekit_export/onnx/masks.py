"""What an attention mask of the trace means: causal, a sliding window, ALiBi, or something that is not served."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit_export.onnx.graph import Array, Graph, Node
from edgekit_export.onnx.positional import POSITIONS, add_positions

#: A mask forbids with the most negative float; anything below this is taken for "forbidden".
_FORBIDDEN = -1e30
#: ALiBi's biases are slopes times distances, up to float32's rounding of biases of this size.
_ROUNDING = 1e-6


class Mask(NamedTuple):
    """A causal mask: ``window`` positions are seen (None: all), and distances count by ``slopes`` ``[heads]``."""

    window: int | None
    slopes: Array | None


def read_mask(samples: list[tuple[int, Array]]) -> Mask:
    """The meaning of a mask from its values.

    Args:
        samples: (cached positions, mask float32 ``[1, 1 or heads, new, past + new]``), at several places.

    Raises:
        UnsupportedError: it is none of what is served.
    """
    window: int | None = None
    slopes: Array | None = None
    for past, bias in samples:
        new, total = bias.shape[2], bias.shape[3]
        if total != past + new:
            bias = np.broadcast_to(bias, (*bias.shape[:2], new, past + new))
        allowed = bias > _FORBIDDEN
        query, key = np.arange(past, past + new)[:, None], np.arange(past + new)[None]
        causal = np.broadcast_to(key <= query, allowed.shape)
        if not np.array_equal(allowed, causal):
            found = int(allowed[0, 0, -1].sum())
            if not np.array_equal(allowed, causal & np.broadcast_to(key > query - found, allowed.shape)):
                raise UnsupportedError("the attention mask is neither causal nor a sliding window")
            if window not in (None, found):
                raise UnsupportedError(f"the attention window changes with the position: {window}, then {found}")
            window = found
        seen = np.where(allowed, bias, 0)
        if seen.any() or slopes is not None:
            slopes = _slopes(seen, allowed, query, key, slopes)
    return Mask(window, slopes)


def _slopes(seen: Array, allowed: Array, query: Array, key: Array, known: Array | None) -> Array | None:
    """Slopes per head by which each row grows along the keys; a row's constant does not matter to softmax."""
    if seen.shape[3] < 2:
        return known
    last = seen[0, :, -1].astype(np.float64)
    found = last[:, -1] - last[:, -2] if known is None else known.astype(np.float64)
    distance = (key - query).astype(np.float64)
    own = np.where(query == key, seen[0].astype(np.float64), 0).sum(-1, keepdims=True)
    wanted = found[:, None, None] * distance + own
    off = np.abs(np.where(allowed[0], seen[0] - wanted, 0)).max()
    if off > _ROUNDING * max(1.0, float(np.abs(seen).max())) * seen.shape[3]:
        raise UnsupportedError(
            "attention adds a bias to its scores that is not ALiBi's (slopes times distances)",
            hint="relative positions other than rotary ones and ALiBi are not served",
        )
    return found.astype(np.float32)


def add_distances(graph: Graph, slopes: Array, tokens: str, total: str) -> str:
    """The bias ``[1, heads, n, total]`` of these slopes: how far each key lies behind each query, times the slope."""
    add_positions(graph, tokens, total)
    name = f"alibi.{slopes.tobytes().hex()[:16]}"
    if any(name in node.outputs for node in graph.nodes):
        return name
    after = next(at for at, node in enumerate(graph.nodes) if POSITIONS in node.outputs) + 1
    zero, axis = "alibi.zero", "alibi.axis"
    graph.constants |= {zero: np.array(0, np.int64), axis: np.array([1], np.int64)}
    graph.constants[f"{name}.slopes"] = slopes.reshape(1, -1, 1, 1)
    graph.nodes[after:after] = [
        Node(op_type="Range", inputs=[zero, f"{POSITIONS}.total", f"{POSITIONS}.one"], outputs=[f"{name}.keys"]),
        Node(op_type="Unsqueeze", inputs=[POSITIONS, axis], outputs=[f"{name}.queries"]),
        Node(op_type="Sub", inputs=[f"{name}.keys", f"{name}.queries"], outputs=[f"{name}.offsets"]),
        Node(op_type="Cast", inputs=[f"{name}.offsets"], outputs=[f"{name}.distances"], attributes={"to": 1}),
        Node(op_type="Mul", inputs=[f"{name}.slopes", f"{name}.distances"], outputs=[name]),
    ]
    return name
