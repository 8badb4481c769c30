"""What runs beside the weights: cache, activations, logits."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.analysis.accounting.decoder import Attention, Decoder
from edgekit.analysis.accounting.stored import PAGE
from edgekit.errors import InputError
from edgekit.schema.recipe import KvCache

#: The exporter's activations and logits are 32-bit floats, and its caches where nothing else is asked for.
FLOAT = 4
#: A scale in 32 bits and a zero point in 8, of each head of each position in an int8 cache.
POINTS = 5
#: Activations of ``widest`` that the runtime's arena holds: an operator's input and output, what another branch keeps,
#: and what growing by doubling leaves over. Seen with onnxruntime 1.32.
_LIVE = 4
#: No device holds this many tokens; beyond it the option is a slip of the finger.
MAX_CONTEXT = 16 * 1024 * 1024


@dataclass(frozen=True)
class WorkingBytes:
    """Bytes of what is computed, at a context and a prompt length."""

    #: The cache as allocated, for the whole context.
    kv_cache: int
    #: The pages of it that ``filled`` tokens touch; the rest is never given memory.
    kv_touched: int
    #: State that does not grow with the context.
    state: int
    #: Activations between operators at the widest point of a prefill.
    activations: int
    #: Logits of the last position.
    logits: int

    @property
    def total(self) -> int:
        """All of them together, with a full cache."""
        return self.kv_cache + self.state + self.activations + self.logits


def head_bytes(head_dim: int, kv_cache: KvCache) -> int:
    """What one head of one position takes of the cache, for its key or its value."""
    return head_dim + POINTS if kv_cache == "int8" else head_dim * FLOAT


def cache_bytes(decoder: Decoder, positions: int, kv_cache: KvCache) -> int:
    """Keys and values of so many positions in all layers."""
    return sum(
        2 * attention.kv_heads * head_bytes(attention.head_dim, kv_cache) * positions
        for attention in decoder.attentions
    )


def working_bytes(
    decoder: Decoder, *, context: int, prompt: int, filled: int | None = None, kv_cache: KvCache = "float32"
) -> WorkingBytes:
    """What a sequence needs beside the weights.

    Args:
        decoder: the model.
        context: tokens that fit in the cache; it is allocated whole.
        prompt: tokens prefilled at once.
        filled: tokens in the cache in the end; None: ``prompt``.
        kv_cache: how keys and values are kept.

    Raises:
        InputError: a context or prompt that cannot be.
    """
    if not 1 <= context <= MAX_CONTEXT:
        raise InputError(f"a context of {context} tokens cannot be", hint=f"give 1 to {MAX_CONTEXT} tokens")
    if decoder.max_position is not None and context > decoder.max_position:
        raise InputError(
            f"a context of {context} tokens is more than the model was made for ({decoder.max_position})",
            hint=f"give at most {decoder.max_position}",
        )
    if not 0 <= prompt <= context:
        raise InputError(f"a prompt of {prompt} tokens does not fit in a context of {context}")
    filled = prompt if filled is None else filled
    if not prompt <= filled <= context:
        raise InputError(f"{filled} tokens do not fit in a context of {context}")
    widest = max(layer.widest for layer in decoder.layers)
    live = _LIVE * widest + decoder.hidden
    return WorkingBytes(
        kv_cache=cache_bytes(decoder, context, kv_cache),
        kv_touched=sum(_touched(attention, context, filled, kv_cache) for attention in decoder.attentions),
        state=decoder.state_elements * FLOAT,
        activations=max(prompt, 1) * live * FLOAT,
        logits=decoder.vocabulary * FLOAT,
    )


def _touched(attention: Attention, context: int, filled: int, kv_cache: KvCache) -> int:
    """Keys and values of one layer: each head has its own stretch of the buffer, touched page by page."""
    row = head_bytes(attention.head_dim, kv_cache)
    stretch = min(-(-filled * row // PAGE) * PAGE, context * row)
    return 2 * attention.kv_heads * stretch
