"""Nodes of our own in a traced graph, and the modules that must be told to use them.

Attention reaches ``edgekit::attend`` through transformers' interface. Models that write their attention out, and
short convolutions, are given a forward of our own that computes the same with these nodes.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch


@torch.library.custom_op("edgekit::mark", mutates_args=())  # type: ignore[untyped-decorator]
def mark(hidden: torch.Tensor, layer: int, after: bool) -> torch.Tensor:
    """The border of a layer: nothing is computed."""
    return hidden.clone()


@mark.register_fake  # type: ignore[untyped-decorator]
def _(hidden: torch.Tensor, layer: int, after: bool) -> torch.Tensor:
    return torch.empty_like(hidden)


@torch.library.custom_op("edgekit::attend", mutates_args=())  # type: ignore[untyped-decorator]
def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layer: int,
    scale: float,
    window: int,
    softcap: float,
    slopes: list[float],
) -> torch.Tensor:
    """Causal attention over the cache, to which ``k`` and ``v`` are appended.

    Shapes: q ``[1, heads, n, d]``, k and v ``[1, kv_heads, n, d]``; the result is ``[1, n, heads, d]``.
    A window of 0 is none, a softcap of 0 is none; ``slopes`` are ALiBi's, one a head, or empty.
    """
    return v.new_zeros(q.shape[0], q.shape[2], q.shape[1], v.shape[3])


@attend.register_fake  # type: ignore[untyped-decorator]
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layer: int,
    scale: float,
    window: int,
    softcap: float,
    slopes: list[float],
) -> torch.Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3])


@torch.library.custom_op("edgekit::short_conv", mutates_args=())  # type: ignore[untyped-decorator]
def short_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layer: int) -> torch.Tensor:
    """A causal convolution along the positions, channel by channel, over what came before, too.

    Shapes: x and the result ``[1, n, channels]``, weight ``[channels, 1, taps]``.
    """
    return x.clone()


@short_conv.register_fake  # type: ignore[untyped-decorator]
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layer: int) -> torch.Tensor:
    return torch.empty_like(x)


def adapt(model: torch.nn.Module) -> None:
    """Give modules that would compute attention or a convolution themselves a forward with our nodes."""
    for module in model.modules():
        make = _ADAPTERS.get(type(module).__name__)
        if make is not None:
            module.forward = types.MethodType(make(module), module)


def _bloom(module: Any) -> Callable[..., Any]:
    from transformers.models.bloom.modeling_bloom import _get_alibi_slopes

    slopes = _get_alibi_slopes(module.num_heads, torch.device("cpu")).tolist()

    def forward(self: Any, hidden_states: Any, residual: Any, *_: Any, **__: Any) -> Any:
        q, k, v = self._reshape(self.query_key_value(hidden_states))
        out = torch.ops.edgekit.attend(q, k, v, int(self.layer_idx), float(self.inv_norm_factor), 0, 0.0, slopes)
        return self.dense(out.reshape(out.shape[0], out.shape[1], -1)) + residual, None

    return forward


def _lfm2(_: Any) -> Callable[..., Any]:
    def forward(self: Any, hidden_states: Any, *_: Any, **__: Any) -> Any:
        before, after, x = self.in_proj(hidden_states).chunk(3, dim=-1)
        seen = torch.ops.edgekit.short_conv(before * x, self.conv.weight, self.conv.bias, int(self.layer_idx))
        return self.out_proj(after * seen)

    return forward


_ADAPTERS: dict[str, Callable[[Any], Callable[..., Any]]] = {"BloomAttention": _bloom, "Lfm2ShortConv": _lfm2}
