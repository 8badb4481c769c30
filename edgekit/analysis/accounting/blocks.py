"""What blocks of decoders have in common: attention, feed-forward, and a stack of equal ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekit.analysis.accounting.decoder import Attention, Decoder, Layer, Matrix

Config = Mapping[str, Any]
Reader = Callable[[Config], Decoder]


def head_dim_of(config: Config) -> int:
    """Size of a head, stated or from the width; ValueError where it does not divide."""
    if config.get("head_dim"):
        return int(config["head_dim"])
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if hidden % heads:
        raise ValueError(f"hidden_size {hidden} is no multiple of {heads} heads")
    return int(hidden // heads)


def divide(width: int, heads: int) -> int:
    """Size of each head; ValueError where the width does not divide."""
    if width % heads:
        raise ValueError(f"a width of {width} is no multiple of {heads} heads")
    return width // heads


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
    matrices = attention_matrices(hidden, heads, kv_heads, head_dim) + feed_forward_matrices(hidden, ffn, gated)
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


def attention_matrices(hidden: int, heads: int, kv_heads: int, head_dim: int) -> tuple[Matrix, ...]:
    """Matrices of attention."""
    return (
        Matrix("query", heads * head_dim, hidden),
        Matrix("key", kv_heads * head_dim, hidden),
        Matrix("value", kv_heads * head_dim, hidden),
        Matrix("attention output", hidden, heads * head_dim),
    )


def feed_forward_matrices(hidden: int, ffn: int, gated: bool) -> tuple[Matrix, ...]:
    """Matrices of the feed-forward block."""
    gate = (Matrix("gate", ffn, hidden),) if gated else ()
    return (*gate, Matrix("up", ffn, hidden), Matrix("down", hidden, ffn))
