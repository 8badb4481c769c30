"""Operations that only move numbers: views, slices, concatenations."""

from __future__ import annotations

from typing import Any

import torch

from edgekit.errors import UnsupportedError
from edgekit_export.executorch.graph import Shape, Value
from edgekit_export.executorch.lower_base import Columns, LoweringBase, Seen, exchanged, is_node

_END = 2**62
_MOST_PARTS = 5


class LayoutOps(LoweringBase):
    """``_do_NAME`` lowers ``aten.NAME``."""

    def _do_view(self, node: torch.fx.Node) -> Seen | Columns:
        pending = self._pending(node.args[0])
        shape = self._shape(node)
        if pending is not None and pending.matrix.ndim == 3 and shape[-1] == pending.matrix[:, :, 0].numel():
            return Columns(pending.base, pending.matrix.flatten(0, 1))
        item = self._stored(self._operand(node.args[0]))
        if shape.count(None) > 1:
            raise UnsupportedError("export to ExecuTorch: a reshape with two unknown dimensions")
        if item.shape == shape:
            return Seen(item)
        return self._reshaped(item, shape)

    _do_reshape = _do__unsafe_view = _do_flatten_using_ints = _do_squeeze_dim = _do_unflatten_int = _do_view

    def _reshaped(self, item: Value, shape: Shape) -> Seen:
        new = [0 if size is None else size for size in shape]
        return self._emit("StaticReshape", (item,), shape, attributes={"new_shape": new})

    def _do_transpose_int(self, node: torch.fx.Node) -> Seen:
        seen = self._operand(node.args[0])
        if sorted(int(dim) % 4 for dim in node.args[1:3]) != [1, 2] or len(self._shape(node)) != 4:
            raise UnsupportedError("export to ExecuTorch: a transposition other than of positions and heads")
        return Seen(seen.item, not seen.swapped)

    def _do_permute(self, node: torch.fx.Node) -> Seen:
        seen = self._operand(node.args[0])
        if [int(dim) % 4 for dim in node.args[1]] != [0, 2, 1, 3]:
            raise UnsupportedError("export to ExecuTorch: a transposition other than of positions and heads")
        return Seen(seen.item, not seen.swapped)

    def _do_unsqueeze(self, node: torch.fx.Node) -> Seen | Columns:
        return self._do_view(node)

    def _do_expand(self, node: torch.fx.Node) -> Seen:
        seen = self._operand(node.args[0])
        if self._shape(node) != self._shape(node.args[0]):
            raise UnsupportedError("export to ExecuTorch: values that are repeated")
        return seen

    def _do_slice_Tensor(self, node: torch.fx.Node) -> Seen | Columns:
        arguments = [*node.args, *[None] * (5 - len(node.args))]
        start, end, step = arguments[2] or 0, arguments[3], arguments[4] or 1
        shape, whole = self._shape(node), self._shape(node.args[0])
        dim = int(arguments[1] or 0) % len(shape)
        width = whole[dim]
        if width is not None and isinstance(shape[dim], int) and isinstance(start, int):
            if dim == len(shape) - 1 and (step != 1 or self._pending(node.args[0]) is not None):
                pending = self._columns(node.args[0])
                return Columns(pending.base, pending.matrix[start:end:step])
            if step == 1:
                seen = self._operand(node.args[0])
                return (
                    seen if shape == whole else self._cut_out(seen, dim, start % width if start < 0 else start, shape)
                )
        elif step == 1:
            if start == 0 and (end is None or (isinstance(end, int) and end >= _END)):
                return self._operand(node.args[0])
            if self._single and dim == 1 and start == -1:
                return self._operand(node.args[0])
        raise UnsupportedError("export to ExecuTorch: a slice along positions")

    def _cut_out(self, seen: Seen, dim: int, start: int, shape: Shape) -> Seen:
        """``shape`` from ``start`` on in one dimension of known size."""
        rank = len(shape)
        size = shape[dim]
        assert size is not None
        offsets, sizes = [0] * rank, [0] * rank
        where = {1: 2, 2: 1}.get(dim, dim) if seen.swapped else dim
        offsets[where], sizes[where] = start, size
        return self._emit(
            "StaticSlice",
            (self._not_literal(seen),),
            exchanged(shape) if seen.swapped else shape,
            seen.swapped,
            {"offsets": offsets, "sizes": sizes},
        )

    def _do_select_int(self, node: torch.fx.Node) -> Seen:
        whole = self._shape(node.args[0])
        dim = int(node.args[1]) % len(whole)
        width = whole[dim]
        if width is None:
            raise UnsupportedError("export to ExecuTorch: one of the positions alone")
        one: Shape = (*whole[:dim], 1, *whole[dim + 1 :])
        seen = self._operand(node.args[0])
        part = seen if width == 1 else self._cut_out(seen, dim, int(node.args[2]) % width, one)
        return self._reshaped(self._stored(part), self._shape(node))

    def _parts(self, node: torch.fx.Node) -> list[Seen]:
        """What a split or chunk makes."""
        dim = int(node.args[2]) if len(node.args) > 2 else int(node.kwargs.get("dim", 0))
        seen = self._operand(node.args[0])
        start, found = 0, []
        for part in node.meta["val"]:
            shape = self._sizes(part.shape)
            size = shape[dim % len(shape)]
            if size is None:
                raise UnsupportedError("export to ExecuTorch: positions that are split")
            whole = shape == self._shape(node.args[0])
            found.append(seen if whole else self._cut_out(seen, dim % len(shape), start, shape))
            start += size
        return found

    _do_chunk = _do_split_Tensor = _do_split_with_sizes = _do_split_sizes = _parts

    def _do_cat(self, node: torch.fx.Node) -> Seen | Columns:
        rotated = self._rotation(node)
        if rotated is not None:
            return rotated
        arguments: list[Any] = list(node.args[0])
        shape = self._shape(node)
        dim = (int(node.args[1]) if len(node.args) > 1 else int(node.kwargs.get("dim", 0))) % len(shape)
        if dim == len(shape) - 1 and any(self._pending(argument) is not None for argument in arguments):
            joined = self._joined(arguments)
            if joined is not None:
                return joined
        parts = [self._operand(argument) for argument in arguments]
        if shape[dim] is None or len({part.swapped for part in parts}) > 1:
            raise UnsupportedError("export to ExecuTorch: a concatenation along the positions")
        swapped = parts[0].swapped
        where = {1: 2, 2: 1}.get(dim, dim) if swapped else dim
        items = [self._not_literal(part) for part in parts]
        while len(items) > 1:
            some, items = items[:_MOST_PARTS], items[_MOST_PARTS:]
            memory = list(some[0].shape)
            memory[where] = sum(item.shape[where] or 0 for item in some)
            out = self._emit(f"Concatenate{len(some)}", tuple(some), tuple(memory), swapped, {"axis": where})
            items = [self._not_literal(out), *items]
        return Seen(items[0], swapped)

    def _do_stack(self, node: torch.fx.Node) -> Columns:
        pending = [self._columns(argument) for argument in node.args[0]]
        dim = int(node.args[1]) if len(node.args) > 1 else 0
        if dim not in (-1, len(self._shape(node)) - 1) or len({item.base for item in pending}) > 1:
            raise UnsupportedError("export to ExecuTorch: values that are stacked")
        return Columns(pending[0].base, torch.stack([item.matrix for item in pending], 1))

    def _joined(self, arguments: list[Any]) -> Columns | None:
        pending = [self._columns(argument) for argument in arguments]
        if len({item.base for item in pending}) > 1 or any(item.matrix.ndim != 2 for item in pending):
            return None
        return Columns(pending[0].base, torch.cat([item.matrix for item in pending]))

    def _pending(self, argument: Any) -> Columns | None:
        seen = self._seen.get(argument) if isinstance(argument, torch.fx.Node) else None
        return seen if isinstance(seen, Columns) else None

    def _columns(self, argument: Any) -> Columns:
        """An operand as a map of its last dimension: the one that is pending, or the identity."""
        pending = self._pending(argument)
        if pending is not None:
            return pending
        seen = self._operand(argument)
        width = self._not_literal(seen).shape[-1]
        assert width is not None
        return Columns(seen, torch.eye(width))

    def _rotation(self, node: torch.fx.Node) -> Columns | None:
        """``cat(-x[..., h:], x[..., :h])`` as one small product: one operation instead of four."""
        parts: Any = node.args[0]
        if len(parts) != 2 or not is_node(parts[0], "aten.neg") or not is_node(parts[1], "aten.slice.Tensor"):
            return None
        upper, lower = parts[0].args[0], parts[1]
        if not is_node(upper, "aten.slice.Tensor") or upper.args[0] is not lower.args[0]:
            return None
        width, half = self._shape(node)[-1], self._shape(lower)[-1]
        if self._shape(lower.args[0])[-1] != width or width != 2 * (half or 0) or half is None:
            return None
        if (lower.args[2], upper.args[2]) != (0, half):
            return None
        eye = torch.eye(width)
        return Columns(self._operand(lower.args[0]), torch.cat([-eye[half:], eye[:half]]))
