"""What a decoder weighs in a ``.pte`` file: bytes of each class of tensors, as the exporter lays them out.

Every matrix is a piece of its own with its scales beside it; pieces begin on multiples of 128 bytes. 4-bit scales are
bfloat16, all others float32. A tied matrix is one range of the file where both its readers take the same form.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.analysis.accounting.decoder import Decoder, Matrix
from edgekit.analysis.accounting.formats import Formats
from edgekit.schema.recipe import MatrixFormat

ALIGN = 128
#: The program's own bytes: XNNPACK's graph and ExecuTorch's values and instructions of a decoder block, and of what
#: stands around the blocks. Seen in exported programs; below 1% of any file but a toy's.
_GRAPH_PER_LAYER = 9600
_GRAPH_AROUND = 8000


def matrix_bytes(rows: int, columns: int, form: MatrixFormat, *, embedding: bool = False) -> tuple[int, int]:
    """Bytes of a stored matrix and of its scales; ``embedding`` where the embedding's own kernel reads it."""
    if form.scheme == "float":
        return rows * columns * (2 if form.dtype == "float16" else 4), 0
    if form.bits == 8 or form.block is None:
        return rows * columns, rows * 4
    return rows * columns // 2, rows * (columns // form.block) * (4 if embedding else 2)


def classes(decoder: Decoder, formats: Formats, context: int) -> dict[str, int]:
    """Bytes by class, ``padding`` and ``graph`` included.

    Args:
        decoder: the model.
        formats: of its matrices.
        context: tokens that fit in the cache; rotary tables are that long.
    """
    found: dict[str, int] = {}
    end = 0
    for kind, size in _pieces(decoder, formats, context):
        start = -(-end // ALIGN) * ALIGN
        found["padding"] = found.get("padding", 0) + start - end
        found[kind] = found.get(kind, 0) + size
        end = start + size
    found["graph"] = _GRAPH_AROUND + _GRAPH_PER_LAYER * len(decoder.layers)
    return found


def shared_head(decoder: Decoder, formats: Formats) -> bool:
    """Whether embedding and head are one range of the file: tied, and of one storage that both kernels read."""
    head, embedding = formats.head, formats.embedding
    same = (head.scheme == "float") == (embedding.scheme == "float") and head.bits == embedding.bits
    return decoder.tied and same and (head.scheme == "float" or head.bits == 8)


def _pieces(decoder: Decoder, formats: Formats, context: int) -> Iterator[tuple[str, int]]:
    yield from _matrix("embedding", decoder.embedding, formats.embedding, embedding=True)
    for table in decoder.tables:
        yield "position tables", table.elements * 4
    if decoder.rotary_dim:
        for _ in ("cosine", "sine"):
            yield "rotary tables", context * decoder.rotary_dim * 4
        # The product that turns a head's halves.
        yield "rotary tables", decoder.rotary_dim**2 * 4
    # The column that makes means of rows.
    yield "norms and biases", decoder.hidden * 4
    for matrix in decoder.extra:
        yield from _matrix("linear", matrix, formats.linear)
    for layer in decoder.layers:
        yield "norms and biases", layer.vectors * 4
        for matrix in layer.matrices:
            yield from _matrix("linear", matrix, formats.of(matrix.name))
    yield "norms and biases", decoder.vectors * 4
    if not shared_head(decoder, formats):
        yield from _matrix("head", decoder.head, formats.head)


def _matrix(kind: str, matrix: Matrix, form: MatrixFormat, *, embedding: bool = False) -> Iterator[tuple[str, int]]:
    numbers, scales = matrix_bytes(matrix.rows, matrix.columns, form, embedding=embedding)
    yield kind, numbers
    if scales:
        yield f"{kind} scales", scales
