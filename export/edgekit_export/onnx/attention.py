"""Attention as it is traced: as the one call the exporter fuses, what the fused operator does by itself set apart.

onnxruntime's GroupQueryAttention caps scores itself, so a cap is noted here instead of traced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from edgekit.errors import UnsupportedError

#: The name under which transformers knows the traced attention.
IMPLEMENTATION = "edgekit"

#: The cap of each layer's scores, while a trace runs.
_caps: dict[int, float] = {}


@contextlib.contextmanager
def observed_caps() -> Iterator[dict[int, float]]:
    """Caps of attention scores by layer, filled in while models run inside."""
    _caps.clear()
    yield _caps


def _attend(
    module: torch.nn.Module, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    cap = options.pop("softcap", None)
    if cap is not None:
        _caps[int(module.layer_idx)] = float(cap)
    if options.get("s_aux") is not None:
        raise UnsupportedError("attention sinks (a learned share of attention that goes nowhere) are not served")
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(IMPLEMENTATION, _attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


@contextlib.contextmanager
def own_forwards() -> Iterator[None]:
    """Families that compute attention in their own way do it through the common call meanwhile."""
    from transformers.models.bloom.modeling_bloom import BloomAttention

    before = BloomAttention.forward
    BloomAttention.forward = _bloom_forward
    try:
        yield
    finally:
        BloomAttention.forward = before


def _bloom_forward(
    self: Any,
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    alibi: torch.Tensor,
    attention_mask: torch.Tensor | None,
    layer_past: Any = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """BLOOM's attention: ALiBi as a bias on the scores of scaled dot-product attention."""
    batch, count, _ = hidden_states.shape
    packed = self.query_key_value(hidden_states).view(batch, count, self.num_heads, 3, self.head_dim)
    query, key, value = (packed[..., part, :].transpose(1, 2) for part in range(3))
    if layer_past is not None:
        key, value = layer_past.update(key, value, self.layer_idx)
    bias = alibi.view(batch, self.num_heads, 1, -1)
    lowest = torch.finfo(bias.dtype).min
    if attention_mask is None:
        # Nothing but causality, which nobody wrote down.
        attention_mask = torch.ones(count, key.shape[2], dtype=torch.bool).tril(key.shape[2] - count)
    if attention_mask.dtype == torch.bool:
        bias = torch.where(attention_mask, bias, lowest)
    else:
        bias = torch.clamp(bias + attention_mask, min=lowest)
    attended, _ = _attend(self, query, key, value, bias, scaling=self.inv_norm_factor)
    result: torch.Tensor = self.dense(attended.reshape(batch, count, -1)) + residual
    return result, None
