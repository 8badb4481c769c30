"""The decoder between tracing and ExecuTorch: straight-line operations on values of known shape."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from edgekit.schema.operators import Module


class More(NamedTuple):
    """A size: so many more than the tokens in the call."""

    tokens: int


#: ``None`` stands for the number of tokens in the call.
Shape = tuple[Any, ...]


def largest(shape: Shape, tokens: int) -> tuple[int, ...]:
    """The shape for a pass of so many tokens."""
    return tuple(
        tokens if size is None else tokens + size.tokens if isinstance(size, More) else int(size) for size in shape
    )


def is_dynamic(shape: Shape) -> bool:
    """Whether the shape depends on the number of tokens."""
    return any(size is None or isinstance(size, More) for size in shape)


@dataclass(frozen=True)
class Value:
    """The result of an operation or an input; ``shape`` is as it lies in memory."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Parameter:
    """A weight of the source, by its name there; see :class:`Derived` for what may follow the name."""

    name: str
    shape: tuple[int, ...]


class Derived(NamedTuple):
    """A weight that is another one's transpose, or has a number added: ``NAME``, ``NAME+1.0``, ``NAME^T``."""

    source: str
    plus: float = 0.0
    transposed: bool = False

    @classmethod
    def parse(cls, name: str) -> Derived:
        """Read a parameter's name."""
        transposed = name.endswith("^T")
        source, _, plus = name.removesuffix("^T").partition("+")
        return cls(source, float(plus or 0), transposed)

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """What the name stands for, given the source's tensor."""
        tensor = tensor + self.plus if self.plus else tensor
        return tensor.permute(*reversed(range(tensor.ndim))).contiguous() if self.transposed else tensor


class Literal:
    """A constant of the computation itself, float32."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor.detach().to(torch.float32).contiguous()
        self.shape = tuple(self.tensor.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and torch.equal(self.tensor, other.tensor)

    def __hash__(self) -> int:
        return hash(self.shape)


Operand = Value | Parameter | Literal


@dataclass(frozen=True)
class Table:
    """Rows that are looked up by position: constants, or rows of a weight (learned positions).

    ``rows`` is ``[context, ...]``, or which row of ``parameter`` each position has, ``[context]``. With ``batched`` the
    looked-up value keeps a leading dimension of one.
    """

    rows: torch.Tensor
    parameter: str | None = None
    batched: bool = False
    role: str = "table"


@dataclass(frozen=True)
class Op:
    """One operation.

    ``kind`` is the name of an XNNPACK node (``FullyConnected``, ``Add``, ...), or one that runs
    outside of it; see :data:`OUTSIDE`.
    """

    kind: str
    inputs: tuple[Operand, ...]
    output: Value
    attributes: dict[str, Any] = field(default_factory=dict, compare=True)
    #: The part of the model that it computes, and its layer; for profiles.
    module: Module = field(default="other", compare=False)
    layer: int | None = field(default=None, compare=False)


#: Operations that ExecuTorch's own kernels or ours run; all others go into XNNPACK delegates.
#: ``append`` adds to one half of a cache and answers with all of it; ``recall`` and ``remember`` read and write what a
#: short convolution keeps between calls.
OUTSIDE = ("embed", "attend", "last", "append", "recall", "remember")
#: Operations that matter although nobody reads their result.
EFFECTS = ("remember",)


@dataclass(frozen=True)
class Section:
    """A run of operations from one hidden state to the next."""

    ops: tuple[Op, ...]
    source: Value | None
    result: Value


def renamed(section: Section, *, suffix: str, prefix: str, old: int, new: int, source: Value) -> Section:
    """The section of layer ``old`` as that of layer ``new``: its values, parameters and cache renamed."""

    def operand(item: Operand) -> Operand:
        if isinstance(item, Value):
            return value(item)
        if isinstance(item, Parameter) and item.name.startswith(f"{prefix}.{old}."):
            return replace(item, name=f"{prefix}.{new}." + item.name.removeprefix(f"{prefix}.{old}."))
        return item

    def value(item: Value) -> Value:
        if section.source is not None and item.name == section.source.name:
            return source
        return item if item.name.startswith("input.") else replace(item, name=f"{item.name}@{suffix}")

    ops = []
    for op in section.ops:
        attributes = dict(op.attributes)
        if "layer" in attributes:
            attributes["layer"] = new
        inputs = tuple(operand(item) for item in op.inputs)
        layer = new if new >= 0 else None
        ops.append(Op(op.kind, inputs, value(op.output), attributes, module=op.module, layer=layer))
    return Section(tuple(ops), source, value(section.result))


def structure(section: Section, prefix: str, layer: int) -> list[Any]:
    """What a layer computes, without names: equal for layers that differ in their weights only."""
    numbers: dict[str, int] = {}
    if section.source is not None:
        numbers[section.source.name] = -1

    def name(item: Operand) -> Any:
        if isinstance(item, Value):
            if item.name.startswith("input."):
                return item.name
            return numbers.setdefault(item.name, len(numbers))
        if isinstance(item, Parameter):
            return item.name.removeprefix(f"{prefix}.{layer}."), item.shape
        return item

    return [
        (
            op.kind,
            [name(item) for item in op.inputs],
            name(op.output),
            op.output.shape,
            {key: item for key, item in op.attributes.items() if key != "layer"},
        )
        for op in section.ops
    ]
