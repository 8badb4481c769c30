"""From the graph that optimum writes to the interface bundles promise.

Optimum's graph takes a mask, positions and a cache of just the past, and answers with a cache that has grown. Around
it stand the operations that make the first three from the numbers that we feed, cut the past out of a cache of fixed
size, and put the grown one back into it. The graph itself stays what optimum made it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import UnsupportedError
from edgekit.schema.bundle import AuditedOperator, OnnxInterface
from edgekit_export.gate.stored import JOIN
from edgekit_export.onnx.audit import list_operators
from edgekit_export.onnx.files import MODEL, WEIGHTS
from edgekit_export.onnx.graph import Graph
from edgekit_export.onnx.interface import LOGITS, SEQLENS_K, TOKENS, TOTAL_LENGTH, past_name, present_name
from edgekit_export.onnx.provenance import name_weights
from edgekit_export.sources.tensors import TensorStore

_MASK, _POSITIONS = "attention_mask", "position_ids"
#: Prefix of the values that are added.
_OURS = "edgekit."
#: Smaller constants stay in the graph.
_EXTERNAL_BYTES = 1024


class AdaptedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What was written.

    Attributes:
        interface: how it is fed.
        operators: kinds of operators and their counts.
        opsets: versions by domain.
        weight_bytes: of all parameters as stored; a matrix that stands there twice counts twice.
        kv_cache_bytes: of the cache.
    """

    interface: OnnxInterface
    operators: list[AuditedOperator]
    opsets: dict[str, int]
    weight_bytes: int
    kv_cache_bytes: int


def adapt(graph: Path, tensors: TensorStore, directory: Path, *, context: int) -> AdaptedModel:
    """Write optimum's graph into ``directory`` as ``model.onnx`` and ``model.onnx.data``.

    Args:
        graph: what optimum wrote, its weights in it or beside it.
        tensors: the source's weights: constants that hold one of them get its name, so that the gate can compare.
        directory: the bundle's folder.
        context: tokens that the cache holds.

    Raises:
        UnsupportedError: the graph has other inputs or outputs than a decoder with a cache.
    """
    model = onnx.load(str(graph))
    shapes = _cache_shapes(model.graph, context)
    weight_bytes = _name_parameters(model.graph, tensors)
    before, after = _frame(model.graph, shapes)
    nodes = [*before, *model.graph.node, *after]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    interface = OnnxInterface(
        tokens=TOKENS,
        seqlens_k=SEQLENS_K,
        total_sequence_length=TOTAL_LENGTH,
        past=[f"{_OURS}{name}" for name in shapes],
        present=[f"{_OURS}{_present_of(name)}" for name in shapes],
        cache_shape=list(shapes.values()),
        cache_dtype="float32",
        logits=LOGITS,
        logits_dtype="float32",
        logits_positions="all",
    )
    operators = list_operators(model)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    onnx.save_model(
        model,
        str(directory / MODEL),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=WEIGHTS,
        size_threshold=_EXTERNAL_BYTES,
    )
    return AdaptedModel(
        interface=interface,
        operators=operators,
        opsets=opsets,
        weight_bytes=weight_bytes,
        kv_cache_bytes=sum(4 * math.prod(shape) for shape in shapes.values()),
    )


def _cache_shapes(graph: Any, context: int) -> dict[str, list[int]]:
    """Shape of the whole cache by the name of each of its inputs, in their order.

    Raises:
        UnsupportedError: this is no graph that we know how to feed.
    """
    inputs = {value.name: value for value in graph.input}
    outputs = {value.name for value in graph.output}
    shapes: dict[str, list[int]] = {}
    layer = 0
    while past_name(layer, "key") in inputs:
        for kind in ("key", "value"):
            name = past_name(layer, kind)
            kind_of = inputs.get(name)
            dims = [] if kind_of is None else list(kind_of.type.tensor_type.shape.dim)
            if (
                len(dims) != 4
                or not dims[1].dim_value
                or not dims[3].dim_value
                or present_name(layer, kind) not in outputs
            ):
                raise UnsupportedError(f"optimum's graph: the cache {name} is not one of keys or values by head")
            shapes[name] = [1, dims[1].dim_value, context, dims[3].dim_value]
        layer += 1
    known = {TOKENS, _MASK, _POSITIONS, *shapes}
    strangers = sorted(set(inputs) - known)
    if not shapes or strangers or not {TOKENS, _MASK} <= set(inputs) or LOGITS not in outputs:
        raise UnsupportedError(
            "optimum's graph is not a decoder with a cache that we know how to feed",
            detail=f"inputs: {', '.join(inputs)}; outputs: {', '.join(outputs)}",
            hint="export it without --exporter optimum",
        )
    return shapes


