"""Architectures with learned or no rotary positions, joined matrices, or layers that differ."""

from __future__ import annotations

from edgekit.analysis.accounting.blocks import (
    Config,
    Reader,
    attention_matrices,
    divide,
    feed_forward_matrices,
    head_dim_of,
    uniform,
)
from edgekit.analysis.accounting.decoder import Attention, Decoder, Layer, Matrix


def _gpt_neox(config: Config) -> Decoder:
    heads = config["num_attention_heads"]
    return uniform(
        config,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        head_dim=head_dim_of(config),
        ffn=config["intermediate_size"],
        gated=False,
        activation=config.get("hidden_act", "gelu"),
        norm="LayerNorm",
        norm_bias=True,
        bias_qkv=True,
        bias_out=True,
        bias_ffn=True,
        tied=bool(config.get("tie_word_embeddings", False)),
        rotary=config.get("rotary_pct", 0.25),
        max_position=config.get("max_position_embeddings", 2048),
    )


def _gpt2(config: Config) -> Decoder:
    hidden, heads = config["n_embd"], config["n_head"]
    kv_heads = 1 if config["model_type"] == "gpt_bigcode" and config.get("multi_query", True) else heads
    return uniform(
        config,
        layers=config["n_layer"],
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=divide(hidden, heads),
        ffn=config.get("n_inner") or 4 * hidden,
        gated=False,
        activation=config.get("activation_function", "gelu_new"),
        norm="LayerNorm",
        norm_bias=True,
        bias_qkv=True,
        bias_out=True,
        bias_ffn=True,
        tied=bool(config.get("tie_word_embeddings", True)),
        tables=[Matrix("positions", config["n_positions"], hidden)],
        positions="learned",
        max_position=config["n_positions"],
    )


def _gpt_neo(config: Config) -> Decoder:
    hidden, heads, layers = config["hidden_size"], config["num_heads"], config["num_layers"]
    kinds = [kind for group, times in config["attention_types"] for kind in list(group) * times]
    return uniform(
        config,
        layers=layers,
        hidden=hidden,
        heads=heads,
        head_dim=divide(hidden, heads),
        ffn=config.get("intermediate_size") or 4 * hidden,
        gated=False,
        activation=config.get("activation_function", "gelu_new"),
        norm="LayerNorm",
        norm_bias=True,
        bias_out=True,
        bias_ffn=True,
        tied=bool(config.get("tie_word_embeddings", True)),
        tables=[Matrix("positions", config["max_position_embeddings"], hidden)],
        positions="learned",
        max_position=config["max_position_embeddings"],
        windows=[config["window_size"] if kind == "local" else None for kind in kinds],
    )


