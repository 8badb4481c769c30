"""What a decoder weighs and needs in llama.cpp: its mixed 4-bit format (Q4_K_M) and its buffers.

The format's rules, in short: products are Q4_K; joined query-key-value matrices Q5_K; the value and
the last feed-forward matrix of half the layers, and the matrix that makes logits, Q6_K. Rows that are
no multiple of a super-block's 256 weights fall back to formats with blocks of 32, which take more bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.analysis.accounting.decoder import Decoder, Layer

#: Bits per weight of each type, scales included.
BITS = {
    "F16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.5625,
    "Q5_K": 5.5,
    "Q5_1": 6.0,
    "Q5_0": 5.5,
    "Q4_K": 4.5,
}
_SUPER_BLOCK, _BLOCK = 256, 32
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
#: Architectures whose files keep query, key and value in one matrix.
_JOINED = frozenset({"bloom", "gpt_neox", "openelm", "gpt2"})
#: Tokens that llama.cpp computes at once; its buffers are that long.
MICRO_BATCH = 512
_FLOAT = 4
_CACHE_ELEMENT = 2


@dataclass(frozen=True)
class GgufBytes:
    """Bytes of a Q4_K_M file and of what is read from it."""

    #: The whole file.
    file: int
    #: Read for every token: all but the table of embeddings, of which one row is read.
    read_per_token: int
    #: The table of embeddings.
    embedding: int


def q4_k_m(decoder: Decoder, *, own_head: bool | None = None) -> GgufBytes:
    """Bytes of the decoder in Q4_K_M.

    Args:
        decoder: the model.
        own_head: whether the file keeps the matrix that makes logits beside an equal table of embeddings
            (old conversions do); None: as the model has it.
    """
    tied = decoder.tied if own_head is None else not own_head
    embedding = _bytes(decoder.embedding.rows, decoder.embedding.columns, "Q6_K" if tied else "Q4_K")
    head = embedding if tied else _bytes(decoder.head.rows, decoder.head.columns, "Q6_K")
    depth = len(decoder.layers)
    products = sum(_layer(layer, index, depth, decoder.model_type) for index, layer in enumerate(decoder.layers))
    products += sum(_bytes(matrix.rows, matrix.columns, "Q4_K") for matrix in decoder.extra)
    tables = sum(table.elements * _FLOAT for table in decoder.tables)
    file = products + tables + embedding + (0 if tied else head)
    return GgufBytes(file=file, read_per_token=products + head, embedding=embedding)


def _layer(layer: Layer, index: int, depth: int, model_type: str) -> int:
    total = layer.vectors * _FLOAT
    for matrix in layer.matrices:
        if model_type in _JOINED and matrix.name in ("query", "key", "value"):
            kind = "Q5_K"
        elif matrix.name in ("value", "down") and _more_bits(index, depth):
            kind = "Q6_K"
        else:
            kind = "Q4_K"
        total += _bytes(matrix.rows, matrix.columns, kind)
    return total


def _more_bits(index: int, depth: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    eighth = depth // 8
    return index < eighth or index >= 7 * depth // 8 or (index - eighth) % 3 == 2


def _bytes(rows: int, columns: int, kind: str) -> int:
    if columns % _SUPER_BLOCK:
        kind = _FALLBACK[kind] if columns % _BLOCK == 0 else "F16"
    return int(rows * columns * BITS[kind] / 8)


@dataclass(frozen=True)
class GgufMemory:
    """Bytes that llama.cpp holds, by what they are for."""

    parameters: int
    kv_cache: int
    compute: int
    #: The table of embeddings once more, where the logits' matrix is the same and lies on the other processor.
    copied_embedding: int

    @property
    def total(self) -> int:
        """All of them, without what the process itself takes."""
        return self.parameters + self.kv_cache + self.compute + self.copied_embedding


def memory(decoder: Decoder, *, context: int, offloaded: bool, own_head: bool | None = None) -> GgufMemory:
    """What llama.cpp holds for the decoder in Q4_K_M with a 16-bit cache.

    Args:
        decoder: the model.
        context: tokens that fit in the cache.
        offloaded: whether products run on a GPU; the table of embeddings then stays with the CPU.
        own_head: see :func:`q4_k_m`.
    """
    size = q4_k_m(decoder, own_head=own_head)
    tied = decoder.tied if own_head is None else not own_head
    return GgufMemory(
        parameters=size.file,
        kv_cache=decoder.cache_elements(context) * _CACHE_ELEMENT,
        compute=_compute(decoder, context),
        copied_embedding=size.embedding if tied and offloaded else 0,
    )


def _compute(decoder: Decoder, context: int) -> int:
    """The larger of the two widest points: logits of a whole batch, or attention scores of all heads."""
    batch = min(MICRO_BATCH, context)
    hidden = decoder.hidden * batch * _FLOAT
    logits = decoder.vocabulary * batch * _FLOAT + hidden
    heads = max((attention.heads for attention in decoder.attentions), default=0)
    # Scores, the mask, and two activations of the model's width.
    scores = (heads + 1) * context * batch * _FLOAT + 2 * hidden
    return max(logits, scores)
