"""From the traced ATen graph to XNNPACK's operations, section by section.

Attention works on ``[1, n, heads, d]`` and everything else is row by row, so the swaps of positions and heads
that models write around rotary embeddings are never carried out: a value remembers that it stands for its swap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from edgekit.errors import UnsupportedError
from edgekit.schema.operators import Module
from edgekit_export.executorch.graph import Literal, Op, Operand, Parameter, Section, Shape, Value
from edgekit_export.executorch.modules import ModuleNames
from edgekit_export.executorch.trace import Trace

_END = 2**62


@dataclass(frozen=True)
class _Seen:
    """An operand as the graph sees it; ``swapped``: dimensions 1 and 2 are exchanged in memory."""

    item: Operand
    swapped: bool = False


class Lowering:
    """Sections of a traced model: ``embed``, ``layers`` in traced order, ``head``."""

    def __init__(self, trace: Trace, *, prefix: str, vocabulary: tuple[int, int]) -> None:
        self._trace = trace
        self._traced_vocabulary, self._vocabulary = vocabulary
        self._seen: dict[torch.fx.Node, Any] = {}
        self._ops: list[Op] = []
        self._source: Value | None = None
        self._single = False
        self._count = 0
        self.layers: list[Section] = []
        self.rotary: dict[str, torch.Tensor] = {}
        self._after_layers = sum(1 for node in trace.graph.nodes if _is(node, "edgekit.mark") and node.args[2])
        modules = ModuleNames(trace.graph, prefix)
        self._module: Module = "other"
        for node in trace.graph.nodes:
            self._module = modules(node)
            self._visit(node)

    # -- the walk ------------------------------------------------------------------------------------------

    def _visit(self, node: torch.fx.Node) -> None:
        if node.op == "placeholder":
            self._placeholder(node)
        elif node.op == "output":
            (logits,) = node.args[0]
            self.head = self._cut(self._stored(self._seen[logits]))
        elif node.op == "call_function":
            if _is(node, "edgekit.mark"):
                self._mark(node)
            else:
                self._call(node)
        else:
            raise UnsupportedError(f"export to ExecuTorch: a {node.op} node in the traced graph")

    def _placeholder(self, node: torch.fx.Node) -> None:
        trace, name = self._trace, node.name
        if name in trace.parameters:
            self._seen[node] = _Seen(Parameter(trace.parameters[name], self._fixed(node)))
        elif name in trace.constants:
            self._seen[node] = _Seen(Literal(trace.constants[name]))
        elif name == trace.tokens:
            self._seen[node] = _Seen(Value("input.tokens", (1, None)))
        else:
            table = trace.rotary[name]
            self.rotary[f"input.{name}"] = table
            self._seen[node] = _Seen(Value(f"input.{name}", (None, 1, table.shape[-1])))

    def _mark(self, node: torch.fx.Node) -> None:
        hidden = self._stored(self._seen[node.args[0]])
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
        self._seen[node] = _Seen(hidden)

    def _cut(self, result: Operand) -> Section:
        if not isinstance(result, Value):
            raise UnsupportedError("export to ExecuTorch: a layer whose result is constant")
        section = Section(tuple(self._ops), self._source, result)
        self._ops, self._source = [], result
        return section

    # -- operations ----------------------------------------------------------------------------------------

    def _call(self, node: torch.fx.Node) -> None:
        target = str(node.target).removesuffix(".default")
        name = target.removeprefix("aten.")
        handler = getattr(self, "_do_" + name.replace(".", "_").replace("edgekit_", ""), None)
        if name in _IGNORED or (isinstance(node.args[0], torch.fx.Node) and node.args[0] not in self._seen):
            # Positions and masks that end nowhere: what does use them is refused in _operand.
            return
        if name in _IDENTITIES:
            self._seen[node] = self._seen[node.args[0]]
        elif name in _UNARY:
            self._seen[node] = self._elementwise(_UNARY[name], node, node.args[0])
        elif name in _BINARY and not node.kwargs:
            self._seen[node] = self._elementwise(_BINARY[name], node, node.args[0], node.args[1])
        elif handler is not None:
            self._seen[node] = handler(node)
        elif not any(isinstance(argument, torch.fx.Node) for argument in _flat(node.args)):
            return
        else:
            raise UnsupportedError(
                f"export to ExecuTorch: the model computes {target}, for which no XNNPACK operation is known",
                hint="export it to onnxruntime",
            )

    def _do_linear(self, node: torch.fx.Node) -> _Seen:
        seen = self._operand(node.args[0])
        weight = self._operand(node.args[1]).item
        bias = self._operand(node.args[2]).item if len(node.args) > 2 and node.args[2] is not None else None
        inputs = (seen.item, weight) if bias is None else (seen.item, weight, bias)
        if not isinstance(weight, Parameter) or not isinstance(seen.item, Value):
            raise UnsupportedError("export to ExecuTorch: a linear layer without weights of its own")
        return self._emit("FullyConnected", inputs, self._shape(node, seen.swapped), seen.swapped)

    def _do_embedding(self, node: torch.fx.Node) -> _Seen:
        table, tokens = self._operand(node.args[0]).item, self._operand(node.args[1]).item
        if tokens != Value("input.tokens", (1, None)):
            raise UnsupportedError("export to ExecuTorch: an embedding of something else than tokens")
        return self._emit("embed", (tokens, table), self._shape(node))

    def _do_edgekit_attend(self, node: torch.fx.Node) -> _Seen:
        q, k, v = (self._stored_swapped(self._operand(arg)) for arg in node.args[:3])
        attributes = {"layer": node.args[3], "scale": node.args[4]}
        return self._emit("attend", (q, k, v), self._shape(node), attributes=attributes)

    _do_attend = _do_edgekit_attend

    def _do_pow_Tensor_Scalar(self, node: torch.fx.Node) -> _Seen:
        if node.args[1] != 2:
            raise UnsupportedError(f"export to ExecuTorch: a power of {node.args[1]}")
        return self._elementwise("Square", node, node.args[0])

    def _do_mean_dim(self, node: torch.fx.Node) -> _Seen:
        shape = self._shape(node)
        if node.args[1] not in ([-1], [len(shape) - 1]) or len(node.args) < 3 or not node.args[2]:
            raise UnsupportedError("export to ExecuTorch: a mean over something else than the last dimension")
        return self._mean(self._operand(node.args[0]), shape)

    def _mean(self, seen: _Seen, shape: Shape, plus: float = 0.0) -> _Seen:
        """The mean of rows, plus a constant: a product with one column, XNNPACK's only reduction of rows."""
        if seen.swapped:
            shape = _exchanged(shape)
        width = seen.item.shape[-1]
        assert width is not None
        column = Literal(torch.full((1, width), 1.0 / width))
        inputs: tuple[Operand, ...] = (seen.item, column)
        if plus:
            inputs += (Literal(torch.tensor([plus])),)
        return self._emit("FullyConnected", inputs, shape, seen.swapped)

    def _do_silu(self, node: torch.fx.Node) -> _Seen:
        gate = self._elementwise("Sigmoid", node, node.args[0])
        return self._elementwise("Multiply", node, node.args[0], gate)

    def _do_gelu(self, node: torch.fx.Node) -> _Seen:
        if node.kwargs.get("approximate", "none") == "none":
            return self._elementwise("Gelu", node, node.args[0])
        x = node.args[0]
        cube = self._elementwise("Multiply", node, self._elementwise("Square", node, x), x)
        inner = self._elementwise("Add", node, self._elementwise("Multiply", node, cube, 0.044715), x)
        inner = self._elementwise("Multiply", node, inner, math.sqrt(2 / math.pi))
        gate = self._elementwise("Add", node, self._elementwise("Tanh", node, inner), 1.0)
        return self._elementwise("Multiply", node, self._elementwise("Multiply", node, x, 0.5), gate)

    def _do_relu(self, node: torch.fx.Node) -> _Seen:
        return self._elementwise("Maximum", node, node.args[0], 0.0)

    def _do_layer_norm(self, node: torch.fx.Node) -> _Seen:
        x = self._operand(node.args[0])
        arguments = [*node.args, None, None, 1e-5][:5]
        shape = self._shape(node)
        if len(node.args[1]) != 1:
            raise UnsupportedError("export to ExecuTorch: a layer norm over several dimensions")
        row: Shape = (*shape[:-1], 1)
        centred = self._elementwise("Subtract", node, x, self._mean(x, row))
        variance = self._mean(self._elementwise("Square", node, centred), row, float(arguments[4]))
        scale = self._elementwise("ReciprocalSquareRoot", node, variance, shape=row)
        out = self._elementwise("Multiply", node, centred, scale)
        if arguments[2] is not None:
            out = self._elementwise("Multiply", node, out, arguments[2])
        if arguments[3] is not None:
            out = self._elementwise("Add", node, out, arguments[3])
        return out

    def _do_view(self, node: torch.fx.Node) -> _Seen:
        item = self._stored(self._operand(node.args[0]))
        shape = self._shape(node)
        if shape.count(None) > 1:
            raise UnsupportedError("export to ExecuTorch: a reshape with two unknown dimensions")
        if item.shape == shape:
            return _Seen(item)
        new = [0 if size is None else size for size in shape]
        return self._emit("StaticReshape", (item,), shape, attributes={"new_shape": new})

    _do_reshape = _do__unsafe_view = _do_view

    def _do_transpose_int(self, node: torch.fx.Node) -> _Seen:
        seen = self._operand(node.args[0])
        if sorted(int(dim) % 4 for dim in node.args[1:3]) != [1, 2] or len(self._shape(node)) != 4:
            raise UnsupportedError("export to ExecuTorch: a transposition other than of positions and heads")
        return _Seen(seen.item, not seen.swapped)

    def _do_unsqueeze(self, node: torch.fx.Node) -> _Seen:
        seen = self._operand(node.args[0])
        if not isinstance(seen.item, Value) or seen.item.name not in self.rotary or node.args[1] not in (1, 2):
            raise UnsupportedError("export to ExecuTorch: a new dimension on something else than rotary tables")
        return _Seen(seen.item, node.args[1] == 1)

    def _do_slice_Tensor(self, node: torch.fx.Node) -> _Seen:
        seen = self._operand(node.args[0])
        arguments = [*node.args, None, None, 1][:5] if len(node.args) < 5 else list(node.args)
        _, dim, start, end, step = [*arguments, *[None, None, 1][len(arguments) - 2 :]][:5]
        shape = self._shape(node)
        rank = len(shape)
        dim, start = int(dim or 0) % rank, int(start or 0)
        whole = self._shape(node.args[0])
        if step not in (None, 1):
            raise UnsupportedError("export to ExecuTorch: a slice with a step")
        if dim == rank - 1 and isinstance(shape[-1], int):
            if shape == whole:
                return seen
            width = whole[-1]
            assert width is not None
            begin = start % width if start < 0 else start
            offsets, sizes = [0] * rank, [0] * rank
            offsets[-1], sizes[-1] = begin, shape[-1]
            return self._emit(
                "StaticSlice",
                (self._not_literal(seen),),
                _exchanged(shape) if seen.swapped else shape,
                seen.swapped,
                {"offsets": offsets, "sizes": sizes},
            )
        if start == 0 and (end is None or (isinstance(end, int) and end >= _END)):
            return seen
        if self._single and dim == 1 and start == -1:
            return seen
        raise UnsupportedError("export to ExecuTorch: a slice along positions")

    def _do_cat(self, node: torch.fx.Node) -> _Seen:
        rotated = self._rotation(node)
        if rotated is not None:
            return rotated
        parts = [self._operand(arg) for arg in node.args[0]]
        shape = self._shape(node)
        dim = int(node.args[1]) if len(node.args) > 1 else 0
        if dim % len(shape) != len(shape) - 1 or len({part.swapped for part in parts}) > 1 or not 2 <= len(parts) <= 5:
            raise UnsupportedError("export to ExecuTorch: a concatenation along another dimension than the last")
        swapped = parts[0].swapped
        return self._emit(
            f"Concatenate{len(parts)}",
            tuple(self._not_literal(part) for part in parts),
            _exchanged(shape) if swapped else shape,
            swapped,
            {"axis": len(shape) - 1},
        )

    def _rotation(self, node: torch.fx.Node) -> _Seen | None:
        """``cat(-x[..., h:], x[..., :h])`` as one small product: one operation instead of four."""
        parts = node.args[0]
        if len(parts) != 2 or not _is(parts[0], "aten.neg") or not _is(parts[1], "aten.slice.Tensor"):
            return None
        upper, lower = parts[0].args[0], parts[1]
        if not _is(upper, "aten.slice.Tensor") or upper.args[0] is not lower.args[0]:
            return None
        width, half = self._shape(node)[-1], self._shape(lower)[-1]
        if self._shape(lower.args[0])[-1] != width or width != 2 * (half or 0) or half is None:
            return None
        if (lower.args[2], upper.args[2]) != (0, half):
            return None
        matrix = torch.zeros(width, width)
        index = torch.arange(half)
        matrix[index, index + half] = -1.0
        matrix[index + half, index] = 1.0
        seen = self._operand(lower.args[0])
        shape = self._shape(node, seen.swapped)
        return self._emit("FullyConnected", (seen.item, Literal(matrix)), shape, seen.swapped)

    # -- helpers -------------------------------------------------------------------------------------------

    def _elementwise(self, kind: str, node: torch.fx.Node, *arguments: Any, shape: Shape | None = None) -> _Seen:
        operands = [self._operand(argument) for argument in arguments]
        full = [seen for seen in operands if isinstance(seen.item, Value) and len(seen.item.shape) >= 3]
        ranks = {len(seen.item.shape) for seen in full}
        swapped = any(seen.swapped for seen in full)
        if any(seen.swapped != swapped for seen in full) or (swapped and ranks - {3, 4}):
            raise UnsupportedError("export to ExecuTorch: an operation on values of different layout")
        if not any(isinstance(seen.item, Value) for seen in operands):
            return self._folded(kind, operands)
        out = self._shape(node) if shape is None else shape
        return self._emit(kind, tuple(seen.item for seen in operands), _exchanged(out) if swapped else out, swapped)

    def _folded(self, kind: str, operands: list[_Seen]) -> _Seen:
        """An operation on constants only, e.g. the ``1 + weight`` of some norms."""
        if kind == "Add" and len(operands) == 2:
            items = [seen.item for seen in operands]
            weight = next((item for item in items if isinstance(item, Parameter)), None)
            plus = next((item for item in items if isinstance(item, Literal) and item.shape == (1,)), None)
            if weight is not None and plus is not None:
                return _Seen(Parameter(f"{weight.name}+{float(plus.tensor[0])!r}", weight.shape))
        raise UnsupportedError("export to ExecuTorch: an operation on constants")

    def _operand(self, argument: Any) -> _Seen:
        if isinstance(argument, _Seen):
            return argument
        if isinstance(argument, torch.fx.Node):
            if argument not in self._seen:
                raise UnsupportedError(
                    f"export to ExecuTorch: the model uses {argument.target}, which depends on positions or masks"
                )
            seen: _Seen = self._seen[argument]
            return seen
        return _Seen(Literal(torch.tensor([float(argument)])))

    def _not_literal(self, seen: _Seen) -> Value:
        if not isinstance(seen.item, Value):
            raise UnsupportedError("export to ExecuTorch: an operation on a constant")
        return seen.item

    def _stored(self, seen: _Seen) -> Value:
        """The value in the order the graph means; swapped ones are put in that order."""
        item = self._not_literal(seen)
        if not seen.swapped:
            return item
        return self._not_literal(
            self._emit("StaticTranspose", (item,), _exchanged(item.shape), attributes={"perm": [0, 2, 1, 3]})
        )

    def _stored_swapped(self, seen: _Seen) -> Value:
        return self._stored(_Seen(seen.item, not seen.swapped))

    def _emit(
        self,
        kind: str,
        inputs: tuple[Operand, ...],
        shape: Shape,
        swapped: bool = False,
        attributes: dict[str, Any] | None = None,
    ) -> _Seen:
        output = self._new(shape)
        self._ops.append(Op(kind, inputs, output, attributes or {}, module=self._module))
        return _Seen(output, swapped)

    def _new(self, shape: Shape) -> Value:
        self._count += 1
        return Value(f"v{self._count}", shape)

    def _shape(self, node: torch.fx.Node, swapped: bool = False) -> Shape:
        shape: Shape = tuple(
            (size if size != self._traced_vocabulary else self._vocabulary)
            if isinstance(size, int)
            else (1 if self._single else None)
            for size in node.meta["val"].shape
        )
        return _exchanged(shape) if swapped else shape

    def _fixed(self, node: torch.fx.Node) -> tuple[int, ...]:
        return tuple(size for size in self._shape(node) if size is not None)


_IGNORED = ("_assert_tensor_metadata", "sym_size.int", "_assert_scalar", "sym_constrain_range_for_size")
_IDENTITIES = (
    "to.dtype",
    "to.device",
    "to.dtype_layout",
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
    "mul.Tensor": "Multiply",
    "sub.Tensor": "Subtract",
    "div.Tensor": "Div",
    "add.Scalar": "Add",
    "mul.Scalar": "Multiply",
    "maximum": "Maximum",
    "minimum": "Minimum",
}


def _is(node: Any, target: str) -> bool:
    return isinstance(node, torch.fx.Node) and str(node.target).removesuffix(".default") == target


def _exchanged(shape: Shape) -> Shape:
    return (shape[0], shape[2], shape[1], *shape[3:]) if len(shape) == 4 else shape


def _flat(arguments: Any) -> list[Any]:
    out = []
    for item in arguments:
        out += _flat(item) if isinstance(item, list | tuple) else [item]
    return out
