"""From the exporter's decode graph to the interface bundles promise.

The exporter's graph derives rotary caches, an attention mask and lengths from its
inputs on every step. All three depend on nothing but positions, so they are evaluated
here, proven to be what GroupQueryAttention does by itself, and dropped.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit_export.onnx.graph import MICROSOFT, PLACEHOLDER, Array, Graph, Node, Weight, ancestors, evaluate
from edgekit_export.onnx.masks import Mask, add_distances, read_mask
from edgekit_export.onnx.positional import TABLE, tabulate
from edgekit_export.onnx.rotation import rotate_in_attention
from edgekit_export.onnx.trace import Traced

TOKENS = "input_ids"
SEQLENS_K = "seqlens_k"
TOTAL_LENGTH = "total_sequence_length"
LOGITS = "logits"
#: Constants of the graph that were computed here, and are no parameters, begin so.
COMPUTED = ("rotary.", TABLE, "alibi.")

# Inputs of GroupQueryAttention by position.
_PAST_KEY, _PAST_VALUE, _SEQLENS, _TOTAL, _COS, _SIN, _POSITIONS, _BIAS = 3, 4, 5, 6, 7, 8, 9, 10


def past_name(layer: int, kind: str) -> str:
    """Name of a cache input, ``kind`` being ``key`` or ``value``."""
    return f"past_key_values.{layer}.{kind}"


def present_name(layer: int, kind: str) -> str:
    """Name of a cache output, ``kind`` being ``key`` or ``value``."""
    return f"present.{layer}.{kind}"


class _Sample(NamedTuple):
    """A number of cached positions and of new tokens to evaluate position arithmetic at."""

    past: int
    new: int


def clean(traced: Traced, context_length: int) -> Graph:
    """The graph with the bundle's inputs and outputs, for caches of ``context_length`` positions.

    Raises:
        UnsupportedError: attention was not fused, or computes something that
            GroupQueryAttention would not compute the same way without a mask.
    """
    graph = traced.graph
    attentions = [node for node in graph.nodes if node.is_op("GroupQueryAttention", MICROSOFT)]
    if len(attentions) != len(traced.cache):
        raise UnsupportedError(
            f"fuse attention: {len(attentions)} of {len(traced.cache)} layers became GroupQueryAttention",
            hint="this architecture's attention has no fused operator in onnxruntime",
        )
    for node in attentions:
        node.inputs += [""] * (_BIAS + 1 - len(node.inputs))
    samples = _samples(context_length)
    _fix_lengths(traced, attentions, samples)
    _fix_rotary(traced, attentions, context_length)
    _drop_masks(traced, attentions, samples, context_length)
    _drop_constant_choices(traced, samples)
    _drop_reshapes(traced, attentions)
    _name_caches(graph, attentions)
    _name_linears(traced)
    for node in attentions:
        node.inputs[_SEQLENS], node.inputs[_TOTAL] = SEQLENS_K, TOTAL_LENGTH
        while not node.inputs[-1]:
            node.inputs.pop()
        layer = _layer_of_past(node.inputs[_PAST_KEY])
        if layer in traced.caps:
            node.attributes["softcap"] = traced.caps[layer]
    graph.outputs = [LOGITS]
    graph.outputs += [present_name(layer, kind) for layer in range(len(attentions)) for kind in ("key", "value")]
    graph.prune()
    _tabulate(traced, context_length)
    rotate_in_attention(graph, attentions, lambda name: _evaluate(traced, [name], _feeds(traced, _Sample(0, 7)))[0])
    graph.prune()
    graph.inputs = [TOKENS, SEQLENS_K, TOTAL_LENGTH]
    graph.inputs += [past_name(layer, kind) for layer in range(len(attentions)) for kind in ("key", "value")]
    _check_inputs(graph)
    return graph


def _samples(context_length: int) -> list[_Sample]:
    """Positions at the start, the middle and the end of the cache, and a single step."""
    new = min(16, context_length)
    pasts = {0, min(5, context_length - new), context_length // 2, context_length - new}
    return [_Sample(past, new) for past in sorted(pasts) if past + new <= context_length] + [
        _Sample(context_length - 1, 1)
    ]


def _feeds(traced: Traced, sample: _Sample, positions: Array | None = None) -> dict[str, Array]:
    """The exporter's own inputs for ``sample``; token values do not matter to position arithmetic."""
    if positions is None:
        positions = np.arange(sample.past, sample.past + sample.new)
    feeds: dict[str, Array] = {}
    for name in traced.graph.inputs:
        found = re.search(r"layers\.(\d+)\.(?:keys|values)$", name)
        if found:
            heads, size = traced.cache[int(found.group(1))]
            feeds[name] = np.zeros((1, heads, sample.past, size), np.float32)
        elif name == "position_ids":
            feeds[name] = positions[None].astype(np.int64)
        elif name == TOKENS:
            feeds[name] = np.zeros((1, sample.new), np.int64)
        elif "sliding_window" in name:
            # The trace carries the window along; nothing may read it, since masks say what it means.
            continue
        else:
            raise UnsupportedError(
                f"the traced model wants an input {name!r}", hint="only text decoders with a plain KV cache are served"
            )
    return feeds


