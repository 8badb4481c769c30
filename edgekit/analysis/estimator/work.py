"""The passes of a launch, and what one pass over a decoder reads and computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.analysis.accounting.memory import cache_bytes
from edgekit.analysis.accounting.stored import StoredBytes
from edgekit.schema.protocol import Protocol
from edgekit.schema.recipe import KvCache

#: Classes of a bundle that every pass reads whole; of an untied embedding it reads a few rows.
_READ = ("linear", "linear scales", "norms and biases", "head", "head scales")


@dataclass(frozen=True)
class Work:
    """Counts of one pass; multiply-adds, not operations."""

    #: Weights read, whatever the number of tokens.
    weight_bytes: int
    #: Products for each token.
    products: int
    #: The product that makes logits, for one position.
    head: int
    #: Attention for each pair of a new and a cached token.
    attention: int
    #: Cache read for each cached token.
    cache_bytes: int
    blocks: int

    def multiply_adds(self, *, new: int, depth: int) -> int:
        """Of a pass over ``new`` tokens with ``depth`` in the cache before; logits of the last one alone."""
        pairs = new * depth + new * (new + 1) // 2
        return new * self.products + self.head + pairs * self.attention

    def bytes_read(self, *, new: int, depth: int) -> int:
        """Weights once, and the cache."""
        return self.weight_bytes + (depth + new) * self.cache_bytes


def work_of(decoder: Decoder, stored: StoredBytes, kv_cache: KvCache = "float32") -> Work:
    """The work of a bundle's decoder, whose keys and values are kept in ``kv_cache``."""
    read = sum(stored.classes.get(kind, 0) for kind in _READ)
    if decoder.tied:
        read += stored.classes["embedding"] + stored.classes.get("embedding scales", 0)
    return Work(
        weight_bytes=read,
        products=sum(matrix.elements for matrix in decoder.linears),
        head=decoder.head.elements,
        attention=sum(2 * attention.heads * attention.head_dim for attention in decoder.attentions),
        cache_bytes=cache_bytes(decoder, 1, kv_cache),
        blocks=len(decoder.layers),
    )


def passes_of(protocol: Protocol) -> Iterator[tuple[int, int, int]]:
    """New tokens, tokens in the cache, and how often, of each pass of one launch."""
    prompts = [tokens for tokens in protocol.prompts if tokens]
    generates = [tokens for tokens in protocol.generates if tokens]
    if prompts:
        yield max(prompts), 0, 1
    yield 1, 0, protocol.warmup_tokens
    for depth in protocol.depths:
        for tokens in prompts:
            if depth:
                yield depth, 0, 1
            yield tokens, depth, 1
    for depth in protocol.depths if protocol.decode_depths is None else protocol.decode_depths:
        for tokens in generates:
            if depth:
                yield depth, 0, 1
            yield 1, depth, tokens
