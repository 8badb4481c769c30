"""The file beside the graph that holds its weights."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from edgekit.errors import HostStorageError
from edgekit_export.onnx.graph import Array

#: Large tensors start on a page, so that the runtime can map the file instead of copying it.
_PAGE = 4096
_LARGE = 64 * 1024
#: Small ones start where any SIMD load is aligned.
_LINE = 64


class DataFile:
    """Writes tensors one after the other; a context manager that leaves nothing behind when interrupted.

    The file stands under ``path`` only once the context ends well.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".part")
        self._file: BinaryIO | None = None
        self._end = 0

    def __enter__(self) -> DataFile:
        try:
            self._file = self._partial.open("wb")
        except OSError as error:
            raise HostStorageError(f"write {self._path}: {error.strerror}", hint="free disk space") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def add(self, name: str, array: Array) -> Any:
        """Append ``array``; returns its ``onnx.TensorProto``.

        Raises:
            HostStorageError: the disk is full.
        """
        data = np.ascontiguousarray(array)
        if data.dtype.byteorder == ">":
            data = data.astype(data.dtype.newbyteorder("<"))
        alignment = _PAGE if data.nbytes >= _LARGE else _LINE
        offset = -(-self._end // alignment) * alignment
        if self._file is None:
            raise ValueError("the data file is not open")
        try:
            self._file.write(bytes(offset - self._end))
            self._file.write(data.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise HostStorageError(
                f"write {self._path} ({offset + data.nbytes} bytes so far): {error.strerror}", hint="free disk space"
            ) from error
        self._end = offset + data.nbytes
        return self.view(name, data.dtype, list(data.shape), offset, data.nbytes)

    def view(self, name: str, dtype: Any, shape: list[int], offset: int, length: int) -> Any:
        """A tensor over bytes already written, under another name or shape."""
        import onnx

        tensor = onnx.TensorProto(
            name=name, data_type=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), dims=shape
        )
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self._path.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def region(tensor: Any) -> tuple[str, int, int]:
    """File name, offset and length of an external ``onnx.TensorProto``."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries.get("offset", 0)), int(entries["length"])
