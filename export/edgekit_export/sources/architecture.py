"""From a configuration to the facts of a decoder, or to a clear refusal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.bundle import Architecture, Rope
from edgekit_export.sources.tensors import TensorStore

#: More findings than this help nobody.
_SHOWN = 5

_DECODERS = "choose a decoder-only language model that transformers knows, such as Llama, Qwen or SmolLM2"


def make_config(raw: Mapping[str, Any], *, origin: str) -> PretrainedConfig:
    """The configuration in ``raw`` (the content of a ``config.json``) as transformers' class.

    Raises:
        InputError: no architecture named, or values that contradict each other.
        UnsupportedError: an architecture that is not a decoder-only language model known to transformers,
            or weights that are already quantized.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise InputError(
            f"read the configuration from {origin}: it names no architecture (model_type)",
            hint="a model directory needs the config.json it was published with",
        )
    if model_type not in CONFIG_MAPPING:
        code = " (it brings its own code, which is not run)" if "auto_map" in raw else ""
        raise UnsupportedError(
            f"{origin}: transformers has no architecture called {model_type!r}{code}",
            hint=_DECODERS,
        )
    if raw.get("quantization_config"):
        method = raw["quantization_config"]
        method = method.get("quant_method", "unknown") if isinstance(method, dict) else "unknown"
        raise UnsupportedError(
            f"{origin}: the weights are already quantized ({method})",
            hint="start from the unquantized model: recipes quantize it",
        )
    _refuse_other_than_decoders(raw, model_type, origin)
    values = {key: value for key, value in raw.items() if key not in ("model_type", "auto_map", "torch_dtype", "dtype")}
    try:
        config = CONFIG_MAPPING[model_type].from_dict(values)
    # Configuration classes validate by whatever exception their authors chose.
    except Exception as error:
        raise InputError(f"read the configuration from {origin}: {_first_line(error)}", hint=_again(origin)) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedError(f"{origin}: {model_type!r} is no causal language model in transformers", hint=_DECODERS)
    return config


def _refuse_other_than_decoders(raw: Mapping[str, Any], model_type: str, origin: str) -> None:
    named = raw.get("architectures")
    kind = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None
    if raw.get("is_encoder_decoder"):
        raise UnsupportedError(
            f"{origin}: {kind or model_type} is an encoder-decoder; only decoders are exported", hint=_DECODERS
        )
    if kind is not None:
        causal = kind.endswith(("ForCausalLM", "LMHeadModel"))
    else:
        masked = model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not raw.get("is_decoder")
        causal = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not masked
    if not causal:
        raise UnsupportedError(
            f"{origin}: {kind or model_type} does not generate text; only decoder-only language models are exported",
            hint=_DECODERS,
        )


class Skeleton:
    """The parameters a configuration calls for: names and shapes, without any memory behind them.

    ``shapes`` lists a tied matrix once, under its first name; ``tied`` maps its other names to that.
    """

    def __init__(self, config: PretrainedConfig, *, origin: str) -> None:
        self._origin = origin
        try:
            with torch.device("meta"):
                model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        # Model classes fail on contradictory configurations by whatever exception comes first.
        except Exception as error:
            raise InputError(
                f"{origin}: no model can be built from the configuration: {_first_line(error)}",
                hint=_again(origin),
            ) from error
        self.shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        self.persistent_buffers = sorted(set(model.state_dict()) - {name for name, _ in _all_parameters(model)})
        self.parameters = sum(math.prod(shape) for shape in self.shapes.values())
        first: dict[int, str] = {}
        self.tied = {}
        for name, value in _all_parameters(model):
            if first.setdefault(id(value), name) != name:
                self.tied[name] = first[id(value)]

    def check(self, tensors: TensorStore) -> None:
        """Compare the weights found with the weights called for.

        Raises:
            InputError: weights are missing or have other shapes.
        """
        missing = [name for name in self.shapes if name not in tensors.shapes]
        wrong = [
            f"{name} is {list(tensors.shapes[name])} instead of {list(shape)}"
            for name, shape in self.shapes.items()
            if name in tensors.shapes and tuple(tensors.shapes[name]) != shape
        ]
        if missing or wrong:
            found = [*(f"{name} is missing" for name in missing), *wrong]
            more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
            raise InputError(
                f"{self._origin}: the weights are not those the configuration calls for",
                detail="\n".join([*found[:_SHOWN], *more]),
                hint="the configuration belongs to another model, or a weight file is missing",
            )


def _all_parameters(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return list(model.named_parameters(remove_duplicate=False))


def describe(config: PretrainedConfig, skeleton: Skeleton) -> Architecture:
    """The facts of the decoder that bundles record.

    Raises:
        UnsupportedError: a model without attention heads, or without a longest position.
    """
    longest = longest_position(config)
    if not isinstance(getattr(config, "num_attention_heads", None), int) or longest is None:
        missing = "longest position" if longest is None else "attention heads"
        raise UnsupportedError(f"the architecture {config.model_type!r} states no {missing}")
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    return Architecture(
        family=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        ffn=_ffn(config),
        vocab=config.vocab_size,
        max_position=longest,
        parameters=skeleton.parameters,
        tied_embedding=bool(skeleton.tied),
        activation=str(getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", "unknown")),
        norm_eps=_norm_eps(config),
        sliding_window=window,
        rope=_rope(config, head_dim),
    )


#: BLOOM was trained on texts of this length; its distances (ALiBi) have no end.
_BLOOM_LENGTH = 2048


def longest_position(config: PretrainedConfig) -> int | None:
    """The longest text the model was made for; None where the configuration does not say."""
    length = getattr(config, "max_position_embeddings", None)
    if not isinstance(length, int) and config.model_type == "bloom":
        length = getattr(config, "seq_length", _BLOOM_LENGTH)
    return length if isinstance(length, int) else None


def _norm_eps(config: PretrainedConfig) -> float:
    for name in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"):
        value = getattr(config, name, None)
        if isinstance(value, float):
            return value
    return 0.0


def _ffn(config: PretrainedConfig) -> int:
    size = getattr(config, "intermediate_size", None)
    return size if isinstance(size, int) else 4 * int(config.hidden_size)


def _rope(config: PretrainedConfig, head_dim: int) -> Rope | None:
    settings = getattr(config, "rope_parameters", None)
    if not isinstance(settings, dict) or not settings:
        return None
    if "rope_theta" not in settings:
        # Some families keep one set per kind of layer; the full-attention one stands for the model here.
        nested = settings.get("full_attention")
        if not isinstance(nested, dict) or "rope_theta" not in nested:
            return None
        scaling: dict[str, Any] = settings
        theta, partial = nested["rope_theta"], nested.get("partial_rotary_factor", 1.0)
    else:
        scaling = {} if settings.get("rope_type", "default") == "default" else _without_theta(settings)
        theta, partial = settings["rope_theta"], settings.get("partial_rotary_factor", 1.0)
    return Rope(theta=float(theta), rotary_dim=int(head_dim * float(partial)), scaling=scaling)


def _without_theta(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "rope_theta"}


def _again(origin: str) -> str:
    """What to do about a configuration that contradicts itself."""
    return "choose other sizes" if origin.startswith("arch:") else "fetch config.json again"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {'; '.join(lines[:2])}" if lines else type(error).__name__
