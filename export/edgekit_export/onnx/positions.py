"""Computing logits for the last position only.

Everything after the last layer's attention works on each position by itself, so all
of it can run on the last position alone; prefill then skips the head and most of one layer.
"""

from __future__ import annotations

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit_export.onnx.graph import MICROSOFT, PLACEHOLDER, Graph, Node
from edgekit_export.onnx.interface import LOGITS

#: Ends the names of values that were cut down to the last position.
LAST = "/last_position"
_INDEX = "last_position.index"

#: Operators that treat axis 1 (positions) of their ``[1, n, width]`` inputs as a batch.
_POSITIONWISE = {
    (PLACEHOLDER, "Linear"),
    ("", "SimplifiedLayerNormalization"),
    ("", "LayerNormalization"),
    ("", "RMSNormalization"),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"),
    (MICROSOFT, "SkipLayerNormalization"),
    (MICROSOFT, "QuickGelu"),
    (MICROSOFT, "FastGelu"),
    (MICROSOFT, "BiasGelu"),
    *(
        ("", name)
        for name in ("Add", "Sub", "Mul", "Div", "Sigmoid", "Tanh", "Relu", "Gelu", "Erf", "Pow", "Sqrt", "Clip", "Neg")
    ),
}


def keep_last_position(graph: Graph) -> None:
    """Cut the graph's logits down to ``[1, 1, vocab]``, as early as that is exact.

    Raises:
        UnsupportedError: the logits do not come from position-wise operators.
    """
    consumers = graph.consumers()
    after: set[int] = set()
    for node in reversed(graph.nodes):
        read_by = [reader for name in node.outputs for reader in consumers.get(name, [])]
        exposed = [name for name in node.outputs if name in graph.outputs]
        ends = exposed == [LOGITS] and not read_by
        inside = not exposed and bool(read_by) and all(id(reader) in after for reader in read_by)
        if (ends or inside) and _is_positionwise(node):
            after.add(id(node))
    if not after:
        raise UnsupportedError("compute logits of the last position only: they come from an unknown operator")
    produced = {name for node in graph.nodes if id(node) in after for name in node.outputs}
    nodes: list[Node] = []
    cut: set[str] = set()
    for node in graph.nodes:
        if id(node) in after:
            for position, name in enumerate(node.inputs):
                if not name or name in produced or name in graph.weights or name in graph.constants:
                    continue
                if name not in cut:
                    nodes.append(
                        Node(op_type="Gather", inputs=[name, _INDEX], outputs=[name + LAST], attributes={"axis": 1})
                    )
                    cut.add(name)
                node.inputs[position] = name + LAST
        nodes.append(node)
    graph.nodes = nodes
    graph.constants[_INDEX] = np.array([-1], np.int64)


def _is_positionwise(node: Node) -> bool:
    if node.is_op("Split"):
        return node.attributes.get("axis") in (-1, 2)
    if node.op_type.endswith("Normalization") and node.attributes.get("axis", -1) not in (-1, 2):
        return False
    return (node.domain, node.op_type) in _POSITIONWISE
