"""Architectures that differ from Llama's in a norm, a bias or a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.analysis.accounting.blocks import Config, Reader, head_dim_of, uniform
from edgekit.analysis.accounting.decoder import Decoder, Matrix

#: What transformers takes where a configuration states no longest position.
_LLAMA_POSITIONS = 2048


def _llama_like(config: Config, **differences: Any) -> Decoder:
    heads = config["num_attention_heads"]
    settings: dict[str, Any] = {
        "layers": config["num_hidden_layers"],
        "hidden": config["hidden_size"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": head_dim_of(config),
        "ffn": config["intermediate_size"],
        "activation": config.get("hidden_act") or config.get("hidden_activation") or "silu",
        "bias_qkv": bool(config.get("attention_bias", False)),
        "bias_out": bool(config.get("attention_bias", False)),
        "bias_ffn": bool(config.get("mlp_bias", False)),
        "tied": bool(config.get("tie_word_embeddings", False)),
        "max_position": config.get("max_position_embeddings", _LLAMA_POSITIONS),
        "rotary": config.get("partial_rotary_factor", 1.0),
    }
    return uniform(config, **(settings | differences))


def _qwen3(config: Config) -> Decoder:
    return _llama_like(config, qk_norm=2 * head_dim_of(config))


def _phi3(config: Config) -> Decoder:
    return _llama_like(config, windows=[config.get("sliding_window")] * config["num_hidden_layers"])


def _smollm3(config: Config) -> Decoder:
    return _llama_like(config, tied=bool(config.get("tie_word_embeddings", True)))


def _stablelm(config: Config) -> Decoder:
    return _llama_like(
        config,
        norm="LayerNorm",
        norm_bias=True,
        bias_qkv=bool(config.get("use_qkv_bias", False)),
        bias_out=False,
        rotary=config.get("partial_rotary_factor", 0.25),
    )


def _phi(config: Config) -> Decoder:
    return _llama_like(
        config,
        gated=False,
        norm="LayerNorm",
        norm_bias=True,
        norms=1,
        bias_qkv=True,
        bias_out=True,
        bias_ffn=True,
        head_bias=True,
        rotary=config.get("partial_rotary_factor", 0.5),
    )


def _starcoder2(config: Config) -> Decoder:
    bias = bool(config.get("use_bias", True))
    return _llama_like(
        config,
        gated=False,
        norm="LayerNorm",
        norm_bias=True,
        bias_qkv=bias,
        bias_out=bias,
        bias_ffn=bias,
        tied=bool(config.get("tie_word_embeddings", True)),
        windows=[config.get("sliding_window")] * config["num_hidden_layers"],
    )


def _nemotron(config: Config) -> Decoder:
    return _llama_like(
        config,
        gated=False,
        norm="LayerNorm",
        norm_bias=True,
        rotary=config.get("partial_rotary_factor", 0.5),
    )


def _olmo(config: Config) -> Decoder:
    return _llama_like(config, norm="none")


def _olmo2(config: Config) -> Decoder:
    head_dim = head_dim_of(config)
    heads = config["num_attention_heads"]
    return _llama_like(config, qk_norm=head_dim * (heads + (config.get("num_key_value_heads") or heads)))


def _ernie(config: Config) -> Decoder:
    bias = bool(config.get("use_bias", False))
    return _llama_like(
        config, bias_qkv=bias, bias_out=bias, bias_ffn=bias, tied=bool(config.get("tie_word_embeddings", True))
    )


def _bitnet(config: Config) -> Decoder:
    # One more norm before each block's last product.
    return _llama_like(config, qk_norm=config["hidden_size"] + config["intermediate_size"])


def _gemma(config: Config) -> Decoder:
    return _llama_like(config, tied=bool(config.get("tie_word_embeddings", True)))


def _gemma2(config: Config) -> Decoder:
    layers = config["num_hidden_layers"]
    pattern = config.get("layer_types") or ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    return _llama_like(
        config, norms=4, tied=bool(config.get("tie_word_embeddings", True)), windows=_windows(config, pattern)
    )


def _gemma3(config: Config) -> Decoder:
    layers, every = config["num_hidden_layers"], config.get("sliding_window_pattern", 6)
    pattern = config.get("layer_types") or [
        "sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)
    ]
    return _llama_like(
        config,
        norms=4,
        qk_norm=2 * head_dim_of(config),
        tied=bool(config.get("tie_word_embeddings", True)),
        windows=_windows(config, pattern),
    )


def _windows(config: Config, pattern: Sequence[str]) -> list[int | None]:
    return [config["sliding_window"] if kind == "sliding_attention" else None for kind in pattern]


def _biogpt(config: Config) -> Decoder:
    hidden = config["hidden_size"]
    return _llama_like(
        config,
        gated=False,
        norm="LayerNorm",
        norm_bias=True,
        bias_qkv=True,
        bias_out=True,
        bias_ffn=True,
        tied=bool(config.get("tie_word_embeddings", True)),
        tables=[Matrix("positions", config["max_position_embeddings"] + 2, hidden)],
        positions="learned",
    )


#: Reader of each architecture.
READERS: dict[str, Reader] = {
    "biogpt": _biogpt,
    "bitnet": _bitnet,
    "ernie4_5": _ernie,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "granite": _llama_like,
    "llama": _llama_like,
    "ministral3": _llama_like,
    "mistral": _llama_like,
    "nemotron": _nemotron,
    "olmo": _olmo,
    "olmo2": _olmo2,
    "phi": _phi,
    "phi3": _phi3,
    "qwen2": lambda config: _llama_like(config, bias_qkv=True),
    "qwen3": _qwen3,
    "smollm3": _smollm3,
    "stablelm": _stablelm,
    "starcoder2": _starcoder2,
}
