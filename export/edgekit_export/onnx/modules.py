"""Which part of the model each node of a written graph belongs to, from the parameters it computes with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgekit.schema.operators import Module, OperatorLabel, OperatorMap
from edgekit_export.onnx.template import OnnxTemplate

_LOOK_UPS = ("Gather", "GatherBlockQuantized")
_PRODUCTS = ("MatMul", "Gemm")


def operator_map(model: Path, template: OnnxTemplate) -> OperatorMap:
    """The map of a graph that was written from ``template``."""
    import onnx

    graph = onnx.load(str(model), load_external_data=False).graph
    labels = _Labels(graph, template).run()
    return OperatorMap(schema_version=OperatorMap.SCHEMA_VERSION, runtime="onnxruntime", operators=labels)


class _Labels:
    """A node that reads parameters belongs where they do; any other, where its neighbours on both sides do."""

    def __init__(self, graph: Any, template: OnnxTemplate) -> None:
        self._nodes = list(graph.node)
        self._weights = template.graph.weights
        self._prefix = template.prefix + "."
        self._makers = {name: index for index, node in enumerate(self._nodes) for name in node.output if name}
        self._readers: dict[str, list[int]] = {}
        for index, node in enumerate(self._nodes):
            for name in node.input:
                self._readers.setdefault(name, []).append(index)
        self._parts = [self._parameters(node) for node in self._nodes]
        self._attention = self._attention_children()

    def run(self) -> list[OperatorLabel]:
        own = [self._own(index) for index in range(len(self._nodes))]
        found = [own[index] or self._between(index, own) for index in range(len(self._nodes))]
        return [
            OperatorLabel(
                key=node.name,
                operator=node.op_type,
                module=module,
                layer=self._layer(index),
                weights="+".join(part.removesuffix(".weight") for part in map(self._below, self._parts[index])),
            )
            for index, (node, module) in enumerate(zip(self._nodes, found, strict=True))
        ]

    # -- parameters ----------------------------------------------------------------------------------------

    def _parameters(self, node: Any) -> list[str]:
        parts: list[str] = []
        for name in node.input:
            # Binding adds to a weight's name what it stores of it: `.q8`, `.scales`, `.q8.rows`.
            while name and name not in self._weights and name not in self._makers:
                name = name.rpartition(".")[0]
            if name in self._weights:
                parts += self._weights[name].parts
        return list(dict.fromkeys(parts))

    def _below(self, part: str) -> str:
        """A parameter's path inside of its layer."""
        return part.removeprefix(self._prefix).partition(".")[2] if part.startswith(self._prefix) else part

    def _child(self, part: str) -> str | None:
        """``LAYER/NAME`` of the layer's own submodule that a parameter belongs to."""
        if not part.startswith(self._prefix):
            return None
        layer, name, *_ = part.removeprefix(self._prefix).split(".")
        return f"{layer}/{name}"

    def _attention_children(self) -> set[str]:
        """The submodules whose products feed the attention operators."""
        found = set()
        for index, node in enumerate(self._nodes):
            if _is_attention(node):
                for other in self._nearest(index, upstream=True, through_norms=True):
                    found |= {self._child(part) or "" for part in self._parts[other]}
        return found - {""}

    # -- modules -------------------------------------------------------------------------------------------

    def _own(self, index: int) -> Module | None:
        node, parts = self._nodes[index], self._parts[index]
        if _is_attention(node):
            return "attention"
        if _is_norm(node):
            return "norm"
        if not parts:
            return None
        children = {self._child(part) for part in parts}
        if None in children:
            if node.op_type in _LOOK_UPS:
                return "embedding"
            return "LM head" if any(kind in node.op_type for kind in _PRODUCTS) else "other"
        if children <= self._attention:
            return "attention"
        # A shared norm's scale that was not fused; everything else a layer multiplies with is its feed-forward part.
        return "norm" if not any(kind in node.op_type for kind in _PRODUCTS) and _named_norm(parts) else "FFN"

    def _between(self, index: int, own: list[Module | None]) -> Module:
        before = {own[other] for other in self._nearest(index, upstream=True)}
        after = {own[other] for other in self._nearest(index, upstream=False)}
        sides = [side for side in (before, after) if side]
        modules = set().union(*sides)
        if len(modules) == 1 and (module := modules.pop()) is not None:
            return module
        return "other"

    def _layer(self, index: int) -> int | None:
        parts = self._parts[index]
        for others in ([index], self._nearest(index, upstream=True), self._nearest(index, upstream=False)):
            layers = {
                child.partition("/")[0]
                for other in others
                for part in self._parts[other]
                if (child := self._child(part))
            }
            if len(layers) == 1:
                return int(layers.pop())
            if parts:
                # Parameters outside of the layers: the embedding, the last norm, the head.
                return None
        return None

    def _nearest(self, start: int, *, upstream: bool, through_norms: bool = False) -> list[int]:
        """The closest nodes with a module of their own, before or after ``start``."""
        found: list[int] = []
        seen: set[int] = set()
        stack = list(self._next(start, upstream=upstream))
        while stack:
            index = stack.pop()
            if index in seen:
                continue
            seen.add(index)
            node = self._nodes[index]
            if (self._parts[index] or _is_attention(node) or _is_norm(node)) and not (through_norms and _is_norm(node)):
                found.append(index)
            else:
                stack += self._next(index, upstream=upstream)
        return found

    def _next(self, index: int, *, upstream: bool) -> Iterable[int]:
        node = self._nodes[index]
        if upstream:
            return [self._makers[name] for name in node.input if name in self._makers]
        return [reader for name in node.output if name for reader in self._readers.get(name, [])]


def _is_attention(node: Any) -> bool:
    return "Attention" in node.op_type


def _is_norm(node: Any) -> bool:
    return "Normalization" in node.op_type


def _named_norm(parts: list[str]) -> bool:
    return all("norm" in part or ".ln" in part for part in parts)