def _present_of(past: str) -> str:
    return past.replace("past_key_values", "present", 1)


def _name_parameters(graph: Any, tensors: TensorStore) -> int:
    """Give every constant that holds the source's weights their name; bytes of all of them."""
    constants = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    found = Graph(nodes=[], inputs=[], outputs=[], constants=dict(constants), weights={})
    name_weights(found, {name: np.asarray(tensor.numpy()) for name, tensor in tensors.items()})
    renamed: dict[str, str] = {}
    for name, weight in found.weights.items():
        plus = [f"{weight.plus:g}"] if weight.plus else []
        renamed[name] = JOIN.join([*weight.parts, *plus]) + (".T" if weight.transposed else "")
    kept, seen = [], set()
    for tensor in graph.initializer:
        new = renamed.get(tensor.name, tensor.name)
        if new in seen:
            continue
        seen.add(new)
        tensor.name = new
        kept.append(tensor)
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
    weight_bytes = sum(value.nbytes for name, value in constants.items() if name in renamed)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return weight_bytes


def _frame(graph: Any, shapes: dict[str, list[int]]) -> tuple[list[Any], list[Any]]:
    """The operations before and after optimum's, and the graph's new inputs and outputs."""

    def constant(name: str, value: Any, dtype: Any = np.int64) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), f"{_OURS}{name}"))
        return f"{_OURS}{name}"

    zero, one, two = constant("zero", [0]), constant("one", [1]), constant("axis", [2])
    step, end = constant("step", 1), constant("end", [np.iinfo(np.int64).max])
    node = helper.make_node
    total, past, scalar = f"{_OURS}total", f"{_OURS}past", f"{_OURS}past_scalar"
    before = [
        node("Cast", [TOTAL_LENGTH], [f"{_OURS}total_scalar"], to=TensorProto.INT64),
        node("Unsqueeze", [f"{_OURS}total_scalar", zero], [total]),
        node("Shape", [TOKENS], [f"{_OURS}new"], start=1, end=2),
        node("Sub", [total, f"{_OURS}new"], [past]),
        node("Squeeze", [past, zero], [scalar]),
        node("Concat", [one, total], [f"{_OURS}mask_shape"], axis=0),
        node(
            "ConstantOfShape",
            [f"{_OURS}mask_shape"],
            [_MASK],
            value=numpy_helper.from_array(np.ones(1, np.int64), "ones"),
        ),
        node("Range", [scalar, f"{_OURS}total_scalar", step], [f"{_OURS}positions"]),
        node("Unsqueeze", [f"{_OURS}positions", zero], [_POSITIONS]),
    ]
    after = []
    for name in shapes:
        grown = _present_of(name)
        before.append(node("Slice", [f"{_OURS}{name}", zero, past, two], [name]))
        # One buffer is bound to both: what lies beyond must be read before the whole is written, and it is its input.
        after.append(node("Slice", [f"{_OURS}{name}", total, end, two], [f"{_OURS}rest.{name}"]))
        after.append(node("Concat", [grown, f"{_OURS}rest.{name}"], [f"{_OURS}{grown}"], axis=2))
    for index, added in enumerate([*before, *after]):
        added.name = f"{_OURS}frame.{index}"
    vocabulary = next(value for value in graph.output if value.name == LOGITS)
    outputs = [vocabulary]
    inputs = [
        helper.make_tensor_value_info(TOKENS, TensorProto.INT64, [1, "n"]),
        helper.make_tensor_value_info(SEQLENS_K, TensorProto.INT32, [1]),
        helper.make_tensor_value_info(TOTAL_LENGTH, TensorProto.INT32, []),
    ]
    for name, shape in shapes.items():
        inputs.append(helper.make_tensor_value_info(f"{_OURS}{name}", TensorProto.FLOAT, shape))
        outputs.append(helper.make_tensor_value_info(f"{_OURS}{_present_of(name)}", TensorProto.FLOAT, shape))
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.output[:]
    graph.output.extend(outputs)
    return before, after
