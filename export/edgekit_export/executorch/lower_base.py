"""What every part of the lowering needs: operands as the graph sees them, and operations emitted from them.

Attention works on ``[1, n, heads, d]`` and everything else is row by row, so the swaps of positions and heads
that models write around rotary embeddings are never carried out: a value remembers that it stands for its swap.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from edgekit.errors import UnsupportedError
from edgekit.schema.operators import Module
from edgekit_export.executorch.graph import Derived, Literal, Op, Operand, Parameter, Shape, Table, Value
from edgekit_export.executorch.positional import Positional
from edgekit_export.executorch.trace import Trace


@dataclass(frozen=True)
class Seen:
    """An operand as the graph sees it; ``swapped``: dimensions 1 and 2 are exchanged in memory."""

    item: Operand
    swapped: bool = False


@dataclass(frozen=True)
class Columns:
    """A linear map of an operand's last dimension that nobody has computed yet, ``matrix [..., columns]``."""

    base: Seen
    matrix: torch.Tensor


class LoweringBase:
    """Operands and emission; the operations themselves are in the classes that extend this one."""

    def __init__(self, trace: Trace, *, vocabulary: tuple[int, int]) -> None:
        self._trace = trace
        self._traced_vocabulary, self._vocabulary = vocabulary
        self._positional = Positional(trace)
        #: An operand, a map that is pending, or a list of operands (of a split).
        self._seen: dict[torch.fx.Node, Seen | Columns | list[Seen]] = {}
        self._ops: list[Op] = []
        self._single = False
        self._count = 0
        self._module: Module = "other"
        #: What is looked up by position, by the input that holds the rows.
        self.tables: dict[str, Table] = {}

    def _elementwise(self, kind: str, node: torch.fx.Node, *arguments: Any, shape: Shape | None = None) -> Seen:
        operands = [self._operand(argument) for argument in arguments]
        full = [seen for seen in operands if isinstance(seen.item, Value) and len(seen.item.shape) >= 3]
        ranks = {len(seen.item.shape) for seen in full}
        swapped = any(seen.swapped for seen in full)
        if any(seen.swapped != swapped for seen in full) or (swapped and ranks - {3, 4}):
            raise UnsupportedError("export to ExecuTorch: an operation on values of different layout")
        if not any(isinstance(seen.item, Value) for seen in operands):
            return self._folded(kind, operands)
        out = self._shape(node) if shape is None else shape
        items = tuple(_aligned(seen.item, len(out), swapped) for seen in operands)
        return self._emit(kind, items, exchanged(out) if swapped else out, swapped)

    def _folded(self, kind: str, operands: list[Seen]) -> Seen:
        """An operation on weights only, e.g. the ``1 + weight`` of some norms."""
        if kind == "Add" and len(operands) == 2:
            items = [seen.item for seen in operands]
            weight = next((item for item in items if isinstance(item, Parameter)), None)
            plus = next((item for item in items if isinstance(item, Literal) and item.tensor.numel() == 1), None)
            if weight is not None and plus is not None and Derived.parse(weight.name) == Derived(weight.name):
                return Seen(Parameter(f"{weight.name}+{float(plus.tensor.reshape(()))!r}", weight.shape))
        raise UnsupportedError("export to ExecuTorch: an operation on weights alone")

    def _operand(self, argument: Any) -> Seen:
        if isinstance(argument, Seen):
            return argument
        if not isinstance(argument, torch.fx.Node):
            return Seen(Literal(torch.tensor([float(argument)])))
        if argument not in self._seen:
            if argument not in self._positional:
                raise UnsupportedError(f"export to ExecuTorch: the model uses {argument.target} in an unknown way")
            self._seen[argument] = self._constant(argument)
        seen = self._seen[argument]
        if isinstance(seen, Columns):
            seen = self._seen[argument] = self._computed(seen)
        if isinstance(seen, list):
            raise UnsupportedError(f"export to ExecuTorch: the model uses all parts of {argument.target} at once")
        return seen

    def _constant(self, node: torch.fx.Node) -> Seen:
        """What depends on positions alone: a constant, or a table of rows."""
        value = self._positional[node]
        if all(isinstance(size, int) for size in node.meta["val"].shape):
            return Seen(Literal(value.reshape(value.shape or (1,))))
        rows, swapped = self._positional.rows(node)
        return Seen(self._table(Table(rows.to(torch.float32), role=self._role(node))), swapped)

    def _role(self, node: torch.fx.Node) -> str:
        """``rotary`` where a table comes from the model's rotary embedding alone."""
        if node.op == "placeholder":
            return "rotary" if node.name in self._trace.rotary else "table"
        inputs = [item for item in node.all_input_nodes if not isinstance(item.meta.get("val"), torch.SymInt)]
        return "rotary" if inputs and all(self._role(item) == "rotary" for item in inputs) else "table"

    def _table(self, table: Table) -> Value:
        """The input that holds the looked-up rows; equal tables are one."""
        digest = hashlib.sha256(table.rows.numpy().tobytes() + f"{table.parameter} {table.batched}".encode())
        name = f"input.{table.role}.{digest.hexdigest()[:16]}"
        self.tables.setdefault(name, table)
        tail: tuple[int, ...] = tuple(table.rows.shape[1:])
        return Value(name, (1, None, *tail) if table.batched else (None, *tail))

    def _computed(self, pending: Columns) -> Seen:
        """A pending map as a small product."""
        base, matrix = pending.base, pending.matrix
        if matrix.ndim != 2:
            raise UnsupportedError("export to ExecuTorch: columns that are stacked and not joined again")
        item = self._not_literal(base)
        shape: Shape = (*item.shape[:-1], matrix.shape[0])
        return self._emit("FullyConnected", (item, Literal(matrix)), shape, base.swapped)

    def _not_literal(self, seen: Seen) -> Value:
        if not isinstance(seen.item, Value):
            raise UnsupportedError("export to ExecuTorch: an operation on a constant")
        return seen.item

    def _stored(self, seen: Seen) -> Value:
        """The value in the order the graph means; swapped ones are put in that order."""
        item = self._not_literal(seen)
        if not seen.swapped:
            return item
        return self._not_literal(
            self._emit("StaticTranspose", (item,), exchanged(item.shape), attributes={"perm": [0, 2, 1, 3]})
        )

    def _stored_swapped(self, seen: Seen) -> Value:
        return self._stored(Seen(seen.item, not seen.swapped))

    def _emit(
        self,
        kind: str,
        inputs: tuple[Operand, ...],
        shape: Shape,
        swapped: bool = False,
        attributes: dict[str, Any] | None = None,
    ) -> Seen:
        output = self._new(shape)
        self._ops.append(Op(kind, inputs, output, attributes or {}, module=self._module))
        return Seen(output, swapped)

    def _new(self, shape: Shape) -> Value:
        self._count += 1
        return Value(f"v{self._count}", shape)

    def _shape(self, node: torch.fx.Node, swapped: bool = False) -> Shape:
        return self._sizes(node.meta["val"].shape, swapped)

    def _sizes(self, sizes: Any, swapped: bool = False) -> Shape:
        shape: Shape = tuple(
            (size if size != self._traced_vocabulary else self._vocabulary)
            if isinstance(size, int)
            else (1 if self._single else None)
            for size in sizes
        )
        return exchanged(shape) if swapped else shape

    def _fixed(self, node: torch.fx.Node) -> tuple[int, ...]:
        return tuple(size for size in self._shape(node) if size is not None)


def _aligned(item: Operand, rank: int, swapped: bool) -> Operand:
    """A constant ``[1, heads, 1, d]`` or ``[heads, 1, d]`` beside values whose heads come after the positions."""
    if swapped and isinstance(item, Literal) and len(item.shape) in (3, 4) and rank == 4:
        return Literal(item.tensor.reshape((1,) * (4 - len(item.shape)) + item.shape).transpose(1, 2))
    return item


def is_node(node: Any, target: str) -> bool:
    """Whether a node calls ``target``, e.g. ``aten.neg``."""
    return isinstance(node, torch.fx.Node) and str(node.target).removesuffix(".default") == target


def exchanged(shape: Shape) -> Shape:
    """A shape with dimensions 1 and 2 exchanged, where it has four."""
    return (shape[0], shape[2], shape[1], *shape[3:]) if len(shape) == 4 else shape
