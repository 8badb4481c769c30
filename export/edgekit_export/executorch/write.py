"""A recipe's weights bound to a decoder, and the ``.pte`` file written piece by piece."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from executorch.exir import schema
from executorch.exir._serialize import _program as serializer
from executorch.exir._serialize._flatbuffer_program import _program_to_flatbuffer
from executorch.exir.scalar_type import ScalarType

from edgekit.errors import UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema.operators import OperatorLabel
from edgekit.schema.recipe import RecipeProfile
from edgekit_export.executorch.decoder import Decoder
from edgekit_export.executorch.delegate import NamedData
from edgekit_export.executorch.formats import Format, formats_of
from edgekit_export.executorch.graph import Derived, Literal, Parameter, Table
from edgekit_export.executorch.keys import EMBEDDING, LITERAL, ROWS, SCALES
from edgekit_export.executorch.pack import Packed, nbytes, pack, pack_embedding4, raw
from edgekit_export.executorch.program import Assembled, EmbeddingTable, assemble
from edgekit_export.sources.tensors import TensorStore

#: Segments begin on cache lines twice as wide as any CPU's, as ExecuTorch's own serializer has it.
_SEGMENT_ALIGN = 128
#: Constants inside a segment.
_CONSTANT_ALIGN = 64


@dataclass(frozen=True)
class Written:
    """What was written.

    ``operators`` counts calls by name; ``planned_bytes`` includes ``kv_cache_bytes``;
    ``bits_per_weight`` is over the source's unique parameters. ``labels`` say what each operator belongs to.
    """

    path: Path
    operators: dict[str, int]
    planned_bytes: int
    kv_cache_bytes: int
    bits_per_weight: float
    delegates: int
    labels: list[OperatorLabel]


@dataclass(frozen=True)
class _Later:
    """A tensor that is read when it is written: in float32 all of them together would be the whole model."""

    bytes: int
    read: Callable[[], torch.Tensor]


class _Data:
    """Everything that lies in the file besides the program, each piece once."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, torch.Tensor | _Later]] = []
        self.size = 0
        self._known: dict[str, int] = {}

    def add(self, key: str, tensor: torch.Tensor | _Later) -> int:
        """Where the tensor lies, from the start of the data; stored once per key."""
        if key not in self._known:
            self.size += -self.size % _SEGMENT_ALIGN
            self.pieces.append((self.size, tensor))
            self._known[key] = self.size
            self.size += _size(tensor)
        return self._known[key]


def _size(tensor: torch.Tensor | _Later) -> int:
    return tensor.bytes if isinstance(tensor, _Later) else nbytes(tensor)


