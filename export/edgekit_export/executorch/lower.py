"""From the traced ATen graph to XNNPACK's operations, section by section."""

from __future__ import annotations

from typing import Any

import torch

from edgekit.errors import UnsupportedError
from edgekit_export.executorch.graph import Op, Operand, Parameter, Section, Value
from edgekit_export.executorch.lower_arithmetic import ArithmeticOps
from edgekit_export.executorch.lower_attention import AttentionOps
from edgekit_export.executorch.lower_base import Columns, Seen, is_node
from edgekit_export.executorch.lower_layout import LayoutOps
from edgekit_export.executorch.modules import ModuleNames
from edgekit_export.executorch.trace import Trace


class Lowering(LayoutOps, ArithmeticOps, AttentionOps):
    """Sections of a traced model: ``embed``, ``layers`` in traced order, ``head``."""

    def __init__(self, trace: Trace, *, prefix: str, vocabulary: tuple[int, int]) -> None:
        super().__init__(trace, vocabulary=vocabulary)
        self._source: Value | None = None
        self.layers: list[Section] = []
        self._after_layers = sum(1 for node in trace.graph.nodes if is_node(node, "edgekit.mark") and node.args[2])
        modules = ModuleNames(trace.graph, prefix)
        for node in trace.graph.nodes:
            self._module = modules(node)
            self._visit(node)

    def _visit(self, node: torch.fx.Node) -> None:
        if node.op == "placeholder":
            self._placeholder(node)
        elif node.op == "output":
            (logits,) = node.args[0]
            self.head = self._cut(self._stored(self._operand(logits)))
        elif node.op == "call_function":
            if is_node(node, "edgekit.mark"):
                self._mark(node)
            elif node not in self._positional:
                # What depends on positions alone is evaluated where it is used, if it is.
                self._call(node)
        else:
            raise UnsupportedError(f"export to ExecuTorch: a {node.op} node in the traced graph")

    def _placeholder(self, node: torch.fx.Node) -> None:
        trace, name = self._trace, node.name
        if name in trace.parameters:
            self._seen[node] = Seen(Parameter(trace.parameters[name], self._fixed(node)))
        elif name == trace.tokens:
            self._seen[node] = Seen(Value("input.tokens", (1, None)))

    def _mark(self, node: torch.fx.Node) -> None:
        hidden = self._stored(self._operand(node.args[0]))
        if node.args[2]:
            self.layers.append(self._cut(hidden))
            if len(self.layers) == self._after_layers:
                # Only the last position's logits are wanted: the rest of the model sees that one alone.
                self._single = True
                last = self._new((1, 1, hidden.shape[-1]))
                self._ops.append(Op("last", (hidden,), last))
                hidden = last
        elif not self.layers:
            self.embed = self._cut(hidden)
        self._seen[node] = Seen(hidden)

    def _cut(self, result: Operand) -> Section:
        if not isinstance(result, Value):
            raise UnsupportedError("export to ExecuTorch: a layer whose result is constant")
        section = Section(tuple(self._ops), self._source, result)
        self._ops, self._source = [], result
        return section

    def _call(self, node: torch.fx.Node) -> None:
        target = str(node.target).removesuffix(".default")
        name = target.removeprefix("aten.").removeprefix("edgekit.")
        handler = getattr(self, "_do_" + name.replace(".", "_"), None)
        if name in _IGNORED:
            return
        if "getitem" in name:
            parts = self._seen[node.args[0]]
            assert isinstance(parts, list)
            self._seen[node] = parts[int(node.args[1])]
        elif name in _IDENTITIES:
            self._seen[node] = self._pending(node.args[0]) or self._operand(node.args[0])
        elif name == "neg" and self._pending(node.args[0]) is not None:
            pending = self._columns(node.args[0])
            self._seen[node] = Columns(pending.base, -pending.matrix)
        elif name in _UNARY:
            self._seen[node] = self._elementwise(_UNARY[name], node, node.args[0])
        elif name in _BINARY and not _scaled(node):
            self._seen[node] = self._elementwise(_BINARY[name], node, node.args[0], node.args[1])
        elif handler is not None:
            self._seen[node] = handler(node)
        else:
            raise UnsupportedError(
                f"export to ExecuTorch: the model computes {target}, for which no XNNPACK operation is known",
                hint="export it to onnxruntime",
            )


_IGNORED = ("_assert_tensor_metadata", "sym_size.int", "_assert_scalar", "sym_constrain_range_for_size")
_IDENTITIES = (
    "to.dtype",
    "to.device",
    "to.dtype_layout",
    "type_as",
    "clone",
    "contiguous",
    "dropout",
    "alias",
    "detach",
    "_to_copy",
)
_UNARY = {
    "neg": "Negate",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "rsqrt": "ReciprocalSquareRoot",
    "sqrt": "SquareRoot",
    "square": "Square",
    "abs": "Abs",
    "exp": "Exp",
}
_BINARY = {
    "add.Tensor": "Add",
    "add_.Tensor": "Add",
    "mul.Tensor": "Multiply",
    "mul_.Tensor": "Multiply",
    "sub.Tensor": "Subtract",
    "div.Tensor": "Div",
    "add.Scalar": "Add",
    "mul.Scalar": "Multiply",
    "maximum": "Maximum",
    "minimum": "Minimum",
}


def _scaled(node: torch.fx.Node) -> Any:
    """Options, such as a factor of the second operand, that XNNPACK's operation has not."""
    return node.kwargs