def _opt(config: Config) -> Decoder:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config.get("word_embed_proj_dim") or hidden
    bias, affine = bool(config.get("enable_bias", True)), bool(config.get("layer_norm_elementwise_affine", True))
    around = [Matrix("project in", hidden, width), Matrix("project out", width, hidden)] if width != hidden else []
    return uniform(
        config,
        layers=config["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        head_dim=divide(hidden, heads),
        ffn=config["ffn_dim"],
        gated=False,
        activation=config.get("activation_function", "relu"),
        norm="LayerNorm" if affine else "none",
        norm_bias=True,
        bias_qkv=bias,
        bias_out=bias,
        bias_ffn=bias,
        tied=bool(config.get("tie_word_embeddings", True)),
        # The table keeps two unused rows for padding.
        tables=[Matrix("positions", config["max_position_embeddings"] + 2, hidden)],
        extra=around,
        final_norm=bool(config.get("do_layer_norm_before", True)),
        embedding_width=width,
        positions="learned",
        max_position=config["max_position_embeddings"],
    )


def _xglm(config: Config) -> Decoder:
    hidden, heads = config["d_model"], config["attention_heads"]
    return uniform(
        config,
        layers=config["num_layers"],
        hidden=hidden,
        heads=heads,
        head_dim=divide(hidden, heads),
        ffn=config["ffn_dim"],
        gated=False,
        activation=config.get("activation_function", "gelu"),
        norm="LayerNorm",
        norm_bias=True,
        bias_qkv=True,
        bias_out=True,
        bias_ffn=True,
        tied=bool(config.get("tie_word_embeddings", True)),
        positions="sinusoidal",
        max_position=config["max_position_embeddings"],
    )


def _bloom(config: Config) -> Decoder:
    hidden, heads = config["hidden_size"], config["n_head"]
    return uniform(
        config,
        layers=config["n_layer"],
        hidden=hidden,
        heads=heads,
        head_dim=divide(hidden, heads),
        ffn=4 * hidden,
        gated=False,
        activation="gelu_tanh",
        norm="LayerNorm",
        norm_bias=True,
        bias_qkv=True,
        bias_out=True,
        bias_ffn=True,
        tied=bool(config.get("tie_word_embeddings", True)),
        # A norm after the embedding.
        extra_vectors=2 * hidden,
        positions="alibi",
    )


def _falcon(config: Config) -> Decoder:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if config.get("new_decoder_architecture") or config.get("multi_query", True) or config.get("parallel_attn", True):
        raise ValueError("only the Falcon RW form is known here")
    bias = bool(config.get("bias", False))
    return uniform(
        config,
        layers=config["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        head_dim=divide(hidden, heads),
        ffn=config.get("ffn_hidden_size") or 4 * hidden,
        gated=False,
        activation=config.get("activation", "gelu"),
        norm="LayerNorm",
        norm_bias=True,
        bias_qkv=bias,
        bias_out=bias,
        bias_ffn=bias,
        tied=bool(config.get("tie_word_embeddings", True)),
        positions="alibi" if config.get("alibi") else "rotary",
        max_position=config.get("max_position_embeddings"),
    )


def _lfm2(config: Config) -> Decoder:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads, head_dim = config.get("num_key_value_heads") or heads, head_dim_of(config)
    ffn = config["intermediate_size"]
    if config.get("block_auto_adjust_ff_dim", True):
        raise ValueError("an intermediate_size that is adjusted on loading is not known here")
    taps = config.get("conv_L_cache", 3)
    feed = feed_forward_matrices(hidden, ffn, True)
    attentive = Layer(
        attention_matrices(hidden, heads, kv_heads, head_dim) + feed,
        2 * hidden + 2 * head_dim,
        Attention(heads, kv_heads, head_dim),
        widest=2 * ffn,
    )
    convolving = Layer(
        (Matrix("convolution in", 3 * hidden, hidden), Matrix("convolution out", hidden, hidden), *feed),
        2 * hidden + taps * hidden + (4 * hidden + hidden if config.get("conv_bias") else 0),
        None,
        state=taps * hidden,
        widest=2 * ffn,
    )
    layers = tuple(attentive if kind == "full_attention" else convolving for kind in config["layer_types"])
    if len(layers) != config["num_hidden_layers"]:
        raise ValueError(f"{len(layers)} layer_types for {config['num_hidden_layers']} layers")
    matrix = Matrix("embedding", config["vocab_size"], hidden)
    return Decoder(
        model_type="lfm2",
        hidden=hidden,
        vocabulary=config["vocab_size"],
        layers=layers,
        embedding=matrix,
        head=Matrix("head", matrix.rows, hidden),
        tied=bool(config.get("tie_word_embeddings", True)),
        vectors=hidden,
        activation="silu",
        gated=True,
        norm="RMSNorm",
        rotary_dim=head_dim,
        max_position=config.get("max_position_embeddings"),
    )


def _openelm(config: Config) -> Decoder:
    hidden, head_dim = config["model_dim"], config["head_dim"]
    layers = []
    for heads, kv_heads, share in zip(
        config["num_query_heads"], config["num_kv_heads"], config["ffn_multipliers"], strict=True
    ):
        ffn = _rounded(hidden * share, config["ffn_dim_divisor"])
        gated = bool(config["ffn_with_glu"])
        layers.append(
            Layer(
                attention_matrices(hidden, heads, kv_heads, head_dim) + feed_forward_matrices(hidden, ffn, gated),
                2 * hidden + (2 * head_dim if config.get("normalize_qk_projections") else 0),
                Attention(heads, kv_heads, head_dim),
                widest=max(hidden, (heads + 2 * kv_heads) * head_dim, ffn * (2 if gated else 1)),
            )
        )
    matrix = Matrix("embedding", config["vocab_size"], hidden)
    return Decoder(
        model_type="openelm",
        hidden=hidden,
        vocabulary=config["vocab_size"],
        layers=tuple(layers),
        embedding=matrix,
        head=Matrix("head", matrix.rows, hidden),
        tied=bool(config["share_input_output_layers"]),
        vectors=hidden,
        activation="silu",
        gated=bool(config["ffn_with_glu"]),
        norm="RMSNorm",
        rotary_dim=head_dim,
        max_position=config.get("max_context_length"),
    )


def _rounded(value: float, divisor: int) -> int:
    """To the nearest multiple, one up where rounding would lose more than a tenth."""
    near = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * value else near


#: Reader of each architecture.
READERS: dict[str, Reader] = {
    "bloom": _bloom,
    "falcon": _falcon,
    "gpt2": _gpt2,
    "gpt_bigcode": _gpt2,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _gpt_neox,
    "lfm2": _lfm2,
    "openelm": _openelm,
    "opt": _opt,
    "xglm": _xglm,
}
