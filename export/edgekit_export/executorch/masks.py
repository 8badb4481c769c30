"""What attention may look at: read from the mask that a model asks for, made again inside the program.

transformers describes a mask as a function of positions. Here it is evaluated and recognised; a program computes it
from its positions, once for all layers that share it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgekit.errors import UnsupportedError
from edgekit_export.executorch.graph import Literal, Op, Table, Value

#: Added to the scores of what may not be seen: far below any score, and finite, so that no kernel makes a NaN of it.
HIDDEN = -1e9
#: The input that holds the positions themselves, ``[n, 1]``.
POSITIONS = "input.positions"
#: Rows of a long context that are compared one by one.
_ROWS = 512


class Mask:
    """Stands for a mask while a model is traced.

    Attributes:
        window: positions that each one sees, itself among them; None without a limit.
    """

    def __init__(self, window: int | None) -> None:
        self.window = window

    def __getitem__(self, _: Any) -> Mask:
        return self


class Masks:
    """The mask function of a trace. The model runs twice; masks are read the first time and repeated the second."""

    def __init__(self, context: int) -> None:
        self._context = context
        self._known: list[Mask] = []
        self._next = -1

    def repeat(self) -> None:
        """The model is about to run again."""
        self._next = 0

    def __call__(self, *_: Any, mask_function: Callable[..., Any], **__: Any) -> Mask:
        """What transformers calls for every mask that a model needs."""
        if self._next < 0:
            self._known.append(Mask(read_mask(mask_function, self._context)))
            return self._known[-1]
        self._next += 1
        return self._known[self._next - 1]


def read_mask(function: Callable[..., Any], context: int) -> int | None:
    """The window of a causal mask over ``context`` positions.

    Raises:
        UnsupportedError: the mask is no such thing.
    """
    keys = torch.arange(context)[None]

    def rows(queries: torch.Tensor) -> torch.Tensor:
        shown: torch.Tensor = torch.as_tensor(function(torch.tensor(0), torch.tensor(0), queries[:, None], keys))
        return shown.broadcast_to(len(queries), context)

    width = int(rows(torch.tensor([context - 1])).sum())
    near = torch.arange(width - _ROWS // 4, width + _ROWS // 4)
    chosen = torch.cat([torch.arange(_ROWS // 2), near, torch.arange(context - _ROWS // 2, context)])
    queries = torch.arange(context) if context <= 2 * _ROWS else chosen.clamp(0, context - 1).unique()
    wanted = (keys <= queries[:, None]) & (keys > queries[:, None] - width)
    if width < 1 or not torch.equal(rows(queries), wanted):
        raise UnsupportedError(
            "export to ExecuTorch: attention is neither causal nor a sliding window", hint="export it to onnxruntime"
        )
    return None if width == context else width


def mask_name(window: int | None) -> str:
    """The input that holds a mask, ``[n, context]``."""
    return f"input.mask.{window or 'causal'}"


def mask_ops(windows: set[int | None], context: int) -> list[Op]:
    """Operations that make these masks from the positions.

    A key at distance d behind the query is seen where 0 <= d < window.
    """
    ops: list[Op] = []

    def emit(kind: str, name: str, *inputs: Value | Literal) -> Value:
        ops.append(Op(kind, inputs, Value(name, (None, context)), module="attention"))
        return ops[-1].output

    def number(value: float) -> Literal:
        return Literal(torch.tensor([float(value)]))

    if windows:
        keys = Literal(torch.arange(context)[None])
        distance = emit("Subtract", "input.distance", Value(POSITIONS, (None, 1)), keys)
        future = emit("Minimum", "input.future", distance, number(0))
    for window in sorted(windows, key=lambda item: item or 0):
        name = mask_name(window)
        if window is None:
            emit("Multiply", name, future, number(-HIDDEN))
            continue
        room = emit("Subtract", f"{name}.room", number(window - 1), distance)
        past = emit("Minimum", f"{name}.past", room, number(0))
        emit("Multiply", name, emit("Add", f"{name}.both", future, past), number(-HIDDEN))
    return ops


def positions_table(context: int) -> Table:
    """What :data:`POSITIONS` looks up."""
    return Table(torch.arange(context, dtype=torch.float32)[:, None], role="positions")
