"""What a decoder weighs in a bundle: bytes of each class of tensors under a recipe.

Follows the exporter: for onnxruntime, matrices that read the same activations are one tensor, a tied embedding is
the head's bytes seen as rows, and large tensors start on a page. ExecuTorch's layout is in ``executorch``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.analysis.accounting.decoder import Decoder, Matrix
from edgekit.analysis.accounting.formats import Formats, formats_of
from edgekit.errors import InputError
from edgekit.schema.recipe import MatrixFormat, RecipeProfile

#: Where tensors of the weights file start, as the exporter aligns them.
PAGE = 4096
LINE = 64
LARGE = 64 * 1024

#: Matrices that the exporter joins row by row.
_JOINED = (("query", "key", "value"), ("gate", "up"))

#: Bytes of the graph itself: what a block of a decoder takes in nodes, names and shapes, and what each further
#: tensor (scales, zero points) of a quantized matrix adds. Seen in exported graphs; below 0.2% of any bundle.
_GRAPH_PER_LAYER = 2650
_GRAPH_PER_SCALES = 300
_GRAPH_PER_ZEROS = 235


@dataclass(frozen=True)
class Tensor:
    """A tensor in the weights file."""

    kind: str
    bytes: int


@dataclass(frozen=True)
class StoredBytes:
    """Bytes by class, as shipped; ``total`` is model and weights together."""

    classes: dict[str, int]
    #: Parameters that went in, each once.
    parameters: int

    @property
    def total(self) -> int:
        """Bytes of all classes."""
        return sum(self.classes.values())

    @property
    def bits_per_weight(self) -> float:
        """Of matrices, norms, biases and tables, scales included."""
        own = sum(size for kind, size in self.classes.items() if kind not in ("padding", "graph", "rotary tables"))
        return 8 * own / self.parameters


def stored_bytes(decoder: Decoder, recipe: RecipeProfile, *, runtime: str, context: int) -> StoredBytes:
    """What model and weights of a bundle weigh, by class of tensor.

    Args:
        decoder: the model.
        recipe: how its matrices are stored.
        runtime: the runtime the bundle is for.
        context: tokens that fit in the cache; rotary tables are that long.

    Raises:
        UnsupportedError: the recipe or the accounting does not serve the runtime.
        InputError: a context below one.
    """
    check_context(context)
    formats = formats_of(decoder, recipe, runtime)
    if runtime == "executorch":
        from edgekit.analysis.accounting import executorch

        return StoredBytes(executorch.classes(decoder, formats, context), decoder.parameters)
    classes: dict[str, int] = {}
    end = 0
    for tensor in _tensors(decoder, formats, context):
        alignment = PAGE if tensor.bytes >= LARGE else LINE
        start = -(-end // alignment) * alignment
        classes["padding"] = classes.get("padding", 0) + start - end
        classes[tensor.kind] = classes.get(tensor.kind, 0) + tensor.bytes
        end = start + tensor.bytes
    classes["graph"] = _graph_bytes(decoder, formats)
    return StoredBytes(classes, decoder.parameters)


def check_context(context: int) -> None:
    """Refuse a context that holds nothing (InputError)."""
    if context < 1:
        raise InputError(f"a context of {context} tokens holds nothing", hint="give a positive number of tokens")


def matrix_bytes(rows: int, columns: int, form: MatrixFormat) -> tuple[int, int]:
    """Bytes of a stored matrix: its numbers, and what goes with them (scales and zero points)."""
    if form.scheme == "float":
        return rows * columns * (2 if form.dtype == "float16" else 4), 0
    if form.bits is None:
        raise InputError("a quantized format needs `bits`")
    if form.scheme == "dynamic":
        return rows * columns * form.bits // 8, rows * 4 + (0 if form.symmetric else rows)
    block = form.block or columns
    blocks = -(-columns // block)
    zeros = 0 if form.symmetric else rows * -(-blocks * form.bits // 8)
    return rows * blocks * block * form.bits // 8, rows * blocks * 4 + zeros


def joined(matrices: tuple[Matrix, ...]) -> Iterator[tuple[str, int, int]]:
    """First name, rows and columns of the tensors that onnxruntime's bundles store a layer's matrices as, in order."""
    named = {matrix.name: matrix for matrix in matrices}
    group_of = {name: group for group in _JOINED if all(name in named for name in group) for name in group}
    for matrix in matrices:
        group = group_of.get(matrix.name, (matrix.name,))
        if matrix.name == group[0]:
            yield matrix.name, sum(named[name].rows for name in group), matrix.columns


def _parts(kind: str, rows: int, columns: int, form: MatrixFormat) -> Iterator[Tensor]:
    numbers, beside = matrix_bytes(rows, columns, form)
    yield Tensor(kind, numbers)
    if beside:
        zeros = 0
        if not form.symmetric:
            _, scales = matrix_bytes(rows, columns, _symmetric(form))
            zeros = beside - scales
        yield Tensor(f"{kind} scales", beside - zeros)
        if zeros:
            yield Tensor(f"{kind} scales", zeros)


def _symmetric(form: MatrixFormat) -> MatrixFormat:
    return MatrixFormat(scheme=form.scheme, dtype=form.dtype, bits=form.bits, block=form.block, symmetric=True)


def _tensors(decoder: Decoder, formats: Formats, context: int) -> Iterator[Tensor]:
    embedding, head = decoder.embedding, decoder.head
    # The head's format decides for a tied matrix: one copy serves both.
    form = formats.head if decoder.tied else formats.embedding
    yield from _parts("embedding", embedding.rows, embedding.columns, form)
    for table in decoder.tables:
        yield Tensor("position tables", table.elements * 4)
    for matrix in decoder.extra:
        yield from _parts("linear", matrix.rows, matrix.columns, formats.linear)
    if decoder.rotary_dim:
        for _ in ("cosine", "sine"):
            yield Tensor("rotary tables", context * (decoder.rotary_dim // 2) * 4)
    for layer in decoder.layers:
        # Half of the vectors before attention, half before the feed-forward; it matters to the padding alone.
        first = layer.vectors // 2
        tensors = list(joined(layer.matrices))
        yield Tensor("norms and biases", first * 4)
        for position, (name, rows, columns) in enumerate(tensors):
            if position == min(2, len(tensors) - 1):
                yield Tensor("norms and biases", (layer.vectors - first) * 4)
            yield from _parts("linear", rows, columns, formats.of(name))
    yield Tensor("norms and biases", decoder.vectors * 4)
    if not decoder.tied:
        yield from _parts("head", head.rows, head.columns, formats.head)


def _graph_bytes(decoder: Decoder, formats: Formats) -> int:
    total = _GRAPH_PER_LAYER * len(decoder.layers)
    for layer in decoder.layers:
        for name, _, _ in joined(layer.matrices):
            form = formats.of(name)
            if form.scheme != "float":
                total += _GRAPH_PER_SCALES + (0 if form.symmetric else _GRAPH_PER_ZEROS)
    return total
