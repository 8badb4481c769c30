"""Attention and short convolutions: what runs outside of delegates, and what XNNPACK does where no kernel can."""

from __future__ import annotations

import torch

from edgekit.errors import UnsupportedError
from edgekit_export.executorch.graph import Literal, More, Parameter, Shape, Table, Value
from edgekit_export.executorch.lower_base import LoweringBase, Seen
from edgekit_export.executorch.masks import mask_name

#: The widest head that the probe's attention takes; ExecuTorch's own, which the gate runs, takes any.
MAX_HEAD = 512


class AttentionOps(LoweringBase):
    """``_do_NAME`` lowers ``edgekit.NAME``."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        #: Windows of the masks that are needed; None for a causal one.
        self.windows: set[int | None] = set()

    def _do_attend(self, node: torch.fx.Node) -> Seen:
        layer, scale, window, softcap, slopes = node.args[3:]
        q, k, v = (self._stored_swapped(self._operand(arg)) for arg in node.args[:3])
        width = v.shape[-1]
        assert width is not None
        if softcap:
            if slopes or k.shape[-1] != width:
                raise UnsupportedError(
                    "export to ExecuTorch: soft-capped attention with ALiBi or heads of differing size"
                )
            return self._softcapped(q, k, v, int(layer), float(scale), window or None, float(softcap))
        if slopes:
            q, k = self._biased(q, k, float(scale), list(slopes))
        if (k.shape[-1] or 0) > MAX_HEAD:
            raise UnsupportedError(
                f"export to ExecuTorch: heads of {k.shape[-1]} numbers, and the probe's attention takes {MAX_HEAD}",
                hint="export it to onnxruntime",
            )
        v = self._padded(v, k.shape[-1])
        inputs: tuple[Value, ...] = (q, k, v)
        if window:
            inputs += (self._mask(window),)
        attended = self._emit(
            "attend", inputs, (*q.shape[:3], v.shape[-1]), attributes={"layer": layer, "scale": scale}
        )
        return self._narrowed(attended, width)

    def _biased(self, q: Value, k: Value, scale: float, slopes: list[float]) -> tuple[Value, Value]:
        """ALiBi as one more number in each head: the query's is the head's slope, the key's is its position."""
        context, kv_heads = self._trace.context, k.shape[2]
        assert kv_heads is not None
        steep = (torch.tensor(slopes) / scale)[None, :, None].repeat(context, 1, 1)
        places = torch.arange(context, dtype=torch.float32)[:, None, None].repeat(1, kv_heads, 1)
        more = (Table(steep, batched=True, role="alibi"), Table(places, batched=True, role="alibi"))
        return self._joined_heads(q, self._table(more[0])), self._joined_heads(k, self._table(more[1]))

    def _joined_heads(self, heads: Value, more: Value) -> Value:
        shape = (*heads.shape[:3], (heads.shape[-1] or 0) + (more.shape[-1] or 0))
        return self._not_literal(self._emit("Concatenate2", (heads, more), shape, attributes={"axis": 3}))

    def _padded(self, v: Value, width: int | None) -> Value:
        """Values as wide as the keys, because they share one kernel."""
        own = v.shape[-1]
        assert width is not None
        assert own is not None
        if width == own:
            return v
        if width < own:
            raise UnsupportedError("export to ExecuTorch: heads whose values are wider than their keys")
        after = [0, 0, 0, width - own]
        return self._not_literal(self._emit("Pad", (v,), (*v.shape[:3], width), attributes={"after": after}))

    def _narrowed(self, attended: Seen, width: int) -> Seen:
        item = self._not_literal(attended)
        if item.shape[-1] == width:
            return attended
        attributes = {"offsets": [0, 0, 0, 0], "sizes": [0, 0, 0, width]}
        return self._emit("StaticSlice", (item,), (*item.shape[:3], width), attributes=attributes)

    def _mask(self, window: int | None) -> Value:
        self.windows.add(window)
        return Value(mask_name(window), (None, self._trace.context))

    def _softcapped(
        self, q: Value, k: Value, v: Value, layer: int, scale: float, window: int | None, cap: float
    ) -> Seen:
        """Attention as XNNPACK's own operations over the whole cache, because no kernel bends scores.

        ``[1, kv, n * group, d] x [1, kv, d, context]``, each head of a group beside the others.
        """
        heads, kv_heads, dim = q.shape[2], k.shape[2], q.shape[3]
        context = self._trace.context
        assert heads is not None
        assert kv_heads is not None
        assert dim is not None
        group = heads // kv_heads

        def emit(kind: str, inputs: tuple[Value | Literal, ...], shape: Shape, **extra: object) -> Value:
            return self._not_literal(self._emit(kind, inputs, shape, attributes=dict(extra)))

        def reshape(value: Value, *shape: int | None) -> Value:
            return emit("StaticReshape", (value,), shape, new_shape=[0 if size is None else size for size in shape])

        cached = (1, context, kv_heads, dim)
        keys = emit("append", (k,), cached, layer=layer, slot="keys")
        values = emit("append", (v,), cached, layer=layer, slot="values")
        keys = emit("StaticTranspose", (keys,), (1, kv_heads, dim, context), perm=[0, 2, 3, 1])
        values = emit("StaticTranspose", (values,), (1, kv_heads, context, dim), perm=[0, 2, 1, 3])
        q = emit("Multiply", (q, Literal(torch.tensor([scale / cap]))), q.shape)
        q = reshape(q, None, kv_heads, group, dim)
        q = emit("StaticTranspose", (q,), (kv_heads, None, group, dim), perm=[1, 0, 2, 3])
        q = reshape(q, 1, kv_heads, None, dim)
        scores = emit("BatchMatrixMultiply", (q, keys), (1, kv_heads, None, context))
        scores = emit("Tanh", (scores,), scores.shape)
        scores = emit("Multiply", (scores, Literal(torch.tensor([cap]))), scores.shape)
        scores = reshape(scores, kv_heads, None, group, context)
        mask = reshape(self._mask(window), 1, None, 1, context)
        scores = emit("Add", (scores, mask), scores.shape)
        scores = emit("Softmax", (scores,), scores.shape)
        scores = reshape(scores, 1, kv_heads, None, context)
        out = emit("BatchMatrixMultiply", (scores, values), (1, kv_heads, None, dim))
        out = reshape(out, kv_heads, None, group, dim)
        out = emit("StaticTranspose", (out,), (None, kv_heads, group, dim), perm=[1, 0, 2, 3])
        return Seen(reshape(out, 1, None, heads, dim))

    def _do_short_conv(self, node: torch.fx.Node) -> Seen:
        """A convolution over the last inputs of the call before and those of this one; it leaves its own behind."""
        x = self._stored(self._operand(node.args[0]))
        weight = self._operand(node.args[1]).item
        bias = None if node.args[2] is None else self._operand(node.args[2]).item
        channels = x.shape[-1]
        if not isinstance(weight, Parameter) or weight.shape[:2] != (channels, 1) or channels is None:
            raise UnsupportedError("export to ExecuTorch: a convolution that mixes channels")
        taps = weight.shape[2]
        layer = {"layer": node.args[3]}
        before = self._not_literal(self._emit("recall", (), (1, taps - 1, 1, channels), attributes=dict(layer)))
        now = self._emit("StaticReshape", (x,), (1, None, 1, channels), attributes={"new_shape": [1, 0, 1, channels]})
        shape = (1, More(taps - 1), 1, channels)
        joined = self._not_literal(
            self._emit("Concatenate2", (before, self._not_literal(now)), shape, attributes={"axis": 1})
        )
        turned = Parameter(f"{weight.name}^T", (1, taps, 1, channels))
        inputs = (joined, turned) if bias is None else (joined, turned, bias)
        out = self._not_literal(self._emit("DepthwiseConv2d", inputs, (1, None, 1, channels)))
        self._emit("remember", (joined,), (1, taps - 1, 1, channels), attributes=dict(layer))
        return self._emit("StaticReshape", (out,), (1, None, channels), attributes={"new_shape": [1, 0, channels]})
