"""What a program calls outside of its delegates, against what the probe and every fast path have."""

from __future__ import annotations

from edgekit.schema.bundle import AuditedOperator, GateCheck
from edgekit_export.executorch.stored import StoredProgram

#: Kernels in the libraries the probe is linked with, and our own. Anything else either does not load on the device,
#: or is work (dequantizing, above all) that belongs into a delegate.
IN_PROBE = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::embedding.out",
        "aten::eq.Scalar_out",
        "aten::index.Tensor_out",
        "aten::select_copy.int_out",
        "aten::slice_copy.Tensor_out",
        "aten::where.self_out",
        "dim_order_ops::_to_dim_order_copy.out",
        "llama::custom_quantized_sdpa.out",
        "llama::custom_sdpa.out",
        "llama::update_cache.out",
        "quantized_decomposed::embedding_4bit.out",
        "quantized_decomposed::choose_qparams_per_token_asymmetric.out",
        "quantized_decomposed::embedding_byte.out",
        "quantized_decomposed::quantize_per_token.out",
    }
)


def check_operators(stored: StoredProgram) -> GateCheck:
    """Whether the program calls only what it may."""
    strangers = sorted(set(stored.operators) - IN_PROBE)
    foreign = sorted({delegate.id for delegate in stored.program.execution_plan[0].delegates} - {"XnnpackBackend"})
    return GateCheck(
        name="operators",
        passed=not strangers and not foreign,
        found=", ".join([*strangers, *foreign]) or f"{len(stored.operators)} kernels, XNNPACK",
        limit="only kernels the probe has, nothing dequantized outside a delegate",
        cause="the program was changed after it was exported, or by other code" if strangers or foreign else None,
    )


def audited(operators: dict[str, int]) -> list[AuditedOperator]:
    """Calls by name as bundles record them."""
    found = []
    for name, count in operators.items():
        domain, _, op_type = name.rpartition("::")
        found.append(AuditedOperator(domain=domain or "executorch", op_type=op_type, count=count))
    return found