def _tabulate(traced: Traced, context_length: int) -> None:
    caches = [name for name in traced.graph.inputs if re.search(r"layers\.(\d+)\.(?:keys|values)$", name)]
    tabulate(
        traced.graph,
        caches,
        TOKENS,
        TOTAL_LENGTH,
        context_length,
        lambda names, past, new: _evaluate(traced, names, _feeds(traced, _Sample(past, new))),
    )


def _evaluate(traced: Traced, targets: list[str], feeds: dict[str, Array]) -> list[Array]:
    return evaluate(traced.graph, targets, feeds, traced.values)


def _positional(traced: Traced, name: str, what: str) -> None:
    """Refuse unless ``name`` depends on positions alone."""
    graph = traced.graph
    weights = ancestors(graph, [name], through_shapes=False) & set(graph.weights)
    if weights:
        raise UnsupportedError(f"{what} depends on weights ({', '.join(sorted(weights)[:3])})")


def _fix_lengths(traced: Traced, attentions: list[Node], samples: list[_Sample]) -> None:
    for sample in samples:
        feeds = _feeds(traced, sample)
        for seqlens, total in dict.fromkeys((node.inputs[_SEQLENS], node.inputs[_TOTAL]) for node in attentions):
            found = _evaluate(traced, [seqlens, total], feeds)
            wanted = [[sample.past + sample.new - 1], sample.past + sample.new]
            if [value.tolist() for value in found] != wanted:
                raise UnsupportedError(f"attention lengths at {sample}: {[v.tolist() for v in found]}, not {wanted}")


def _fix_rotary(traced: Traced, attentions: list[Node], context_length: int) -> None:
    """Replace the rotary caches computed per step by constants ``[context, rotary_dim / 2]``."""
    graph = traced.graph
    names = dict.fromkeys(node.inputs[index] for node in attentions for index in (_COS, _SIN) if node.inputs[index])
    probe = _Sample(min(5, context_length - 1), min(7, context_length))
    shifted = np.arange(probe.past, probe.past + probe.new)
    by_content: dict[bytes, str] = {}
    for name in names:
        _positional(traced, name, "the rotary embedding")
        (cache,) = _evaluate(traced, [name], _feeds(traced, _Sample(0, context_length)))
        cache = np.ascontiguousarray(cache[:context_length])
        # The exporter caches rows for the tokens at hand. Row i must be position i's, whatever else is fed.
        (rows,) = _evaluate(traced, [name], _feeds(traced, probe, shifted))
        known = shifted < context_length
        if not np.array_equal(rows[: probe.new][known], cache[shifted[known]]):
            raise UnsupportedError(
                "the rotary embedding depends on more than the position (dynamic scaling)",
                hint="models whose RoPE scaling follows the current length are not served",
            )
        key = f"{cache.shape}".encode() + cache.tobytes()
        constant = by_content.setdefault(key, f"rotary.{len(by_content)}")
        graph.constants[constant] = cache
        for node in attentions:
            node.inputs = [
                constant if value == name and at in (_COS, _SIN) else value for at, value in enumerate(node.inputs)
            ]
    for node in attentions:
        node.inputs[_POSITIONS] = ""


def _drop_masks(traced: Traced, attentions: list[Node], samples: list[_Sample], context_length: int) -> None:
    """Prove each mask causal, a sliding window or ALiBi's distances; attention does the first two by itself."""
    masks: dict[str, Mask] = {"": Mask(None, None)}
    for name in dict.fromkeys(node.inputs[_BIAS] for node in attentions):
        if name:
            _positional(traced, name, "the attention mask")
            masks[name] = read_mask(
                [
                    (sample.past, _evaluate(traced, [name], _feeds(traced, sample))[0])
                    for sample in samples
                    if sample.past + sample.new <= context_length
                ]
            )
    for node in attentions:
        mask = masks[node.inputs[_BIAS]]
        node.inputs[_BIAS] = ""
        if mask.window is not None:
            node.attributes["local_window_size"] = mask.window
        if mask.slopes is not None:
            node.inputs[_BIAS] = add_distances(traced.graph, mask.slopes, TOKENS, TOTAL_LENGTH)


