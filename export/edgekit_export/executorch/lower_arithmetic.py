"""Operations that compute: products, norms, activations."""

from __future__ import annotations

import math
from typing import Any

import torch

from edgekit.errors import UnsupportedError
from edgekit_export.executorch.graph import Derived, Literal, Operand, Parameter, Shape, Table, Value
from edgekit_export.executorch.lower_base import LoweringBase, Seen, exchanged


class ArithmeticOps(LoweringBase):
    """``_do_NAME`` lowers ``aten.NAME``."""

    def _do_linear(self, node: torch.fx.Node) -> Seen:
        weight = self._operand(node.args[1]).item
        bias = self._operand(node.args[2]).item if len(node.args) > 2 and node.args[2] is not None else None
        return self._product(node, self._operand(node.args[0]), weight, bias)

    def _do_addmm(self, node: torch.fx.Node) -> Seen:
        """A layer whose weight is stored the other way round."""
        weight = self._operand(node.args[2]).item
        if not isinstance(weight, Parameter) or Derived.parse(weight.name) != Derived(weight.name):
            raise UnsupportedError("export to ExecuTorch: a product with something else than a weight")
        turned = Parameter(f"{weight.name}^T", weight.shape[::-1])
        return self._product(node, self._operand(node.args[1]), turned, self._operand(node.args[0]).item)

    def _product(self, node: torch.fx.Node, seen: Seen, weight: Operand, bias: Operand | None) -> Seen:
        inputs = (seen.item, weight) if bias is None else (seen.item, weight, bias)
        if not isinstance(weight, Parameter) or not isinstance(seen.item, Value):
            raise UnsupportedError("export to ExecuTorch: a linear layer without weights of its own")
        return self._emit("FullyConnected", inputs, self._shape(node, seen.swapped), seen.swapped)

    def _do_embedding(self, node: torch.fx.Node) -> Seen:
        table = self._operand(node.args[0]).item
        if not isinstance(table, Parameter):
            raise UnsupportedError("export to ExecuTorch: an embedding without weights of its own")
        if node.args[1] in self._positional:
            rows, _ = self._positional.rows(node.args[1])
            return self._learned_positions(table, rows.reshape(-1))
        tokens = self._operand(node.args[1]).item
        if tokens != Value("input.tokens", (1, None)):
            raise UnsupportedError("export to ExecuTorch: an embedding of something else than tokens")
        return self._emit("embed", (tokens, table), self._shape(node))

    def _learned_positions(self, weight: Parameter, rows: torch.Tensor) -> Seen:
        if int(rows.max()) >= weight.shape[0]:
            raise UnsupportedError(
                f"export to ExecuTorch: the model has {weight.shape[0]} learned positions, less than the context",
                hint="choose a shorter context",
            )
        value = self._table(Table(rows, weight.name, role="positions"))
        return Seen(Value(value.name, (None, weight.shape[1])))

    def _do_pow_Tensor_Scalar(self, node: torch.fx.Node) -> Seen:
        x, power = node.args[0], node.args[1]
        if power == 0.5:
            return self._elementwise("SquareRoot", node, x)
        if power == -0.5:
            return self._elementwise("ReciprocalSquareRoot", node, x)
        if power not in (2, 3):
            raise UnsupportedError(f"export to ExecuTorch: a power of {power}")
        square = self._elementwise("Square", node, x)
        return square if power == 2 else self._elementwise("Multiply", node, square, x)

    def _do_mean_dim(self, node: torch.fx.Node) -> Seen:
        shape = self._shape(node)
        if node.args[1] not in ([-1], [len(shape) - 1]) or len(node.args) < 3 or not node.args[2]:
            raise UnsupportedError("export to ExecuTorch: a mean over something else than the last dimension")
        return self._mean(self._operand(node.args[0]), shape)

    def _mean(self, seen: Seen, shape: Shape, plus: float = 0.0) -> Seen:
        """The mean of rows, plus a constant: a product with one column, XNNPACK's only reduction of rows."""
        if seen.swapped:
            shape = exchanged(shape)
        width = seen.item.shape[-1]
        assert width is not None
        column = Literal(torch.full((1, width), 1.0 / width))
        inputs: tuple[Operand, ...] = (seen.item, column)
        if plus:
            inputs += (Literal(torch.tensor([plus])),)
        return self._emit("FullyConnected", inputs, shape, seen.swapped)

    def _do_silu(self, node: torch.fx.Node) -> Seen:
        gate = self._elementwise("Sigmoid", node, node.args[0])
        return self._elementwise("Multiply", node, node.args[0], gate)

    def _do_gelu(self, node: torch.fx.Node) -> Seen:
        if node.kwargs.get("approximate", "none") == "none":
            return self._elementwise("Gelu", node, node.args[0])
        x = node.args[0]
        cube = self._elementwise("Multiply", node, self._elementwise("Square", node, x), x)
        inner = self._elementwise("Add", node, self._elementwise("Multiply", node, cube, 0.044715), x)
        inner = self._elementwise("Multiply", node, inner, math.sqrt(2 / math.pi))
        gate = self._elementwise("Add", node, self._elementwise("Tanh", node, inner), 1.0)
        return self._elementwise("Multiply", node, self._elementwise("Multiply", node, x, 0.5), gate)

    def _do_relu(self, node: torch.fx.Node) -> Seen:
        return self._elementwise("Maximum", node, node.args[0], 0.0)

    def _do_clamp(self, node: torch.fx.Node) -> Seen:
        arguments = [*node.args, None, None][:3]
        low = node.kwargs.get("min", arguments[1])
        high = node.kwargs.get("max", arguments[2])
        seen = self._operand(node.args[0])
        if low is not None:
            seen = self._elementwise("Maximum", node, seen, low)
        return seen if high is None else self._elementwise("Minimum", node, seen, high)

    _do_clamp_ = _do_clamp_min = _do_clamp

    def _do_rsub_Scalar(self, node: torch.fx.Node) -> Seen:
        return self._elementwise("Subtract", node, node.args[1], node.args[0])

    def _do_softplus(self, node: torch.fx.Node) -> Seen:
        """``max(x, 0) + log(1 + exp(-|x|))``, which never overflows."""
        if len(node.args) > 1 and node.args[1] != 1:
            raise UnsupportedError("export to ExecuTorch: a softplus with a slope")
        away = self._elementwise("Negate", node, self._elementwise("Abs", node, node.args[0]))
        grown = self._elementwise("Add", node, self._elementwise("Exp", node, away), 1.0)
        rest = self._elementwise("Log", node, grown)
        return self._elementwise("Add", node, self._elementwise("Maximum", node, node.args[0], 0.0), rest)

    def _do_rms_norm(self, node: torch.fx.Node) -> Seen:
        arguments: list[Any] = [*node.args, None, None][:4]
        if len(node.args[1]) != 1:
            raise UnsupportedError("export to ExecuTorch: a norm over several dimensions")
        x = self._operand(node.args[0])
        eps = torch.finfo(torch.float32).eps if arguments[3] is None else float(arguments[3])
        return self._scaled(node, x, x, eps, arguments[2])

    def _do_layer_norm(self, node: torch.fx.Node) -> Seen:
        x = self._operand(node.args[0])
        arguments: list[Any] = [*node.args, *[None, None, 1e-5][len(node.args) - 2 :]][:5]
        if len(node.args[1]) != 1:
            raise UnsupportedError("export to ExecuTorch: a norm over several dimensions")
        centred = self._elementwise("Subtract", node, x, self._mean(x, (*self._shape(node)[:-1], 1)))
        out = self._scaled(node, centred, centred, float(arguments[4]), arguments[2])
        return out if arguments[3] is None else self._elementwise("Add", node, out, arguments[3])

    def _scaled(self, node: torch.fx.Node, x: Seen, source: Seen, eps: float, weight: Any) -> Seen:
        """``x`` over the root of the mean square of ``source``'s rows, times a weight."""
        row: Shape = (*self._shape(node)[:-1], 1)
        variance = self._mean(self._elementwise("Square", node, source), row, eps)
        scale = self._elementwise("ReciprocalSquareRoot", node, variance, shape=row)
        out = self._elementwise("Multiply", node, x, scale)
        return out if weight is None else self._elementwise("Multiply", node, out, weight)