class _Binder:
    def __init__(
        self,
        decoder: Decoder,
        tensors: TensorStore,
        recipe: RecipeProfile,
        tied: Mapping[str, str],
        energy: Mapping[str, torch.Tensor],
        progress: Progress,
    ) -> None:
        self.data = _Data()
        self._tied, self._energy = tied, energy
        self._decoder, self._tensors, self._progress = decoder, tensors, progress
        self._formats = formats_of(recipe)
        self._kv_cache = recipe.kv_cache
        self.named: dict[str, tuple[int, int]] = {}
        self.constants: list[int] = [0]
        self._packed: dict[tuple[str, Format], Packed] = {}
        self._embed_name = self._table_name()
        self._head_name = next(
            op.inputs[1].name
            for op in reversed(decoder.ops)
            if op.kind == "FullyConnected" and isinstance(op.inputs[1], Parameter)
        )
        self.tied = self.resolve(self._head_name) == self.resolve(self._embed_name)
        self.weight_bytes = 0
        self._count = 0

    def run(self) -> Assembled:
        embedding = self._embedding()
        tables = {name: self._table(name, table) for name, table in self._decoder.tables.items()}
        zeros = 0
        kept = [op.output.shape for op in self._decoder.ops if op.kind == "recall"]
        if kept:
            zeros = self._constant("zeros", torch.zeros(max(_elements(shape) for shape in kept)))
        named = NamedData(self._parameter, self._literal, self._format_of)
        return assemble(self._decoder, named, embedding, tables, zeros, self._kv_cache)

    def resolve(self, name: str) -> str:
        """The source's name of a parameter; a tied matrix has one."""
        name = self._tied.get(name, name)
        if name in self._tensors.shapes:
            return name
        if name.endswith(("lm_head.weight", "embed_out.weight")) or "embed" in name or "wte" in name:
            vocabulary = self._decoder.logits.shape[-1]
            found = [key for key, shape in self._tensors.shapes.items() if len(shape) == 2 and shape[0] == vocabulary]
            if len(found) == 1:
                return found[0]
        raise UnsupportedError(f"export to ExecuTorch: the source has no weight {name}")

    def _table_name(self) -> str:
        table = next(op.inputs[1] for op in self._decoder.ops if op.kind == "embed")
        assert isinstance(table, Parameter)
        return table.name

    def _format_of(self, item: Parameter) -> Format:
        return self._formats.head if item.name == self._head_name else self._formats.linear

    def _read(self, name: str) -> torch.Tensor:
        derived = Derived.parse(name)
        return derived.of(self._tensors[self.resolve(derived.source)])

    def _table(self, name: str, table: Table) -> int:
        """A table among the constants; it is named, too, so that the gate finds it."""
        rows = table.rows
        key = name
        if table.parameter is not None:
            first, count = int(rows[0]), len(rows)
            if not torch.equal(rows, torch.arange(first, first + count)):
                raise UnsupportedError("export to ExecuTorch: learned positions that do not follow one another")
            rows = self._read(table.parameter)[first : first + count].contiguous()
            key = f"{self.resolve(table.parameter)}{ROWS}{first}"
        place = self.data.add if table.parameter is None else self._place
        self.named[key] = (place(f"table {name}", rows), nbytes(rows))
        self.constants.append(self.named[key][0])
        return len(self.constants) - 1

    def _source(self, name: str) -> str:
        """What a weight's data is known by: the source's name of it, and how it was changed."""
        derived = Derived.parse(name)
        return self.resolve(derived.source) + name.removeprefix(derived.source)

    def _stored(self, name: str, format: Format) -> Packed:
        """A matrix packed; a tied one is packed once per storage, whatever reads it."""
        key = (self._source(name), Format(format.storage, False, format.block))
        if key not in self._packed:
            made = pack(self._read(name), format, self._energy.get(Derived.parse(key[0]).source))
            if self.resolve(self._embed_name) != key[0]:
                return made
            self._packed[key] = made
        return self._packed[key]

    def _float(self, name: str, format: Format, shape: tuple[int, ...]) -> _Later:
        size = _elements(shape) * (2 if format.storage == "float16" else 4)
        return _Later(size, lambda: pack(self._read(name), format).data)

    def _place(self, key: str, tensor: torch.Tensor | _Later) -> int:
        before = self.data.size
        offset = self.data.add(key, tensor)
        self.weight_bytes += _size(tensor) if self.data.size != before else 0
        return offset

    def _constant(self, key: str, tensor: torch.Tensor) -> int:
        self.constants.append(self.data.add(key, tensor))
        return len(self.constants) - 1

    def _parameter(self, item: Parameter, format: Format) -> tuple[str, int, str | None, int]:
        self._count += 1
        if self._count % 8 == 0:
            self._progress(ProgressEvent("write", self._count, None, "tensors", item.name))
        source = self._source(item.name)
        if len(item.shape) != 2 or format.storage in ("float32", "float16"):
            form = format if len(item.shape) == 2 else Format("float32")
            later = self._float(item.name, form, item.shape)
            self.named[item.name] = (self._place(f"{source} {form.storage}", later), later.bytes)
            return item.name, later.bytes, None, 0
        packed = self._stored(item.name, format)
        assert packed.scales is not None
        stem = f"{source} {format.storage} {format.block}"
        self.named[item.name] = (self._place(stem, packed.data), nbytes(packed.data))
        scales_key = item.name + SCALES
        self.named[scales_key] = (self._place(f"{stem} scales", packed.scales), nbytes(packed.scales))
        return item.name, nbytes(packed.data), scales_key, nbytes(packed.scales)

    def _literal(self, item: Literal) -> str:
        key = LITERAL + hashlib.sha256(raw(item.tensor)).hexdigest()[:32]
        self.named[key] = (self.data.add(key, item.tensor), nbytes(item.tensor))
        return key

    def _embedding(self) -> EmbeddingTable:
        name, format = self._embed_name, self._formats.embedding
        source = self.resolve(name)
        if format.storage in ("float32", "float16"):
            sizes = self._tensors.shapes[source]
            later = self._float(name, format, sizes)
            index = self._place(f"{source} {format.storage}", later)
            self.constants.append(index)
            self.named.setdefault(name, (index, later.bytes))
            kind = ScalarType.HALF if format.storage == "float16" else ScalarType.FLOAT
            return EmbeddingTable(("aten::embedding", "out"), [(len(self.constants) - 1, kind, sizes)])
        packed = self._stored(name, format)
        stem = f"{source} {format.storage} {format.block}"
        low, high, operator = -128, 127, ("quantized_decomposed::embedding_byte", "out")
        if format.storage == "int4-block":
            packed = pack_embedding4(packed)
            stem += " embedding"
            low, high, operator = -8, 7, ("quantized_decomposed::embedding_4bit", "out")
        assert packed.scales is not None
        kind = ScalarType.CHAR if packed.data.dtype == torch.int8 else ScalarType.BYTE
        scales = packed.scales.reshape(packed.shape[0], -1)
        tensors = []
        for key, tensor, scalar in ((stem, packed.data, kind), (f"{stem} scales", scales, ScalarType.FLOAT)):
            self.constants.append(self._place(key, tensor))
            shown = name + EMBEDDING + (SCALES if tensor is scales else "")
            self.named[shown] = (self.constants[-1], nbytes(tensor))
            tensors.append((len(self.constants) - 1, scalar, tuple(tensor.shape)))
        return EmbeddingTable(operator, tensors, low, high)


