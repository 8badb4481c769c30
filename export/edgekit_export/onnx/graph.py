"""The small graph model the ONNX pipeline works on, between the exporter and the file.

A :class:`Graph` is a plain list of nodes in execution order. Trained weights are not
values in it but recipes (:class:`Weight`) over the names of the source's parameters,
so that one graph serves any weights and any number of layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Domain of onnxruntime's own operators.
MICROSOFT = "com.microsoft"
#: Domain of the placeholders that binding replaces by what a recipe asks for:
#: ``Linear(x, weight[, bias])`` and ``Embed(ids, weight)``, weights laid out ``[out, in]`` as in torch.
PLACEHOLDER = "edgekit"


class Node(msgspec.Struct, kw_only=True):
    """One operator; an omitted optional input or output is the empty string."""

    op_type: str
    domain: str = ""
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = msgspec.field(default_factory=dict)

    def copy(self) -> Node:
        """A copy whose lists and attributes may be changed freely."""
        return Node(
            op_type=self.op_type,
            domain=self.domain,
            inputs=list(self.inputs),
            outputs=list(self.outputs),
            attributes=dict(self.attributes),
        )

    def is_op(self, op_type: str, domain: str = "") -> bool:
        """Whether this is the operator ``op_type`` of ``domain``."""
        return self.op_type == op_type and self.domain == domain


class Weight(msgspec.Struct, kw_only=True, frozen=True):
    """A tensor computed from parameters: ``concatenate(parts) + plus``, then transposed where asked.

    ``parts`` are names in the source's state dict, joined along axis 0. ``shape`` is that of the
    result; None on an axis stands for the vocabulary, which the trace shrinks.
    """

    parts: list[str]
    plus: float = 0.0
    transposed: bool = False


class Graph(msgspec.Struct, kw_only=True):
    """Nodes in execution order, and everything they read that no node produces."""

    nodes: list[Node]
    inputs: list[str]
    outputs: list[str]
    constants: dict[str, Array]
    weights: dict[str, Weight]

    def producers(self) -> dict[str, Node]:
        """The node behind each value that a node produces."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each value."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    found.setdefault(name, []).append(node)
        return found

    def rename_uses(self, old: str, new: str) -> None:
        """Let everything that reads ``old`` read ``new``."""
        for node in self.nodes:
            node.inputs = [new if name == old else name for name in node.inputs]
        self.outputs = [new if name == old else name for name in self.outputs]

    def prune(self) -> None:
        """Drop what no output depends on."""
        needed = ancestors(self, self.outputs)
        self.nodes = [node for node in self.nodes if any(name in needed for name in node.outputs)]
        read = {name for node in self.nodes for name in node.inputs}
        for node in self.nodes:
            node.outputs = [name if name in read or name in self.outputs else "" for name in node.outputs]
            while node.outputs and not node.outputs[-1]:
                node.outputs.pop()
        self.constants = {name: value for name, value in self.constants.items() if name in read}
        self.weights = {name: value for name, value in self.weights.items() if name in read}


def ancestors(graph: Graph, targets: Iterable[str], *, through_shapes: bool = True) -> set[str]:
    """Names of all values that ``targets`` depend on, themselves included.

    A tensor of which only the shape is read counts when ``through_shapes``.
    """
    producers = graph.producers()
    found: set[str] = set()
    stack = [name for name in targets if name]
    while stack:
        name = stack.pop()
        if name in found:
            continue
        found.add(name)
        node = producers.get(name)
        if node is not None and (through_shapes or not node.is_op("Shape")):
            stack += [name for name in node.inputs if name]
    return found


def evaluate(graph: Graph, targets: list[str], feeds: Mapping[str, Array], values: Mapping[str, Array]) -> list[Array]:
    """The values of ``targets``, computed by onnxruntime from the part of ``graph`` they depend on.

    ``feeds`` and ``values`` (of weights) may hold more than needed; one that is needed and missing is an
    error of onnxruntime's.
    """
    import onnx
    import onnxruntime

    known = {name: graph.constants[name] for name in targets if name in graph.constants}
    wanted = [name for name in targets if name not in known]
    if wanted:
        needed = ancestors(graph, wanted)
        nodes = [node for node in graph.nodes if any(name in needed for name in node.outputs)]
        used = {name: value for name, value in feeds.items() if name in needed}
        model = to_proto(
            nodes,
            inputs=[
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), list(value.shape)
                )
                for name, value in used.items()
            ],
            outputs=[onnx.ValueInfoProto(name=name) for name in wanted],
            initializers=[
                onnx.numpy_helper.from_array(value, name)
                for name, value in [*graph.constants.items(), *values.items()]
                if name in needed
            ],
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        known.update(zip(wanted, session.run(wanted, used), strict=True))
    return [known[name] for name in targets]


#: What the final graph is written for; onnxruntime 1.17 and later read all of it.
OPSET = 21
IR_VERSION = 10


def to_proto(nodes: list[Node], *, inputs: list[Any], outputs: list[Any], initializers: list[Any]) -> Any:
    """An ``onnx.ModelProto`` of these nodes, named by their position."""
    import onnx

    made = []
    for index, node in enumerate(nodes):
        proto = onnx.helper.make_node(
            node.op_type, node.inputs, node.outputs, name=f"{node.op_type}_{index}", domain=node.domain
        )
        # Sorted, so that the same graph gives the same bytes.
        for key in sorted(node.attributes):
            proto.attribute.append(onnx.helper.make_attribute(key, node.attributes[key]))
        made.append(proto)
    domains = {node.domain for node in nodes}
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    opsets += [onnx.helper.make_opsetid(domain, 1) for domain in sorted(domains - {""})]
    graph = onnx.helper.make_graph(made, "decoder", inputs, outputs, initializer=initializers)
    model = onnx.helper.make_model(graph, opset_imports=opsets, producer_name="edgekit")
    model.ir_version = IR_VERSION
    return model


def from_ir(model: Any) -> Graph:
    """The graph of an ``onnx_ir.Model``; every initializer becomes a constant.

    Raises:
        ValueError: the graph holds control flow, which this pipeline does not carry over.
    """
    graph = model.graph
    constants: dict[str, Array] = {value.name: value.const_value.numpy() for value in graph.initializers.values()}
    nodes: list[Node] = []
    for node in graph:
        if node.op_type == "Constant" and not node.domain:
            constants[node.outputs[0].name] = node.outputs[0].const_value.numpy()
            continue
        nodes.append(
            Node(
                op_type=node.op_type,
                domain=node.domain if node.domain != "ai.onnx" else "",
                inputs=["" if value is None else value.name for value in node.inputs],
                outputs=[value.name or "" for value in node.outputs],
                attributes={key: _attribute(attribute, node) for key, attribute in node.attributes.items()},
            )
        )
    return Graph(
        nodes=nodes,
        inputs=[value.name for value in graph.inputs],
        outputs=[value.name for value in graph.outputs],
        constants=constants,
        weights={},
    )


def _attribute(attribute: Any, node: Any) -> Any:
    value = attribute.value
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list) and all(isinstance(item, int | float | str) for item in value):
        return list(value)
    raise ValueError(f"{node.op_type} has an attribute {attribute.name} of type {attribute.type}")
