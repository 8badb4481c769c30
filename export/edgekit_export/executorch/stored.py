"""The weights in a ``.pte`` file, read back for the gate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.exir._serialize import _program as serializer
from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program

from edgekit.errors import InputError
from edgekit_export.executorch.formats import Format
from edgekit_export.executorch.graph import Derived
from edgekit_export.executorch.keys import EMBEDDING, LITERAL, ROWS, SCALES, TABLE
from edgekit_export.executorch.pack import Packed, unpack
from edgekit_export.gate.stored import StoredMatrix


class StoredProgram:
    """A program's named weights, mapped rather than read; what :class:`StoredModel` is for ONNX.

    Args:
        path: of the ``.pte`` file.
        shapes: shapes of the source's weights.
        tied: other names of weights in ``shapes``.

    Raises:
        InputError: no such program, or it ends early.
    """

    def __init__(self, path: Path, shapes: dict[str, tuple[int, ...]], tied: dict[str, str]) -> None:
        data = np.memmap(path, np.uint8, "r")
        header = serializer._get_extended_header(bytes(data[:128]))
        if header is None or header.segment_base_offset + header.segment_data_size > data.size:
            raise InputError(
                f"read {path}: not a whole ExecuTorch program", hint="the export is damaged; make it again"
            )
        self._data = data
        self._base = header.segment_base_offset
        self.program = _flatbuffer_to_program(bytes(data[: header.program_size]))
        self._named = {entry.key: self.program.segments[entry.segment_index] for entry in self.program.named_data or []}
        self._shapes, self._tied = shapes, tied

    @property
    def operators(self) -> list[str]:
        """Kernels that the program calls outside of delegates, ``name.overload``."""
        plan = self.program.execution_plan[0]
        return [f"{item.name}.{item.overload}" if item.overload else item.name for item in plan.operators]

    @property
    def planned_bytes(self) -> int:
        """Memory that the runtime will allocate for activations and cache."""
        return int(sum(self.program.execution_plan[0].non_const_buffer_sizes))

    def matrices(self) -> Iterator[StoredMatrix]:
        """Every weight that belongs to the source's parameters."""
        for key, segment in self._named.items():
            if key.endswith(SCALES) or key.startswith((LITERAL, TABLE)):
                continue
            stem, _, first = key.removesuffix(EMBEDDING).partition(ROWS)
            derived = Derived.parse(stem)
            shape = self._shapes.get(self._tied.get(derived.source, derived.source))
            if shape is None:
                continue
            bits, block = self._storage(key, segment.size, shape)
            rows = (int(first), segment.size // (4 * shape[1])) if first else None
            yield StoredMatrix(
                parts=[derived.source],
                bits=bits,
                block=block,
                symmetric=True,
                transposed=False,
                turned=derived.transposed,
                plus=derived.plus,
                tensors={"data": key},
                shape=list(shape) if rows is None else [rows[1], shape[1]],
                rows=rows,
            )

    def rotary(self) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
        """The rotary tables that are looked up by position, ``[context, dim]`` each."""
        keys = sorted(key for key in self._named if key.startswith(f"{TABLE}rotary."))
        return [
            self._array(key, np.float32).numpy().astype(np.float64).reshape(self._positions(key), -1) for key in keys
        ]

    def values(self, matrix: StoredMatrix) -> torch.Tensor:
        """The float32 weight that the stored numbers stand for, in the order in which it is multiplied."""
        key = matrix.tensors["data"]
        shape = tuple(reversed(matrix.shape)) if matrix.turned else tuple(matrix.shape)
        if matrix.block is None:
            return self._array(key, np.float16 if matrix.bits == 16 else np.float32).float().reshape(shape)
        if matrix.bits == 8:
            stored = Packed(
                Format("int8-channel"),
                shape,
                self._array(key, np.int8).reshape(shape),
                self._array(key + SCALES, np.float32),
            )
            return unpack(stored)
        data = self._array(key, np.uint8).reshape(shape[0], shape[1] // 2)
        if key.endswith(EMBEDDING):
            scales = self._array(key + SCALES, np.float32)
            data = (data << 4) | (data >> 4)
        else:
            scales = self._array(key + SCALES, np.int16).view(torch.bfloat16)
        return unpack(Packed(Format("int4-block", block=matrix.block), shape, data, scales.reshape(shape[0], -1)))

    def _positions(self, key: str) -> int:
        """How many positions a table of ``[context, ...]`` or ``[1, context, ...]`` has."""
        constants = self.program.constant_segment.offsets
        for value in self.program.execution_plan[0].values:
            sizes: Any = getattr(value.val, "sizes", None)
            buffer = getattr(value.val, "data_buffer_idx", 0)
            if sizes and 0 < buffer < len(constants) and constants[buffer] == self._named[key].offset:
                return int(next(size for size in sizes if size != 1))
        raise InputError(f"find the table {key}: the program does not use it", hint="the export is damaged")

    def _storage(self, key: str, size: int, shape: tuple[int, ...]) -> tuple[int, int | None]:
        scales = self._named.get(key + SCALES)
        count = math.prod(shape)
        if scales is None:
            return 16 if size == 2 * count and ROWS not in key else 32, None
        if size == count:
            # One scale a row of the stored matrix.
            return 8, count // (scales.size // 4)
        return 4, count // (scales.size // (4 if key.endswith(EMBEDDING) else 2))

    def _array(self, key: str, dtype: Any) -> torch.Tensor:
        segment = self._named[key]
        start = self._base + segment.offset
        return torch.from_numpy(np.array(self._data[start : start + segment.size]).view(dtype))
