"""Causes that stand in the bundle's graph: operators that the runtime's fast path does not take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from edgekit.schema.bundle import AuditedOperator, Bundle

GraphCause = Literal["outside the delegate", "fallback nodes", "full logits"]

#: Of ONNX: conversions that a fused operator would do inside.
_CONVERSIONS = ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger")
#: What an ExecuTorch program calls beside its delegates when it is exported well: attention, the cache and its rounding
#: to 8 bits, lookups, views, masks made from positions. What the export's audit lets pass is in here.
_BESIDE = (
    "custom_sdpa",
    "custom_quantized_sdpa",
    "update_cache",
    "choose_qparams_per_token",
    "quantize_per_token",
    "embedding",
    "index",
    "select_copy",
    "slice_copy",
    "_local_scalar_dense",
    "_to_dim_order_copy",
    "eq",
    "where",
)
_DELEGATES = ("executorch", "xnnpack")


def found_in(bundle: Bundle, *, prefill: bool) -> Iterator[tuple[GraphCause, str, str]]:
    """Each cause with its evidence and remedy; ``prefill`` tells whether several positions are computed at once."""
    operators = bundle.runtime.operators
    again = "export again with `edgekit export`"
    if bundle.runtime.name == "executorch":
        outside = [item for item in operators if item.domain not in _DELEGATES and not _beside(item)]
        if outside:
            yield "outside the delegate", f"called outside XNNPACK: {_named(outside)}", again
    else:
        conversions = [item for item in operators if item.op_type in _CONVERSIONS]
        if conversions:
            yield "fallback nodes", f"converted outside fused operators: {_named(conversions)}", again
    interface = bundle.runtime.onnx
    if prefill and interface is not None and interface.logits_positions == "all":
        size = bundle.architecture.vocab * 4
        text = f"the graph makes logits of every position, {size / 1e6:.3g} MB each, where the last one's are wanted"
        yield "full logits", text, again


def _beside(item: AuditedOperator) -> bool:
    return item.op_type.split(".")[0].startswith(_BESIDE)


def _named(items: list[AuditedOperator]) -> str:
    return ", ".join(f"{item.count} {item.op_type}" for item in items)
