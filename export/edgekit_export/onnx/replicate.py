"""From a few traced layers to all of them.

Each traced layer is one *unit* of nodes. Units of one kind must be the same computation
up to the weights and the cache they name; a missing layer is then a copy of its kind's
unit, wired to its predecessor in the way the same two kinds are wired in the trace.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from edgekit_export.onnx.graph import Graph, Node, Weight
from edgekit_export.onnx.shallow import TracePlan


class CannotReplicateError(Exception):
    """The traced layers do not determine the missing ones; tracing every layer does."""


class _Unit(NamedTuple):
    nodes: list[Node]
    #: Values of other units that this one reads, in order of first use.
    incoming: list[str]
    #: Everything that makes the unit what it is, with names of layers, values and caches taken out.
    form: list[Any]


def replicate(graph: Graph, plan: TracePlan) -> Graph:
    """The graph with all layers of the full model.

    Raises:
        CannotReplicateError: the structure is not one of repeated units.
    """
    try:
        return _replicate(graph, plan)
    except CannotReplicateError as reason:
        # Where layers end with an addition, the last one's may be fused into the norm behind it.
        for swapped in (False, True):
            split = _split_last_norm(graph, plan, swapped=swapped)
            if split is not None:
                try:
                    return _replicate(split, plan)
                except CannotReplicateError:
                    continue
        raise reason from None


#: Norms with an addition in front, and what they are without.
_FUSED_NORMS = {
    "SkipSimplifiedLayerNormalization": ("SimplifiedLayerNormalization", 3),
    "SkipLayerNormalization": ("LayerNormalization", 4),
}


def _split_last_norm(graph: Graph, plan: TracePlan, *, swapped: bool) -> Graph | None:
    """``graph`` with the addition taken out of the norm after the layers; None where there is none to take out."""
    traced = len(plan.layers)
    levels = _levels(graph, plan.prefix, traced)
    nodes: list[Node] = []
    found = False
    for node in graph.nodes:
        plain, inputs = _FUSED_NORMS.get(node.op_type, ("", 0))
        fits = levels[id(node)] == traced and len(node.inputs) == inputs and len(node.outputs) in (1, 4)
        if not plain or not fits:
            nodes.append(node)
            continue
        found = True
        total = node.outputs[3] if len(node.outputs) == 4 else f"{node.outputs[0]}/sum"
        terms = node.inputs[1::-1] if swapped else node.inputs[:2]
        nodes.append(Node(op_type="Add", inputs=list(terms), outputs=[total]))
        attributes = {"axis": -1, "epsilon": node.attributes["epsilon"], "stash_type": 1}
        nodes.append(
            Node(op_type=plain, inputs=[total, *node.inputs[2:]], outputs=node.outputs[:1], attributes=attributes)
        )
    if not found:
        return None
    return Graph(
        nodes=nodes,
        inputs=list(graph.inputs),
        outputs=list(graph.outputs),
        constants=dict(graph.constants),
        weights=dict(graph.weights),
    )


def _replicate(graph: Graph, plan: TracePlan) -> Graph:
    count, traced = len(plan.kinds), len(plan.layers)
    if traced == count:
        return graph
    levels = _levels(graph, plan.prefix, traced)
    prologue = [node for node in graph.nodes if levels[id(node)] < 0]
    units = _units(graph, plan.prefix, traced, levels)
    kinds = [plan.kinds[layer] for layer in plan.layers]
    patterns: dict[int, int] = {}
    for position in range(1, traced):
        pattern = patterns.setdefault(kinds[position], position)
        if units[pattern].form != units[position].form:
            raise CannotReplicateError(
                f"traced layers {pattern} and {position} look alike but compute differently"
                + _first_difference(units[pattern].form, units[position].form)
            )

    # The value that (kind of predecessor, kind) hands over, as (node, output) within the predecessor's unit.
    links: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for position in range(1, traced + 1):
        before = -1 if position == 1 else kinds[position - 1]
        after = kinds[position] if position < traced else -2
        links[before, after] = [_locate(units[position - 1], name) for name in units[position].incoming]

    nodes = [node.copy() for node in prologue]
    weights: dict[str, Weight] = {}
    constants = dict(graph.constants)
    previous: list[Node] = []
    before = -1
    for layer in range(count + 1):
        after = plan.kinds[layer] if layer < count else -2
        source = 0 if layer == 0 else traced if layer == count else patterns[after]
        mapping = {}
        if layer:
            handed = [previous[node].outputs[output] for node, output in links[before, after]]
            mapping = dict(zip(units[source].incoming, handed, strict=True))
        previous = _copy_unit(graph, units[source], plan.prefix, source, layer, mapping, weights)
        nodes += previous
        before = -1 if layer == 0 else after
    for node in prologue:
        weights.update({name: graph.weights[name] for name in node.inputs if name in graph.weights})

    per_layer = [name for name in graph.inputs if _CACHE.search(name)]
    inputs = [name for name in graph.inputs if name not in per_layer]
    outputs = [name for name in graph.outputs if not _CACHE.search(name)]
    for layer in range(count):
        inputs += [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
        outputs += [f"present.{layer}.{kind}" for kind in ("key", "value")]
    full = Graph(nodes=nodes, inputs=inputs, outputs=outputs, constants=constants, weights=weights)
    full.prune()
    return full


_CACHE = re.compile(r"^(past_key_values|present)\.(\d+)\.")


def _weight_layer(weight: Weight, prefix: str) -> int | None:
    """The one layer whose parameters ``weight`` is made of, None for a weight outside the layers."""
    found = {
        int(match.group(1)) if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", part)) else None
        for part in weight.parts
    }
    if len(found) != 1:
        raise CannotReplicateError(f"one tensor is made of several layers: {weight.parts}")
    return found.pop()


def _levels(graph: Graph, prefix: str, traced: int) -> dict[int, int]:
    """For each node the layer it belongs to: -1 for what depends on positions alone, ``traced`` after all layers."""
    levels: dict[int, int] = {}
    of_value: dict[str, int] = {}
    for node in graph.nodes:
        level = max((of_value[name] for name in node.inputs if name in of_value), default=-1)
        for name in node.inputs:
            if name in graph.weights:
                layer = _weight_layer(graph.weights[name], prefix)
                level = max(level, layer if layer is not None else (traced if level >= 0 else -1))
            elif cache := _CACHE.search(name):
                level = max(level, int(cache.group(2)))
        levels[id(node)] = level
        of_value.update(dict.fromkeys(filter(None, node.outputs), level))
    # The embedding belongs to the first layer: where no norm stands between, the second adds to it directly.
    embedded: set[str] = set()
    for node in graph.nodes:
        if levels[id(node)] < 0 and any(name in graph.weights or name in embedded for name in node.inputs):
            levels[id(node)] = 0
            embedded.update(filter(None, node.outputs))
    return levels


def _units(graph: Graph, prefix: str, traced: int, levels: dict[int, int]) -> list[_Unit]:
    """The traced layers in order, and the tail after them.

    Nodes are put in the order in which the results need them, last unit first: the exporter's own
    order differs between layers that compute the same.
    """
    units: list[_Unit] = []
    needed = [name for name in graph.outputs if not _CACHE.search(name)]
    for level in range(traced, -1, -1):
        members = [node for node in graph.nodes if levels[id(node)] == level]
        sinks = [f"present.{level}.{kind}" for kind in ("key", "value")] + needed
        unit = _unit(graph, prefix, _ordered(members, sinks), level, levels)
        units.insert(0, unit)
        needed = unit.incoming
    return units


def _ordered(nodes: list[Node], sinks: list[str]) -> list[Node]:
    """``nodes`` in the order in which a walk from ``sinks`` along their inputs finishes them."""
    producers = {name: node for node in nodes for name in node.outputs if name}
    order: list[Node] = []
    done: set[int] = set()
    stack = [(producers[name], False) for name in reversed(sinks) if name in producers]
    while stack:
        node, finished = stack.pop()
        if finished:
            order.append(node)
        elif id(node) not in done:
            done.add(id(node))
            stack.append((node, True))
            stack += [(producers[name], False) for name in reversed(node.inputs) if name in producers]
    if len(order) != len(nodes):
        raise CannotReplicateError("a layer computes something that neither its cache nor the next layer reads")
    return order


def _unit(graph: Graph, prefix: str, nodes: list[Node], level: int, levels: dict[int, int]) -> _Unit:
    producers = graph.producers()
    inside = {name: (at, out) for at, node in enumerate(nodes) for out, name in enumerate(node.outputs) if name}
    incoming: list[str] = []
    form: list[Any] = []

    def describe(name: str) -> Any:
        if name in inside:
            return inside[name]
        if name in graph.weights:
            weight = graph.weights[name]
            # A layer's last bias may have moved into the next layer's first norm.
            layer = _weight_layer(weight, prefix)
            behind = None if layer is None else level - layer
            parts = [part.replace(f"{prefix}.{layer}.", f"{prefix}.*.", 1) for part in weight.parts]
            return parts, behind, weight.plus, weight.transposed
        if name in graph.constants:
            value = graph.constants[name]
            return str(value.dtype), value.shape, value.tobytes()
        if cache := _CACHE.search(name):
            if int(cache.group(2)) != level:
                raise CannotReplicateError(f"layer {level} reads the cache of layer {cache.group(2)}")
            return _CACHE.sub(r"\1.*.", name)
        producer = producers.get(name)
        if producer is not None and levels[id(producer)] >= 0:
            if levels[id(producer)] != level - 1:
                raise CannotReplicateError(f"layer {level} reads from layer {levels[id(producer)]}")
            if name not in incoming:
                incoming.append(name)
            return "incoming", incoming.index(name)
        return name

    for node in nodes:
        outputs = [_CACHE.sub(r"\1.*.", name) if _CACHE.search(name) else bool(name) for name in node.outputs]
        form.append((node.domain, node.op_type, [describe(name) for name in node.inputs], outputs, node.attributes))
    return _Unit(nodes, incoming, form)


def _first_difference(one: list[Any], other: list[Any]) -> str:
    for left, right in zip(one, other, strict=False):
        if left != right:
            return f": {left[1]} beside {right[1]}"
    return f": {len(one)} beside {len(other)} operators"


def _locate(unit: _Unit, name: str) -> tuple[int, int]:
    for at, node in enumerate(unit.nodes):
        if name in node.outputs:
            return at, node.outputs.index(name)
    raise CannotReplicateError(f"no node of the layer before produces {name}")


def _copy_unit(
    graph: Graph,
    unit: _Unit,
    prefix: str,
    source: int,
    layer: int,
    mapping: dict[str, str],
    weights: dict[str, Weight],
) -> list[Node]:
    """The unit's nodes for ``layer``; ``source`` is the traced layer it was taken from."""
    names = dict(mapping)

    def output(name: str) -> str:
        if not name or (name in graph.outputs and not _CACHE.search(name)):
            return name
        names[name] = _CACHE.sub(rf"\g<1>.{layer}.", name) if _CACHE.search(name) else f"{layer}/{name}"
        return names[name]

    def read(name: str) -> str:
        if name in names:
            return names[name]
        if name in graph.weights:
            weight = graph.weights[name]
            found = _weight_layer(weight, prefix)
            old, new = f"{prefix}.{found}.", f"{prefix}.{layer - source + (found or 0)}."
            renamed = name.replace(old, new)
            weights[renamed] = Weight(
                parts=[part.replace(old, new, 1) for part in weight.parts],
                plus=weight.plus,
                transposed=weight.transposed,
            )
            return renamed
        return _CACHE.sub(rf"\g<1>.{layer}.", name) if _CACHE.search(name) else name

    copies = []
    for node in unit.nodes:
        copy = node.copy()
        copy.inputs = [read(name) for name in node.inputs]
        copy.outputs = [output(name) for name in node.outputs]
        copies.append(copy)
    return copies
