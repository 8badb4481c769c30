"""One traced example of each kind of decoder layer, as an ATen graph with marked borders.

The model is captured once with few layers. Attention becomes one node of our own, the rotary
tables become inputs, and a mark stands before and after every layer, so that a layer's nodes can
be cut out and repeated.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edgekit.errors import UnsupportedError
from edgekit_export.executorch.attention_ops import adapt
from edgekit_export.executorch.masks import Mask, Masks
from edgekit_export.onnx.shallow import TracePlan, build_model

_IMPLEMENTATION = "edgekit_executorch"
_EXAMPLE_TOKENS = 5
_SEED = 0


class Trace:
    """A captured shallow model.

    Attributes:
        graph: the ATen graph; its placeholders are parameters, then ``tokens`` and the rotary tables.
        parameters: source parameter name of each placeholder that is one.
        constants: values of the other tensors the graph holds, by placeholder.
        rotary: per table input, the placeholder's name and its values for every position, ``[context, dim]``.
        context: positions of the cache.
        tokens: name of the placeholder that holds the token ids.
    """

    def __init__(self, program: torch.export.ExportedProgram, tables: list[torch.Tensor], context: int) -> None:
        self.context = context
        signature = program.graph_signature
        self.graph = program.graph
        self.parameters = {
            name: target.removeprefix(
                "model.",
            )
            for name, target in signature.inputs_to_parameters.items()
        }
        self.constants: dict[str, torch.Tensor] = {
            name: program.state_dict[target] if target in program.state_dict else program.constants[target]
            for name, target in signature.inputs_to_buffers.items()
        }
        self.constants |= {
            name: program.constants[target] for name, target in signature.inputs_to_lifted_tensor_constants.items()
        }
        self.tokens, *names = signature.user_inputs
        self.rotary = dict(zip(names, tables, strict=True))


class _Cache(DynamicCache):
    """A cache that stays empty: the real one belongs to the attention kernel."""

    def update(self, k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return k, v


class _Rotary(torch.nn.Module):
    """Stands for a model's rotary module: the tables are looked up outside of the layers."""

    def __init__(self, inner: torch.nn.Module, context: int, seen: list[torch.Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.context = context
        self.seen = seen
        self.slots: dict[Any, int] = {}
        self.feed: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        key = (args, tuple(sorted(kwargs.items())))
        if key not in self.slots:
            self.slots[key] = len(self.seen)
            probe = torch.zeros(1, 1, dtype=torch.float32)
            cos, sin = self.inner(probe, torch.arange(self.context)[None], *args, **kwargs)
            self.seen += [cos[0].float().contiguous(), sin[0].float().contiguous()]
        slot = self.slots[key]
        if not self.feed:
            n = position_ids.shape[1]
            return self.seen[slot][None, :n], self.seen[slot + 1][None, :n]
        return self.feed[slot], self.feed[slot + 1]


class _Wrapped(torch.nn.Module):
    def __init__(self, model: Any, rotaries: list[_Rotary]) -> None:
        super().__init__()
        self.model = model
        self.rotaries = rotaries

    def forward(self, tokens: torch.Tensor, tables: list[torch.Tensor]) -> torch.Tensor:
        for rotary in self.rotaries:
            rotary.feed = tables
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        out = self.model(
            input_ids=tokens, position_ids=positions, past_key_values=_Cache(), use_cache=True, logits_to_keep=1
        )
        logits: torch.Tensor = out.logits
        return logits


def trace(plan: TracePlan, context: int) -> Trace:
    """Capture the plan's shallow model for a cache of ``context`` positions.

    Raises:
        UnsupportedError: the architecture cannot be captured, or needs something the attention kernel has not.
    """
    model = build_model(_without_dropout(plan.config))
    torch.manual_seed(_SEED)
    seen: list[torch.Tensor] = []
    masks = Masks(context)
    with _registered(masks), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.set_attn_implementation(_IMPLEMENTATION)
        rotaries = _replace_rotaries(model, context, seen)
        adapt(model)
        _mark_layers(model, plan)
        wrapped = _Wrapped(model, rotaries)
        tokens = torch.arange(3, 3 + _EXAMPLE_TOKENS)[None]
        length = torch.export.Dim("n", min=1, max=context)
        try:
            # Once for real, so that every way in which the rotary module is called is known.
            wrapped(tokens, [])
            masks.repeat()
            tables = [table[None, :_EXAMPLE_TOKENS] for table in seen]
            program = torch.export.export(
                wrapped,
                (tokens, tables),
                dynamic_shapes=({1: length}, [{1: length}] * len(tables)),
                strict=False,
                # A length at which two sizes happen to be equal is no other case.
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        except UnsupportedError:
            raise
        # torch.export raises whatever the model's code provokes.
        except Exception as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UnsupportedError(
                f"trace a {plan.config.model_type!r} model for ExecuTorch: {why}",
                hint="the architecture cannot be exported to ExecuTorch with these versions",
            ) from error
    return Trace(program, seen, context)


def _without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    config = copy.deepcopy(config)
    for name in vars(config):
        if "dropout" in name or name.endswith("_pdrop"):
            setattr(config, name, 0.0)
    return config


@contextlib.contextmanager
def _registered(masks: Masks) -> Iterator[None]:
    ALL_ATTENTION_FUNCTIONS.register(_IMPLEMENTATION, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_IMPLEMENTATION, masks)
    yield


def _attention(
    module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    seen = mask.window if isinstance(mask, Mask) else None
    named = kwargs.get("sliding_window")
    refused = {
        "a mask of its own making": mask is not None and not isinstance(mask, Mask),
        "a sliding window that its mask does not show": mask is None and named is not None and named < _context(module),
        "attention sinks": kwargs.get("s_aux") is not None,
        "an attention bias": kwargs.get("position_bias") is not None or kwargs.get("attention_bias") is not None,
    }
    for what, found in refused.items():
        if found:
            raise UnsupportedError(f"export to ExecuTorch: the model has {what}, which llama::custom_sdpa cannot do")
    scale = kwargs.get("scaling")
    scale = float(q.shape[-1] ** -0.5 if scale is None else scale)
    cap = float(kwargs.get("softcap") or 0.0)
    return torch.ops.edgekit.attend(q, k, v, int(module.layer_idx), scale, seen or 0, cap, []), None


def _context(module: torch.nn.Module) -> int:
    return int(getattr(module, "_edgekit_context", 0)) or 1 << 62


def _replace_rotaries(model: Any, context: int, seen: list[torch.Tensor]) -> list[_Rotary]:
    found = [(name, module) for name, module in model.named_modules() if name.split(".")[-1].startswith("rotary_emb")]
    rotaries = []
    for name, module in found:
        parent, _, attribute = name.rpartition(".")
        rotary = _Rotary(module, context, seen)
        setattr(model.get_submodule(parent), attribute, rotary)
        rotaries.append(rotary)
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module._edgekit_context = context
    return rotaries


def _mark_layers(model: torch.nn.Module, plan: TracePlan) -> None:
    for index, layer in enumerate(model.get_submodule(plan.prefix)):
        layer.register_forward_pre_hook(_before(index), with_kwargs=True)
        layer.register_forward_hook(_after(index))


def _before(index: int) -> Any:
    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (torch.ops.edgekit.mark(args[0], index, False), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": torch.ops.edgekit.mark(kwargs["hidden_states"], index, False)}

    return hook


def _after(index: int) -> Any:
    def hook(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (torch.ops.edgekit.mark(output[0], index, True), *output[1:])
        return torch.ops.edgekit.mark(output, index, True)

    return hook