def _drop_constant_choices(traced: Traced, samples: list[_Sample]) -> None:
    """Resolve each Where whose condition is the same at all positions (such as "this row sees no key")."""
    graph = traced.graph
    outcomes: dict[str, bool | None] = {}
    for node in [node for node in graph.nodes if node.is_op("Where")]:
        condition, chosen, other = node.inputs
        if condition not in outcomes:
            outcomes[condition] = None
            if not ancestors(graph, [condition], through_shapes=False) & set(graph.weights):
                seen = [_evaluate(traced, [condition], _feeds(traced, sample))[0] for sample in samples]
                if all(np.all(value) for value in seen):
                    outcomes[condition] = True
                elif not any(np.any(value) for value in seen):
                    outcomes[condition] = False
        outcome = outcomes[condition]
        if outcome is not None:
            graph.rename_uses(node.outputs[0], chosen if outcome else other)
    graph.prune()


def _drop_reshapes(traced: Traced, attentions: list[Node]) -> None:
    """Drop reshapes that only undo each other between attention and its output projection."""
    graph = traced.graph
    sample = _Sample(3, 7)
    for attention in attentions:
        heads = attention.attributes["num_heads"]
        layer = _layer_of(attention.inputs[_PAST_KEY])
        shape = [1, sample.new, heads * traced.cache[layer][1]]
        frontier = [attention.outputs[0]]
        while frontier:
            value = frontier.pop()
            for node in graph.consumers().get(value, []):
                if not node.is_op("Reshape"):
                    continue
                if ancestors(graph, [node.inputs[1]], through_shapes=False) & set(graph.weights):
                    continue
                (target,) = _evaluate(traced, [node.inputs[1]], _feeds(traced, sample))
                if _same_shape(target.tolist(), shape):
                    graph.rename_uses(node.outputs[0], attention.outputs[0])
                else:
                    frontier.append(node.outputs[0])
    graph.prune()


def _same_shape(target: list[int], shape: list[int]) -> bool:
    """Whether reshaping to ``target`` leaves ``shape``, at most one entry being inferred."""
    return (
        len(target) == len(shape)
        and target.count(-1) <= 1
        and all(found in (-1, wanted) for found, wanted in zip(target, shape, strict=True))
    )


def _layer_of_past(name: str) -> int:
    return int(name.split(".")[1])


def _layer_of(cache_input: str) -> int:
    found = re.search(r"layers\.(\d+)\.", cache_input)
    if not found:
        raise UnsupportedError(f"attention reads a cache named {cache_input!r}, which names no layer")
    return int(found.group(1))


def _name_caches(graph: Graph, attentions: list[Node]) -> None:
    for node in attentions:
        layer = _layer_of(node.inputs[_PAST_KEY])
        for position, kind in ((_PAST_KEY, "key"), (_PAST_VALUE, "value")):
            node.inputs[position] = past_name(layer, kind)
        for position, kind in ((1, "key"), (2, "value")):
            present = present_name(layer, kind)
            if node.outputs[position] not in graph.outputs:
                raise UnsupportedError("the model changes its cache after attention wrote it")
            graph.rename_uses(node.outputs[position], present)
            node.outputs[position] = present


def _name_linears(traced: Traced) -> None:
    """Mark products with weights and embedding lookups, for recipes to fill in."""
    graph = traced.graph
    _split_factors(graph)
    _flat_products(traced)
    for node in graph.nodes:
        transposed = node.is_op("FusedMatMul", MICROSOFT) and node.attributes == {"transB": 1}
        if (transposed or node.is_op("MatMul")) and node.inputs[1] in graph.weights:
            weight = graph.weights[node.inputs[1]]
            turned = weight.transposed if transposed else not weight.transposed
            node.inputs[1] = _weight(graph, Weight(parts=weight.parts, plus=weight.plus, transposed=turned))
            node.op_type, node.domain, node.attributes = "Linear", PLACEHOLDER, {}
        elif node.is_op("Gather") and node.inputs[0] in graph.weights and node.attributes.get("axis", 0) == 0:
            name = _weight(graph, graph.weights[node.inputs[0]])
            node.inputs = [node.inputs[1], name]
            node.op_type, node.domain, node.attributes = "Embed", PLACEHOLDER, {}
        else:
            node.inputs = [
                _weight(graph, graph.weights[value]) if value in graph.weights else value for value in node.inputs
            ]


