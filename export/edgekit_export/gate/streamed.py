"""The eager model with the weights of one layer in memory at a time.

The whole model in float32 would be most of what an export needs. A text goes through it once, so each layer's weights
are read when the text reaches it, and let go behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from edgekit.progress import Progress, ProgressEvent, silent
from edgekit_export.sources import ModelSource


class Weights(Protocol):
    """Where a model's weights come from."""

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Float32 values of the parameters ``names``, in any order.

        The names of one tied weight follow each other, with the same tensor.
        """


class SourceWeights:
    """The source's own weights."""

    def __init__(self, source: ModelSource) -> None:
        self._tensors, self._tied = source.tensors, source.tied

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Each weight, read once for all the names that it has among ``names``."""
        by_place: dict[str, list[str]] = {}
        for name in names:
            by_place.setdefault(self._tied.get(name, name), []).append(name)
        for place, called in by_place.items():
            values = self._tensors[place]
            for name in called:
                yield name, values


class Streamed:
    """A source's model whose layers are filled when they are called and emptied when they have answered.

    What belongs to no layer (embedding, last norm, head) is filled at once and stays. In a model whose layers are none
    that transformers' decoders consist of, everything does.

    Args:
        source: whose architecture it is.
        weights: what it computes with.
        stage: under which name each layer is reported.
        progress: hears of it.

    Attributes:
        model: transformers' model, eager attention, float32.
    """

    def __init__(self, source: ModelSource, weights: Weights, *, stage: str, progress: Progress = silent) -> None:
        self.model: PreTrainedModel = source.empty_model()
        self._weights = weights
        self._empty = dict(self.model.named_parameters(remove_duplicate=False))
        layers = _layers(self.model)
        inside: set[str] = set()
        for index, (prefix, layer) in enumerate(layers.items()):
            names = [name for name in self._empty if name.startswith(f"{prefix}.")]
            inside.update(names)

            def fill(*_: Any, names: list[str] = names, index: int = index) -> None:
                progress(ProgressEvent(stage, index, len(layers), "layers"))
                self._fill(names)

            def clear(*_: Any, names: list[str] = names) -> None:
                for name in names:
                    self._put(name, self._empty[name])

            layer.register_forward_pre_hook(fill)
            layer.register_forward_hook(clear)
        self._fill([name for name in self._empty if name not in inside])

    def _fill(self, names: list[str]) -> None:
        last: tuple[torch.Tensor, torch.nn.Parameter] | None = None
        for name, values in self._weights.read(names):
            if last is None or last[0] is not values:
                last = values, torch.nn.Parameter(values, requires_grad=False)
            self._put(name, last[1])

    def _put(self, name: str, parameter: torch.nn.Parameter) -> None:
        module, _, leaf = name.rpartition(".")
        setattr(self.model.get_submodule(module), leaf, parameter)


def _layers(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """The outermost layers by their path."""
    found: dict[str, torch.nn.Module] = {}
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{prefix}.") for prefix in found)
        if isinstance(module, GradientCheckpointingLayer) and not nested:
            found[name] = module
    return found
