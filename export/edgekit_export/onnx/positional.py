"""What depends on nothing but positions, as tables: evaluated once from the trace, read by position ever after.

The exporter's graph computes rotary cosines, indices of learned positions and ALiBi's distances anew in each
step, from inputs that a bundle does not have. Each such value is evaluated at every position of the context,
checked at others than it was taken from, and replaced by a look-up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit_export.onnx.graph import MICROSOFT, Array, Graph, Node

#: The positions of the tokens at hand, int64 ``[n]``.
POSITIONS = "positions"
#: Tables of rotary cosines, indices and the like are called this and a number.
TABLE = "positions.table."

#: Evaluates values of the traced graph with ``past`` cached positions and ``new`` tokens.
Evaluate = Callable[[list[str], int, int], list[Array]]


def positional_values(graph: Graph) -> set[str]:
    """Values that follow from shapes, constants and ``position_ids``, whatever the tokens and weights are."""
    found = {*graph.constants, "position_ids"}
    for node in graph.nodes:
        if node.is_op("Shape") or all(name in found for name in node.inputs if name):
            found.update(name for name in node.outputs if name)
    return found


def tabulate(graph: Graph, caches: list[str], tokens: str, total: str, context: int, evaluate: Evaluate) -> None:
    """Replace what depends on positions, and is read by what does not, by look-ups, in place.

    Args:
        graph: attention's own inputs of this kind are gone already.
        caches: inputs whose length is the number of cached positions.
        tokens: the input of token ids ``[1, n]``.
        total: the input that holds the number of positions after this step.
        context: positions that tables are made for.
        evaluate: see :data:`Evaluate`.

    Raises:
        UnsupportedError: a value follows from positions in a way that no table holds.
    """
    known = positional_values(graph)
    moving = _moving(graph, known, caches)
    frontier = dict.fromkeys(
        name for node in graph.nodes if not set(filter(None, node.outputs)) <= known for name in node.inputs
    )
    tables: dict[tuple[int, bytes], str] = {}
    for name in frontier:
        if name not in known or name not in moving or name in graph.constants:
            continue
        axis, table = _table(name, context, evaluate)
        key = axis, f"{table.shape}{table.dtype}".encode() + table.tobytes()
        if key not in tables:
            constant = f"{TABLE}{len(tables)}"
            tables[key] = f"{constant}.rows"
            graph.constants[constant] = table
            read = Node(
                op_type="Gather",
                inputs=[constant, POSITIONS],
                outputs=[tables[key]],
                attributes={"axis": axis},
            )
            graph.nodes.insert(0, read)
        graph.rename_uses(name, tables[key])
    if tables:
        add_positions(graph, tokens, total)


def add_positions(graph: Graph, tokens: str, total: str) -> None:
    """Let the graph compute :data:`POSITIONS`, once."""
    if any(POSITIONS in node.outputs for node in graph.nodes):
        return
    names = {part: f"{POSITIONS}.{part}" for part in ("shape", "count", "total", "start", "axis", "one")}
    graph.constants[names["axis"]] = np.array(1, np.int64)
    graph.constants[names["one"]] = np.array(1, np.int64)
    graph.nodes[:0] = [
        Node(op_type="Shape", inputs=[tokens], outputs=[names["shape"]]),
        Node(op_type="Gather", inputs=[names["shape"], names["axis"]], outputs=[names["count"]]),
        Node(op_type="Cast", inputs=[total], outputs=[names["total"]], attributes={"to": 7}),
        Node(op_type="Sub", inputs=[names["total"], names["count"]], outputs=[names["start"]]),
        Node(op_type="Range", inputs=[names["start"], names["total"], names["one"]], outputs=[POSITIONS]),
    ]


def _moving(graph: Graph, known: set[str], caches: list[str]) -> set[str]:
    """Those of ``known`` that change with the number of cached positions."""
    found = {"position_ids"}
    sized = set(caches)
    for node in graph.nodes:
        if node.is_op("GroupQueryAttention", MICROSOFT):
            sized.update(node.outputs[1:])
        outputs = {name for name in node.outputs if name}
        # Whatever else has a shape is as long as the tokens at hand.
        read = found | sized if node.is_op("Shape") else found
        if outputs <= known and any(name in read for name in node.inputs):
            found |= outputs
    return found


def _table(name: str, context: int, evaluate: Evaluate) -> tuple[int, Array]:
    """The axis of positions, and the value of ``name`` at all of them."""
    (table,) = evaluate([name], 0, context)
    past, new = min(5, context - 1), max(1, min(7, context - 5))
    (part,) = evaluate([name], past, new)
    axes = [
        axis
        for axis, size in enumerate(table.shape)
        if size == context and axis < part.ndim and part.shape[axis] == new
    ]
    for axis in axes:
        rows = np.take(table, np.arange(past, past + new), axis)
        if rows.shape == part.shape and np.array_equal(rows, part):
            return axis, np.ascontiguousarray(table)
    raise UnsupportedError(
        f"the architecture computes {name!r} from positions in a way that no table holds: {list(table.shape)} for "
        f"{context} tokens, {list(part.shape)} for {new} after {past}",
        hint="its positions follow the length of the text, or mix several of them",
    )