def _flat_products(traced: Traced) -> None:
    """Products of flattened tokens (GPT-2's) as products of ``[1, n, width]``, their bias added after."""
    graph = traced.graph
    producers, consumers = graph.producers(), graph.consumers()
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.append(node)
        if not node.is_op("Gemm") or node.inputs[1] not in graph.weights:
            continue
        plain = all(node.attributes.get(key, 1.0) == 1.0 for key in ("alpha", "beta"))
        if not plain or node.attributes.get("transA", 0):
            raise UnsupportedError("the architecture scales or turns a product in a way that is not served")
        # What was reshaped on its way here began as [1, n, width].
        value = node.inputs[0]
        while (before := producers.get(value)) is not None and before.is_op("Reshape"):
            value = before.inputs[0]
        readers = consumers.get(node.outputs[0], [])
        if not (before and before.is_op("Transpose")) and all(_unflattens(traced, reader) for reader in readers):
            node.inputs[0] = value
            for reader in readers:
                graph.rename_uses(reader.outputs[0], node.outputs[0])
        weight, result = node.inputs[1], node.outputs[0]
        if node.attributes.get("transB", 0):
            node.op_type, node.domain, node.attributes = "FusedMatMul", MICROSOFT, {"transB": 1}
        else:
            node.op_type, node.attributes = "MatMul", {}
        if len(node.inputs) > 2 and node.inputs[2]:
            node.outputs = [f"{result}/product"]
            nodes.append(Node(op_type="Add", inputs=[node.outputs[0], node.inputs[2]], outputs=[result]))
        node.inputs = [node.inputs[0], weight]
    graph.nodes = nodes


def _unflattens(traced: Traced, node: Node) -> bool:
    """Whether ``node`` gives flattened tokens their shape ``[1, n, width]`` back."""
    if not node.is_op("Reshape"):
        return False
    if ancestors(traced.graph, [node.inputs[1]], through_shapes=False) & set(traced.graph.weights):
        return False
    sample = _Sample(3, 7)
    (target,) = _evaluate(traced, [node.inputs[1]], _feeds(traced, sample))
    return len(target) == 3 and _same_shape(target.tolist()[:2], [1, sample.new])


def _split_factors(graph: Graph) -> None:
    """Take the factor out of products with weights that the exporter folded one into."""
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.append(node)
        factor = node.attributes.get("alpha", 1.0)
        if not node.is_op("FusedMatMul", MICROSOFT) or node.inputs[1] not in graph.weights or factor == 1.0:
            continue
        result, product = node.outputs[0], f"{node.outputs[0]}/product"
        name = f"factor.{factor!r}"
        graph.constants[name] = np.array(factor, np.float32)
        node.outputs = [product]
        nodes.append(Node(op_type="Mul", inputs=[product, name], outputs=[result]))
    graph.nodes = nodes
    for node in graph.nodes:
        if node.is_op("FusedMatMul", MICROSOFT) and node.inputs[1] in graph.weights:
            # What is stated as it is anyway.
            node.attributes = {
                key: value
                for key, value in node.attributes.items()
                if (key == "transB" and value) or (key in ("transA", "transBatchA", "transBatchB") and value)
            }
            if not node.attributes:
                node.op_type, node.domain = "MatMul", ""


def _weight(graph: Graph, weight: Weight) -> str:
    """The name under which ``weight`` stands in the graph: the same weight gets the same name."""
    name = "+".join(weight.parts) + (f"+{weight.plus:g}" if weight.plus else "") + (".T" if weight.transposed else "")
    graph.weights[name] = weight
    return name


def _check_inputs(graph: Graph) -> None:
    known = {name for node in graph.nodes for name in node.outputs}
    known |= set(graph.inputs) | set(graph.constants) | set(graph.weights)
    for node in graph.nodes:
        missing = [name for name in node.inputs if name and name not in known]
        if missing:
            raise UnsupportedError(
                f"{node.op_type} still reads {', '.join(missing)}, which the bundle's interface does not offer",
                hint="the architecture uses positions in a way that is not served",
            )
