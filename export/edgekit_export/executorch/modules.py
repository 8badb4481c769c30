"""Which part of the model each node of a traced graph belongs to, from the source's own modules."""

from __future__ import annotations

import torch

from edgekit.schema.operators import Module

#: What the feed-forward part is called in layers that have no attention to tell it from.
_FEED_FORWARD = ("mlp", "feed_forward", "ffn", "block_sparse_moe")


class ModuleNames:
    """Answers from the module stack that the trace keeps for every node.

    Args:
        graph: a traced graph, with ``edgekit.attend`` nodes where attention is.
        prefix: path of the list of layers, e.g. ``model.layers``.
    """

    def __init__(self, graph: torch.fx.Graph, prefix: str) -> None:
        self._prefix = f".{prefix}."
        self._attention: set[str] = set()
        self._products: set[str] = set()
        self._first_layer_seen = False
        for node in graph.nodes:
            child = self._child(node)
            if child is None:
                continue
            if "edgekit.attend" in str(node.target):
                self._attention.add(child)
            elif "aten.linear" in str(node.target):
                self._products.add(child)
        self._attending = {child.rpartition("/")[0] for child in self._attention}

    def __call__(self, node: torch.fx.Node) -> Module:
        """The part that ``node`` computes; nodes are to be asked for in their order."""
        stack = [(f".{path}", str(kind)) for path, kind in (node.meta.get("nn_module_stack") or {}).values()]
        inside = any(path.startswith(self._prefix) or self._prefix in path for path, _ in stack)
        self._first_layer_seen = self._first_layer_seen or inside
        if any("norm" in kind.rpartition(".")[2].lower() for _, kind in stack):
            return "norm"
        if not inside:
            return self._outside(node)
        child = self._child(node)
        if child is None:
            return "other"
        if child in self._attention:
            return "attention"
        layer, _, name = child.rpartition("/")
        if layer in self._attending:
            return "FFN" if child in self._products or name.startswith(("act", "fc")) else "other"
        return "FFN" if name in _FEED_FORWARD else "other"

    def _outside(self, node: torch.fx.Node) -> Module:
        target = str(node.target)
        if not self._first_layer_seen:
            return "embedding" if "aten.embedding" in target or "mul" in target else "other"
        # A scale or a soft cap of the logits belongs to the product that makes them.
        return "LM head"

    def _child(self, node: torch.fx.Node) -> str | None:
        """``LAYER/NAME`` of the layer's own submodule that the node lies in."""
        for path, _ in reversed(list((node.meta.get("nn_module_stack") or {}).values())):
            _, found, rest = f".{path}".partition(self._prefix)
            if found:
                layer, _, below = rest.partition(".")
                return f"{layer}/{below.partition('.')[0]}" if below else None
        return None
