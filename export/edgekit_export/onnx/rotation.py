"""Rotation of a part of each head, left to attention.

The exporter rotates the first part of each head by itself (slice, rotate, concatenate) where a family rotates
only that. GroupQueryAttention does the same where its tables are narrower than half a head.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit_export.onnx.graph import MICROSOFT, Array, Graph, Node
from edgekit_export.onnx.positional import TABLE

#: GroupQueryAttention takes tables of a multiple of this many columns.
_MULTIPLE = 8
_COS, _SIN = 7, 8
_SWAP = [0, 2, 1, 3]


class _Partial:
    """What a rotation of the first part of each head consists of."""

    def __init__(self, heads: str, cos: str, sin: str, interleaved: int) -> None:
        self.heads, self.cos, self.sin, self.interleaved = heads, cos, sin, interleaved

    @property
    def tables(self) -> tuple[str, str, int]:
        return self.cos, self.sin, self.interleaved


def rotate_in_attention(graph: Graph, attentions: list[Node], count: Callable[[str], Array]) -> None:
    """Let attention rotate wherever query and key come from such a rotation, in place.

    ``count``: the value of something that depends on the number of new tokens alone, for seven of them.
    """
    for node in attentions:
        producers = graph.producers()
        found = [_partial(graph, producers, node.inputs[position], count) for position in (0, 1)]
        query, key = found
        if query is None or key is None or query.tables != key.tables or _has(node, _COS):
            continue
        cos = graph.constants[query.cos]
        if cos.ndim != 2 or cos.shape[1] % _MULTIPLE:
            continue
        for position, partial in ((0, query), (1, key)):
            chain = producers[node.inputs[position]]
            swap = producers[chain.inputs[0]]
            before = producers.get(partial.heads)
            # [1, heads, n, size] was swapped to be rotated, and is swapped back.
            if before is not None and before.is_op("Transpose") and before.attributes.get("perm") == _SWAP:
                flat = Node(
                    op_type="Reshape", inputs=[before.inputs[0], chain.inputs[1]], outputs=[f"{swap.outputs[0]}/flat"]
                )
                graph.nodes.insert(graph.nodes.index(chain), flat)
                node.inputs[position] = flat.outputs[0]
            else:
                swap.inputs = [partial.heads]
        node.inputs += [""] * (_SIN + 1 - len(node.inputs))
        node.inputs[_COS], node.inputs[_SIN] = query.cos, query.sin
        node.attributes |= {"do_rotary": 1, "rotary_interleaved": query.interleaved}


def _has(node: Node, position: int) -> bool:
    return len(node.inputs) > position and bool(node.inputs[position])


def _partial(graph: Graph, producers: dict[str, Node], value: str, count: Callable[[str], Array]) -> _Partial | None:
    """The rotation behind ``value``: Reshape(Transpose(Concat(RotaryEmbedding(Slice(heads)), Slice(heads))))."""
    chain = []
    for op_type in ("Reshape", "Transpose", "Concat"):
        node = producers.get(value)
        if node is None or not node.is_op(op_type):
            return None
        chain.append(node)
        value = node.inputs[0]
    concat, rotation = chain[2], producers.get(value)
    if (
        chain[1].attributes.get("perm") != _SWAP
        or len(concat.inputs) != 2
        or concat.attributes.get("axis") not in (-1, 3)
    ):
        return None
    if rotation is None or not rotation.is_op("RotaryEmbedding", MICROSOFT) or len(rotation.inputs) < 4:
        return None
    first, second = producers.get(rotation.inputs[0]), producers.get(concat.inputs[1])
    if first is None or second is None or not first.is_op("Slice") or not second.is_op("Slice"):
        return None
    if first.inputs[0] != second.inputs[0]:
        return None
    tables = [_table_of(graph, producers, name) for name in rotation.inputs[2:4]]
    if len(tables) != 2 or not all(tables):
        return None
    width = 2 * graph.constants[tables[0] or ""].shape[1]
    ranges = [_range(graph, node) for node in (first, second)]
    if ranges[0] != (0, width) or ranges[1] is None or ranges[1][0] != width:
        return None
    if not np.array_equal(np.ravel(count(rotation.inputs[1])), np.arange(7)):
        return None
    return _Partial(first.inputs[0], tables[0] or "", tables[1] or "", int(rotation.attributes.get("interleaved", 0)))


def _table_of(graph: Graph, producers: dict[str, Node], rows: str) -> str | None:
    node = producers.get(rows)
    if node is None or not node.is_op("Gather") or not node.inputs[0].startswith(TABLE):
        return None
    return node.inputs[0] if graph.constants[node.inputs[0]].ndim == 2 and node.attributes.get("axis") == 0 else None


def _range(graph: Graph, node: Node) -> tuple[int, int] | None:
    """Begin and end of a slice along the last axis."""
    values = [graph.constants.get(name) for name in node.inputs[1:]]
    if len(values) < 3 or any(value is None or value.size != 1 for value in values):
        return None
    start, end, axis, *step = (int(np.ravel(value)[0]) for value in values if value is not None)
    return (start, end) if axis in (-1, 3) and step in ([], [1]) else None
