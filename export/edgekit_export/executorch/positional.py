"""Nodes of a traced graph that depend on positions alone: evaluated for all positions instead of lowered."""

from __future__ import annotations

from typing import Any

import torch

from edgekit.errors import UnsupportedError
from edgekit_export.executorch.trace import Trace


class Positional:
    """Answers which nodes depend on nothing but positions and constants, and what they are over a whole context."""

    def __init__(self, trace: Trace) -> None:
        self._context = trace.context
        self._values: dict[torch.fx.Node, Any] = {}
        self._known: dict[torch.fx.Node, bool] = {}
        for node in trace.graph.nodes:
            if node.op == "placeholder":
                if node.name in trace.rotary:
                    self._values[node] = trace.rotary[node.name][None]
                elif node.name in trace.constants:
                    self._values[node] = trace.constants[node.name]
                self._known[node] = node in self._values
            elif node.op == "call_function":
                # A number of tokens is no token's value.
                sized = isinstance(node.meta.get("val"), torch.SymInt)
                self._known[node] = sized or all(self._known[item] for item in node.all_input_nodes)
            else:
                self._known[node] = False

    def __contains__(self, node: Any) -> bool:
        return isinstance(node, torch.fx.Node) and self._known[node]

    def __getitem__(self, node: torch.fx.Node) -> Any:
        """The node's value over all positions of the context."""
        if node not in self._values:
            self._values[node] = self._evaluate(node)
        return self._values[node]

    def _evaluate(self, node: torch.fx.Node) -> Any:
        size = node.meta.get("val")
        if isinstance(size, torch.SymInt):
            expression = size.node.expr
            return int(expression.subs(dict.fromkeys(expression.free_symbols, self._context)))
        arguments = torch.fx.map_arg(node.args, lambda item: self[item])
        options = torch.fx.map_arg(node.kwargs, lambda item: self[item])
        assert callable(node.target)
        with torch.no_grad():
            return node.target(*arguments, **options)

    def rows(self, node: torch.fx.Node) -> tuple[torch.Tensor, bool]:
        """The node's tensor with positions first, ``[context, ...]``, and whether they came after the heads.

        Raises:
            UnsupportedError: it does not have one row for each position.
        """
        tensor = self[node]
        axes = [index for index, size in enumerate(node.meta["val"].shape) if not isinstance(size, int)]
        if len(axes) != 1 or not isinstance(tensor, torch.Tensor) or tensor.shape[axes[0]] != self._context:
            raise UnsupportedError(
                f"export to ExecuTorch: the model uses {node.target}, which depends on more than one position"
            )
        axis = axes[0]
        if tensor.ndim == 4 and axis in (1, 2):
            return tensor.movedim(axis, 1)[0].contiguous(), axis == 2
        if any(size != 1 for size in tensor.shape[:axis]):
            raise UnsupportedError("export to ExecuTorch: a table whose positions do not come first")
        return tensor.reshape(tensor.shape[axis:]).contiguous(), False
