"""Weights by name, read one at a time so that a model need not be in memory to be exported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import torch

from edgekit.errors import InputError
from edgekit.schema.integrity import sha256_file

#: Weights of these types become float32 without loss.
FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})


class TensorStore(Mapping[str, torch.Tensor]):
    """Weights under transformers' parameter names; ``store[name]`` is a fresh contiguous float32 tensor.

    Args:
        shapes: each weight's shape.
        read: reads one weight by name.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], torch.Tensor]) -> None:
        self.shapes = dict(shapes)
        self._read = read

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        return self._read(name).to(torch.float32).contiguous()

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def renamed(self, names: Mapping[str, str]) -> TensorStore:
        """The same store with weights called ``names`` after the names they have here."""
        before = {new: old for old, new in names.items()}
        shapes = {names.get(name, name): shape for name, shape in self.shapes.items()}
        return TensorStore(shapes, lambda name: self._read(before.get(name, name)))

    def restricted_to(self, names: Collection[str]) -> TensorStore:
        """The same store without the weights that are not in ``names``."""
        return TensorStore({name: shape for name, shape in self.shapes.items() if name in names}, self._read)


def open_safetensors(files: list[Path]) -> TensorStore:
    """The weights of one or several safetensors files.

    Raises:
        InputError: a file that is cut short or damaged, a weight found twice or in no floating-point type.
    """
    from safetensors import SafetensorError, safe_open

    place: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    handles = {}
    for file in files:
        try:
            handle = handles[file] = safe_open(file, framework="pt")
            names = list(handle.keys())
            for name in names:
                if name in place:
                    raise InputError(
                        f"read weights: {name} is both in {place[name].name} and in {file.name}",
                        hint="remove the file that does not belong to the model",
                    )
                part = handle.get_slice(name)
                if part.get_dtype() not in ("F32", "F16", "BF16", "F64"):
                    raise InputError(
                        f"read weights from {file}: {name} is stored as {part.get_dtype()}, which is no plain float",
                        hint="start from the unquantized model",
                    )
                place[name], shapes[name] = file, tuple(part.get_shape())
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"read weights from {file}: {error}",
                hint="the file is damaged or was cut short; fetch it again",
            ) from error

    def read(name: str) -> torch.Tensor:
        try:
            return handles[place[name]].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise InputError(f"read {name} from {place[name]}: {error}", hint="fetch the file again") from error

    return TensorStore(shapes, read)


def sha256_of_files(files: list[Path]) -> str:
    """One SHA-256 for a set of weight files: a single file's own, else over names and digests."""
    if len(files) == 1:
        return sha256_file(files[0])
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda path: path.name):
        digest.update(f"{file.name}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def random_tensors(shapes: Mapping[str, tuple[int, ...]], *, seed: int, spread: float) -> TensorStore:
    """Seeded random weights: each depends on its name and the seed alone, so layers can be added or left out.

    Matrices are normal with standard deviation ``spread``, vectors called ``…weight`` (scales of norms) are one,
    other vectors (biases) small and normal.
    """

    def read(name: str) -> torch.Tensor:
        shape = shapes[name]
        if len(shape) < 2 and name.endswith("weight"):
            return torch.ones(shape)
        own = int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "big", signed=True)
        generator = torch.Generator().manual_seed(own)
        return torch.randn(shape, generator=generator) * spread

    return TensorStore(shapes, read)
