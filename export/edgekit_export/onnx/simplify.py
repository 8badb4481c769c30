"""Fewer operators for the same result: at one token per step, each operator's overhead counts."""

from __future__ import annotations

from edgekit_export.onnx.graph import MICROSOFT, PLACEHOLDER, Graph, Node, Weight


def simplify(graph: Graph) -> None:
    """Fold biases into their products and drop reshapes in front of attention, in place."""
    _fold_biases(graph)
    _fold_split_biases(graph)
    for node in graph.nodes:
        if node.is_op("GroupQueryAttention", MICROSOFT):
            for position in range(3):
                _skip_reshapes(graph, node, position)
            _pack(graph, node)
    graph.prune()


def _bias_of(graph: Graph, node: Node, value: str) -> str | None:
    """The one-dimensional weight that ``node`` adds to ``value``, if that is what it does."""
    if not node.is_op("Add") or value not in node.inputs:
        return None
    other = node.inputs[1 - node.inputs.index(value)]
    weight = graph.weights.get(other)
    return other if weight is not None and all(part.endswith(".bias") for part in weight.parts) else None


def _fold_biases(graph: Graph) -> None:
    consumers = graph.consumers()
    for node in graph.nodes:
        if not node.is_op("Linear", PLACEHOLDER) or len(node.inputs) > 2:
            continue
        readers = consumers.get(node.outputs[0], [])
        if len(readers) == 1 and node.outputs[0] not in graph.outputs:
            bias = _bias_of(graph, readers[0], node.outputs[0])
            if bias:
                _absorb(graph, node, bias, readers)


def _fold_split_biases(graph: Graph) -> None:
    """One bias on a packed product instead of one on each of its parts."""
    consumers = graph.consumers()
    producers = graph.producers()
    for split in [node for node in graph.nodes if node.is_op("Split")]:
        product = producers.get(split.inputs[0])
        if product is None or not product.is_op("Linear", PLACEHOLDER) or len(product.inputs) > 2:
            continue
        if len(consumers[product.outputs[0]]) != 1 or split.attributes.get("axis") not in (-1, 2):
            continue
        readers = [consumers.get(name, []) for name in split.outputs]
        if any(len(found) != 1 for found in readers):
            continue
        adds = [found[0] for found in readers]
        biases = [_bias_of(graph, add, name) for add, name in zip(adds, split.outputs, strict=True)]
        if not all(biases):
            continue
        parts = [part for bias in biases for part in graph.weights[bias or ""].parts]
        # Each part of the product is one matrix, so sizes agree where the parts do.
        if [part.removesuffix(".bias") for part in parts] != [
            part.removesuffix(".weight") for part in graph.weights[product.inputs[1]].parts
        ]:
            continue
        name = "+".join(parts)
        graph.weights[name] = Weight(parts=parts)
        _absorb(graph, product, name, adds)


def _absorb(graph: Graph, product: Node, bias: str, adds: list[Node]) -> None:
    product.inputs.append(bias)
    for add in adds:
        value = next(name for name in add.inputs if name not in graph.weights)
        if add.outputs[0] in graph.outputs:
            # The head's bias: what comes out keeps its name.
            product.outputs = [add.outputs[0] if name == value else name for name in product.outputs]
        else:
            graph.rename_uses(add.outputs[0], value)
    gone = {id(add) for add in adds}
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]


def _is_flat(graph: Graph, producers: dict[str, Node], value: str) -> bool:
    """Whether ``value`` is certainly ``[1, n, width]``."""
    node = producers.get(value)
    if node is None:
        return False
    if node.is_op("Split"):
        node = producers.get(node.inputs[0])
    return node is not None and node.is_op("Linear", PLACEHOLDER)


def _skip_reshapes(graph: Graph, attention: Node, position: int) -> None:
    """Attention reads ``[1, n, width]``; reshapes that lead from there to there change nothing."""
    producers = graph.producers()
    value = attention.inputs[position]
    chain = []
    while (node := producers.get(value)) is not None and node.is_op("Reshape"):
        chain.append(node)
        value = node.inputs[0]
    if not chain:
        return
    if _is_flat(graph, producers, value):
        attention.inputs[position] = value
    elif len(chain) > 1 and _is_absolute(graph, chain[0]):
        chain[0].inputs[0] = value


def _is_absolute(graph: Graph, reshape: Node) -> bool:
    """Whether the target shape stands by itself, without dimensions copied from the input."""
    target = graph.constants.get(reshape.inputs[1])
    return target is not None and bool((target != 0).all())


def _pack(graph: Graph, attention: Node) -> None:
    """Let attention take a packed product as it is, where query, key and value are its parts in order."""
    producers = graph.producers()
    found = [producers.get(attention.inputs[position]) for position in range(3)]
    split = found[0]
    if split is None or not split.is_op("Split") or any(node is not split for node in found):
        return
    if split.outputs == attention.inputs[:3]:
        attention.inputs[:3] = [split.inputs[0], "", ""]
