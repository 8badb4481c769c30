"""What one pass over a decoder reads and computes, by the kind of work: the amounts that rates turn into time.

A decode step reads every weight once, so bytes decide whatever the arithmetic; a prefill multiplies each weight with
many tokens. The last position alone goes through the last block's output projection and feed-forward and through the
head, in every bundle that the exporter writes: there a prefill reads weights as a decode does.
"""

from __future__ import annotations

from typing import Final

from edgekit.analysis.accounting import executorch, stored
from edgekit.analysis.accounting.decoder import Attention, Decoder
from edgekit.analysis.accounting.formats import Formats
from edgekit.analysis.accounting.memory import head_bytes
from edgekit.schema.recipe import KvCache, MatrixFormat

#: Unit of bytes, multiply-adds and elements: rates are then seconds per 1e9 of them.
GIGA: Final = 1e9
_FLOAT = 4
#: Matrices of a block that a prefill computes for all positions even in the last block.
_BEFORE_THE_CUT = frozenset({"query", "key", "value"})

#: Kinds of weights. ``dynamic`` ones are multiplied by activations rounded to 8 bits where the others' kernels choose.
KINDS: Final = ("float32", "int8", "int4", "int8 dynamic", "int4 dynamic")
#: Amounts that are there whatever the weights' kind: bytes of the KV cache read by a decode step, its attention's
#: multiply-adds (each head by itself, also where heads share keys), multiply-adds of a prefill's attention, elements
#: between its operators, multiply-adds of products whose rows of activations are too long for a core's first cache,
#: blocks passed, and the pass itself.
OTHERS: Final = ("cache", "attend", "attention", "elements", "wide", "blocks", "passes")
#: Bytes of weights that a pass reads in all: what the processor's last cache does not keep of them is read from memory.
WEIGHTS: Final = "weights"
#: What bytes from memory take longer than those from the last cache, by kind; and the bytes that the cache keeps, 1e9.
BEYOND: Final = "beyond"
SHARED: Final = "shared"
#: Columns from which the few rows of 32-bit activations that a kernel works on (7 with AVX-512) fill a first cache of
#: 32 to 48 KiB.
WIDE: Final = 1460
NAMES: Final = (*(f"read {kind}" for kind in KINDS), *(f"multiply {kind}" for kind in KINDS), *OTHERS)


def kind_of(form: MatrixFormat) -> str:
    """The kind of a stored matrix; 16-bit floats are widened when they are loaded."""
    if form.scheme == "float" or form.bits is None:
        return "float32"
    bits = "int8" if form.bits == 8 else "int4"
    return f"{bits} dynamic" if form.scheme == "dynamic" else bits


class _Amounts(dict[str, float]):
    """Amounts by name; what was not added is not there."""

    def add(self, name: str, amount: float) -> None:
        self[name] = self.get(name, 0.0) + amount


def amounts(decoder: Decoder, formats: Formats, runtime: str, *, new: int, depth: int) -> dict[str, float]:
    """Amounts of a pass over ``new`` tokens with ``depth`` in the cache, by names of :data:`NAMES`.

    Units: 1e9 bytes (``read``, ``cache``, and ``weights``, which is all of them), 1e9 multiply-adds
    (``multiply``, ``attend``, ``attention``, ``wide``), 1e9 elements, blocks, passes.
    """
    found = _Amounts()

    def product(rows: int, columns: int, form: MatrixFormat, tokens: int) -> None:
        size = _bytes(rows, columns, form, runtime)
        found.add(WEIGHTS, size / GIGA)
        if tokens == 1:
            found.add(f"read {kind_of(form)}", size / GIGA)
            return
        found.add(f"multiply {kind_of(form)}", rows * columns * tokens / GIGA)
        if columns > WIDE and form.scheme != "dynamic":
            found.add("wide", rows * columns * tokens / GIGA)

    last = len(decoder.layers) - 1
    for index, layer in enumerate(decoder.layers):
        for matrix in layer.matrices:
            tokens = 1 if index == last and matrix.name not in _BEFORE_THE_CUT else new
            product(matrix.rows, matrix.columns, formats.of(matrix.name), tokens)
        if new > 1 and index != last:
            found.add("elements", new * (layer.widest + 2 * decoder.hidden) / GIGA)
        if layer.attention is not None:
            _attend(layer.attention, found, formats.kv_cache, new=new, depth=depth)
    for matrix in decoder.extra:
        product(matrix.rows, matrix.columns, formats.linear, new)
    product(decoder.head.rows, decoder.head.columns, formats.head, 1)
    found.add("blocks", len(decoder.layers))
    found.add("passes", 1)
    return dict(found)


def _attend(attention: Attention, found: _Amounts, kv_cache: KvCache, *, new: int, depth: int) -> None:
    seen = depth if attention.window is None else min(depth, attention.window)
    if new == 1:
        found.add("cache", 2 * attention.kv_heads * head_bytes(attention.head_dim, kv_cache) * (seen + 1) / GIGA)
        found.add("attend", 2 * attention.heads * attention.head_dim * (seen + 1) / GIGA)
    else:
        pairs = new * seen + new * (new + 1) / 2
        found.add("attention", 2 * attention.heads * attention.head_dim * pairs / GIGA)


def _bytes(rows: int, columns: int, form: MatrixFormat, runtime: str) -> int:
    if form.scheme == "float":
        return rows * columns * _FLOAT
    own = executorch.matrix_bytes if runtime == "executorch" else stored.matrix_bytes
    return sum(own(rows, columns, form))
