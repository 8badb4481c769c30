"""The same graph with products of floats: its kernels' rounding of activations taken out.

A kernel that rounds activations does so differently from processor to processor, and what that makes of the logits
hides what is wrong elsewhere. Which tensors each product reads, and everything around the products, stays as it is.
"""

from __future__ import annotations

from typing import Any

from edgekit_export.onnx.graph import MICROSOFT

#: ``accuracy_level`` of MatMulNBits: activations stay float32.
_FLOAT = 1


def remove_rounding(graph: Any) -> None:
    """Let every product of the ONNX ``graph`` (changed in place) multiply float32 activations."""
    import onnx

    nodes = []
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            others = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*others, onnx.helper.make_attribute("accuracy_level", _FLOAT)])
            nodes.append(node)
        elif node.op_type == "DynamicQuantizeMatMul" and node.domain == MICROSOFT:
            nodes += _float_product(node)
        else:
            nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


def rounds(graph: Any) -> bool:
    """Whether a product of the ONNX ``graph`` rounds its activations."""
    for node in graph.node:
        if node.op_type == "DynamicQuantizeMatMul":
            return True
        if node.op_type == "MatMulNBits":
            levels = [attribute.i for attribute in node.attribute if attribute.name == "accuracy_level"]
            # 0 leaves it to the runtime, which takes floats; 2 and 3 are half precisions.
            if any(level not in (0, _FLOAT) for level in levels):
                return True
    return False


def _float_product(node: Any) -> list[Any]:
    """The product with the matrix's numbers, ``[in, out]`` with a scale per column."""
    from onnx import helper

    result, (values, matrix, scales, *rest) = node.output[0], node.input
    zero_points, bias = [*rest, "", ""][:2]
    wide, product = f"{result}/matrix", f"{result}/product" if bias else result
    read = [matrix, scales, zero_points] if zero_points else [matrix, scales]
    made = [
        helper.make_node("DequantizeLinear", read, [wide], axis=1),
        helper.make_node("MatMul", [values, wide], [product]),
    ]
    return [*made, helper.make_node("Add", [product, bias], [result])] if bias else made