def write_program(
    decoder: Decoder,
    tensors: TensorStore,
    recipe: RecipeProfile,
    path: Path,
    *,
    tied: Mapping[str, str] | None = None,
    energy: Mapping[str, torch.Tensor] | None = None,
    progress: Progress = silent,
) -> Written:
    """Bind a recipe's weights to a decoder and write the program.

    ``tied`` names weights that are others of ``tensors``; ``energy`` is the mean square of each matrix's inputs, by
    which rounding errors are weighed. Peak memory is what of the file is packed, and one matrix in float32.

    Raises:
        UnsupportedError: the recipe cannot be served.
        OSError: the file cannot be written.
    """
    binder = _Binder(decoder, tensors, recipe, tied or {}, energy or {}, progress)
    assembled = binder.run()
    delegates = [torch.frombuffer(bytearray(delegate.blob), dtype=torch.uint8) for delegate in assembled.delegates]
    blobs = [(binder.data.add(f"delegate {index}", blob), nbytes(blob)) for index, blob in enumerate(delegates)]
    # Segment 0 holds all constants; the others lie inside it. A piece that a kernel and a delegate both read (a tied
    # embedding) is one range of the file under two names.
    segments = [schema.DataSegment(offset=0, size=binder.data.size)]
    plan = assembled.plan
    for offset, size in blobs:
        plan.delegates.append(
            schema.BackendDelegate(
                id="XnnpackBackend",
                processed=schema.BackendDelegateDataReference(schema.DataLocation.SEGMENT, len(segments)),
                compile_specs=[],
            )
        )
        segments.append(schema.DataSegment(offset=offset, size=size))
    named = []
    for key, (offset, size) in binder.named.items():
        named.append(schema.NamedData(key=key, segment_index=len(segments)))
        segments.append(schema.DataSegment(offset=offset, size=size))
    program = schema.Program(
        version=0,
        execution_plan=[plan],
        constant_buffer=[],
        backend_delegate_data=[],
        segments=segments,
        constant_segment=schema.SubsegmentOffsets(segment_index=0, offsets=binder.constants),
        mutable_data_segments=None,
        named_data=named,
    )
    _write(program, binder.data, path)
    unique = sum(_elements(shape) for shape in tensors.shapes.values())
    return Written(
        path=path,
        operators=dict(sorted(assembled.operators.items())),
        planned_bytes=assembled.planned_bytes,
        kv_cache_bytes=assembled.cache_bytes,
        bits_per_weight=8 * binder.weight_bytes / unique,
        delegates=len(assembled.delegates),
        labels=assembled.labels,
    )


def _write(program: schema.Program, data: _Data, path: Path) -> None:
    """The file as ExecuTorch's serializer lays it out, without ever holding it whole."""
    result = _program_to_flatbuffer(program, constant_tensor_alignment=_CONSTANT_ALIGN, delegate_alignment=None)
    header_size = serializer.aligned_size(serializer._ExtendedHeader.EXPECTED_LENGTH, result.max_alignment)
    program_size = header_size + len(result.data)
    base = serializer.aligned_size(program_size, _SEGMENT_ALIGN)
    header = serializer._ExtendedHeader(
        program_size=program_size, segment_base_offset=base, segment_data_size=data.size
    ).to_bytes()
    head = serializer._insert_flatbuffer_header(
        flatbuffer_data=bytes(result.data),
        magic_regex=r"ET[0-9a-zA-Z][0-9a-zA-Z]",
        header_data=serializer.pad_to(header, header_size),
    )
    with path.open("wb") as file:
        file.write(head)
        for offset, piece in data.pieces:
            file.seek(base + offset)
            file.write(raw(piece.read() if isinstance(piece, _Later) else piece))
        file.truncate(base + data.size)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
