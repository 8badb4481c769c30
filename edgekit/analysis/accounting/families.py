"""Configurations, as transformers spells them, turned into decoders: one reader for each architecture.

A reader states what its architecture has (biases, norms, tables) and leaves the arithmetic to
:func:`uniform`. Each is checked against the model that transformers builds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekit.analysis.accounting.decoder import Attention, Decoder, Layer, Matrix
from edgekit.errors import InputError, UnsupportedError

Config = Mapping[str, Any]
Reader = Callable[[Config], Decoder]

#: No published decoder of this size comes near; beyond it a configuration is damaged.
MAX_LAYERS = 1000
#: transformers' own default where a configuration names no window pattern (Gemma 2 alternates).
_LLAMA_POSITIONS = 2048


def decoder_of(config: Config, *, origin: str) -> Decoder:
    """The decoder that ``config`` describes.

    Args:
        config: keys of a transformers configuration, ``model_type`` among them.
        origin: what to call it in messages.

    Raises:
        UnsupportedError: the architecture has no operator model here.
        InputError: keys are missing, or contradict each other.
    """
    reader = _READERS.get(str(config.get("model_type")))
    if reader is None:
        raise UnsupportedError(
            f"{origin}: no operator model for the architecture {config.get('model_type')!r}",
            hint=f"known: {', '.join(sorted(_READERS))}",
        )
    try:
        decoder = reader(config)
    except KeyError as error:
        raise InputError(f"{origin}: the configuration lacks {error.args[0]}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{origin}: the configuration contradicts itself: {error}") from error
    _check(decoder, origin)
    return decoder


def known_architectures() -> list[str]:
    """Architectures with an operator model, sorted."""
    return sorted(_READERS)


def _check(decoder: Decoder, origin: str) -> None:
    if not 1 <= len(decoder.layers) <= MAX_LAYERS:
        raise InputError(f"{origin}: {len(decoder.layers)} layers are none or more than any decoder has")
    for layer in decoder.layers:
        if any(matrix.rows < 1 or matrix.columns < 1 for matrix in layer.matrices):
            raise InputError(f"{origin}: the configuration contradicts itself: a matrix without rows or columns")
        attention = layer.attention
        if attention is not None and (attention.kv_heads < 1 or attention.heads % attention.kv_heads):
            raise InputError(
                f"{origin}: {attention.heads} heads cannot share {attention.kv_heads} key and value heads evenly"
            )
    if decoder.embedding.elements < 1:
        raise InputError(f"{origin}: the configuration contradicts itself: an empty vocabulary")


def _head_dim(config: Config) -> int:
    if config.get("head_dim"):
        return int(config["head_dim"])
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if hidden % heads:
        raise ValueError(f"hidden_size {hidden} is no multiple of {heads} heads")
    return int(hidden // heads)


def uniform(
    config: Config,
    *,
    layers: int,
    hidden: int,
    heads: int,
    head_dim: int,
    ffn: int,
    kv_heads: int | None = None,
    gated: bool = True,
    activation: str = "silu",
    norm: str = "RMSNorm",
    norm_bias: bool = False,
    norms: int = 2,
    qk_norm: int = 0,
    bias_qkv: bool = False,
    bias_out: bool = False,
    bias_ffn: bool = False,
    tied: bool,
    head_bias: bool = False,
    tables: Sequence[Matrix] = (),
    extra: Sequence[Matrix] = (),
    extra_vectors: int = 0,
    final_norm: bool = True,
    embedding_width: int | None = None,
    positions: str = "rotary",
    rotary: float = 1.0,
    max_position: int | None = None,
    windows: Sequence[int | None] | None = None,
    head_width: int | None = None,
) -> Decoder:
    """A stack of equal blocks of attention and feed-forward.

    ``norms`` norms of width ``hidden`` in each block, ``qk_norm`` further elements of norms on queries and keys;
    ``windows`` gives each layer's window; ``head_width`` the head's input where it is not ``hidden``.
    """
    kv_heads = heads if kv_heads is None else kv_heads
    per_norm = (2 if norm_bias else 1) * hidden if norm != "none" else 0
    vectors = norms * per_norm + qk_norm
    vectors += (heads + 2 * kv_heads) * head_dim if bias_qkv else 0
    vectors += hidden if bias_out else 0
    vectors += ((2 if gated else 1) * ffn + hidden) if bias_ffn else 0
    matrices = _attention(hidden, heads, kv_heads, head_dim) + _feed_forward(hidden, ffn, gated)
    widest = max(hidden, (heads + 2 * kv_heads) * head_dim, ffn * (2 if gated else 1))
    windows = windows or [None] * layers
    if len(windows) != layers:
        raise ValueError(f"{len(windows)} kinds of attention for {layers} layers")
    vocabulary = int(config["vocab_size"])
    width = embedding_width or hidden
    return Decoder(
        model_type=str(config["model_type"]),
        hidden=hidden,
        vocabulary=vocabulary,
        layers=tuple(
            Layer(matrices, vectors, Attention(heads, kv_heads, head_dim, window), widest=widest) for window in windows
        ),
        embedding=Matrix("embedding", vocabulary, width),
        head=Matrix("head", vocabulary, head_width or width),
        tied=tied,
        tables=tuple(tables),
        extra=tuple(extra),
        vectors=(per_norm if final_norm else 0) + (vocabulary if head_bias else 0) + extra_vectors,
        activation=activation,
        gated=gated,
        norm=norm,
        positions=positions,
        rotary_dim=int(head_dim * rotary) if positions == "rotary" else 0,
        max_position=max_position,
    )


def _attention(hidden: int, heads: int, kv_heads: int, head_dim: int) -> tuple[Matrix, ...]:
    return (
        Matrix("query", heads * head_dim, hidden),
        Matrix("key", kv_heads * head_dim, hidden),
        Matrix("value", kv_heads * head_dim, hidden),
        Matrix("attention output", hidden, heads * head_dim),
    )


def _feed_forward(hidden: int, ffn: int, gated: bool) -> tuple[Matrix, ...]:
    gate = (Matrix("gate", ffn, hidden),) if gated else ()
    return (*gate, Matrix("up", ffn, hidden), Matrix("down", hidden, ffn))


def _llama_like(config: Config, **differences: Any) -> Decoder:
    heads = config["num_attention_heads"]
    settings: dict[str, Any] = {
        "layers": config["num_hidden_layers"],
        "hidden": config["hidden_size"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": _head_dim(config),
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
    return _llama_like(config, qk_norm=2 * _head_dim(config))


def _phi3(config: Config) -> Decoder:
    # The window counts the token itself nowhere else; here as the configuration states it.
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
    head_dim = _head_dim(config)
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
        qk_norm=2 * _head_dim(config),
        tied=bool(config.get("tie_word_embeddings", True)),
        windows=_windows(config, pattern),
    )


def _windows(config: Config, pattern: Sequence[str]) -> list[int | None]:
    return [config["sliding_window"] if kind == "sliding_attention" else None for kind in pattern]


def _gpt_neox(config: Config) -> Decoder:
    heads = config["num_attention_heads"]
    return uniform(
        config,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        head_dim=_head_dim(config),
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
        head_dim=_divide(hidden, heads),
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
        head_dim=_divide(hidden, heads),
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
        head_dim=_divide(hidden, heads),
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
        head_dim=_divide(hidden, heads),
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


def _bloom(config: Config) -> Decoder:
    hidden, heads = config["hidden_size"], config["n_head"]
    return uniform(
        config,
        layers=config["n_layer"],
        hidden=hidden,
        heads=heads,
        head_dim=_divide(hidden, heads),
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
        head_dim=_divide(hidden, heads),
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
    kv_heads, head_dim = config.get("num_key_value_heads") or heads, _head_dim(config)
    ffn = config["intermediate_size"]
    if config.get("block_auto_adjust_ff_dim", True):
        raise ValueError("an intermediate_size that is adjusted on loading is not known here")
    taps = config.get("conv_L_cache", 3)
    feed = _feed_forward(hidden, ffn, True)
    attentive = Layer(
        _attention(hidden, heads, kv_heads, head_dim) + feed,
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
                _attention(hidden, heads, kv_heads, head_dim) + _feed_forward(hidden, ffn, gated),
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


def _divide(width: int, heads: int) -> int:
    if width % heads:
        raise ValueError(f"a width of {width} is no multiple of {heads} heads")
    return width // heads


_READERS: dict[str, Reader] = {
    "biogpt": _biogpt,
    "bitnet": _bitnet,
    "bloom": _bloom,
    "ernie4_5": _ernie,
    "falcon": _falcon,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gpt2": _gpt2,
    "gpt_bigcode": _gpt2,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _gpt_neox,
    "granite": _llama_like,
    "lfm2": _lfm2,
    "llama": _llama_like,
    "ministral3": _llama_like,
    "mistral": _llama_like,
    "nemotron": _nemotron,
    "olmo": _olmo,
    "olmo2": _olmo2,
    "openelm": _openelm,
    "opt": _opt,
    "phi": _phi,
    "phi3": _phi3,
    "qwen2": lambda config: _llama_like(config, bias_qkv=True),
    "qwen3": _qwen3,
    "smollm3": _smollm3,
    "stablelm": _stablelm,
    "starcoder2": _starcoder2,
    "xglm": _xglm,
}
