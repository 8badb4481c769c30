"""How few layers must be traced so that all others follow from them.

Tracing costs seconds per layer. Layers of one signature are the same computation on
other weights, so a short walk that shows every neighbourhood of the full model
(which kind of layer follows which) is enough.
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from typing import Any

import msgspec
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from edgekit.errors import UnsupportedError
from edgekit_export.onnx.attention import IMPLEMENTATION

#: A prime that no architecture uses, so that it can be told from every other number in the traced graph.
TRACE_VOCABULARY = 509


#: What families call their list of layers.
_LAYER_LISTS = ("layers", "h", "blocks")


class TracePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to trace: ``config`` has one layer per entry of ``layers``."""

    config: Any
    #: Kind of each layer of the full model, and of each traced one; the numbers only name kinds.
    kinds: list[int]
    #: For each traced layer, the layer of the full model it stands for.
    layers: list[int]
    #: Path of the list of layers in the module tree, e.g. ``model.layers``.
    prefix: str


def plan_trace(config: PretrainedConfig, *, every_layer: bool = False) -> TracePlan:
    """The shortest trace from which the model of ``config`` can be assembled.

    Raises:
        UnsupportedError: not a decoder with one list of layers.
    """
    prefix, signatures = layer_signatures(config)
    names: dict[str, int] = {}
    kinds = [names.setdefault(signature, len(names)) for signature in signatures]
    layers = list(range(len(kinds))) if every_layer else _walk(kinds)
    shallow = _with_layers(config, layers, len(kinds))
    if len(layers) < len(kinds):
        found = layer_signatures(shallow)[1]
        if found != [signatures[index] for index in layers]:
            # The configuration derives a layer's kind from something this code does not see.
            layers = list(range(len(kinds)))
            shallow = _with_layers(config, layers, len(kinds))
    return TracePlan(config=shallow, kinds=kinds, layers=layers, prefix=prefix)


def build_model(config: PretrainedConfig, *, device: str = "cpu") -> PreTrainedModel:
    """The architecture in float32 with whatever weights its initialisation gives.

    Raises:
        UnsupportedError: transformers has no causal language model for it.
    """
    try:
        with torch.device(device):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                copy.deepcopy(config), dtype=torch.float32, attn_implementation=IMPLEMENTATION
            )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UnsupportedError(
            f"build a causal language model of type {config.model_type!r}: {error}",
            hint="decoder-only text models that transformers knows are supported",
        ) from error
    return model.eval()


def layer_signatures(config: PretrainedConfig) -> tuple[str, list[str]]:
    """Path of the layer list, and for each layer all that shapes its computation, as text."""
    model = build_model(config, device="meta")
    count = config.num_hidden_layers
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and name.split(".")[-1] in _LAYER_LISTS
    ]
    if len(lists) != 1:
        raise UnsupportedError(
            f"find the decoder layers of a {config.model_type!r} model: {len(lists)} candidates",
            hint="decoder-only text models with one list of layers are supported",
        )
    prefix, layers = lists[0]
    return prefix, [_signature(layer) for layer in layers]


def _signature(layer: torch.nn.Module) -> str:
    lines = []
    for name, module in layer.named_modules():
        facts = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, bool | int | float | str | type(None)) and key not in ("layer_idx", "layer_id")
        }
        tensors = {
            key: tuple(tensor.shape)
            for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        }
        lines.append(f"{name} {type(module).__qualname__} {sorted(facts.items(), key=str)} {sorted(tensors.items())}")
    return "\n".join(lines)


def _walk(kinds: list[int]) -> list[int]:
    """Layers whose sequence starts and ends like ``kinds`` and shows each of its neighbourhoods.

    The first layer is a kind of its own, because it alone reads the embedding.
    """
    first = -1
    sequence = [first, *kinds[1:]]
    edges = frozenset(itertools.pairwise(sequence))
    representative = {kind: index for index, kind in reversed(list(enumerate(sequence)))}
    start: tuple[int, frozenset[tuple[int, int]]] = (first, frozenset())
    queue = deque([(start, [first])])
    seen = {start}
    while queue:
        (kind, covered), path = queue.popleft()
        if covered == edges and kind == sequence[-1]:
            return [representative[step] for step in path]
        for edge in sorted(edges):
            if edge[0] == kind:
                state = (edge[1], covered | {edge})
                if state not in seen:
                    seen.add(state)
                    queue.append((state, [*path, edge[1]]))
    return list(range(len(kinds)))


def _with_layers(config: PretrainedConfig, layers: list[int], count: int) -> PretrainedConfig:
    """A copy of ``config`` with only these layers and a small vocabulary."""
    shallow = copy.deepcopy(config)
    for name, value in list(vars(shallow).items()):
        if isinstance(value, list) and len(value) == count:
            setattr(shallow, name, [value[index] for index in layers])
    shallow.num_hidden_layers = len(layers)
    if shallow.vocab_size > TRACE_VOCABULARY:
        shallow.vocab_size = TRACE_VOCABULARY
    shallow.pad_token_id = None
    shallow.bos_token_id = 1
    shallow.eos_token_id = 2
    return shallow
