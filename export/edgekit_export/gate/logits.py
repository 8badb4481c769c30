"""Logits of many positions without holding them: computed piece by piece, and kept in a file."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from edgekit.errors import HostStorageError
from edgekit_export.gate.divergence import Logits

#: Positions computed at a time: 512 of them are 100 MB with a vocabulary of 50 thousand, 530 MB with one of 260.
PIECE = 32


def logits_by_piece(model: PreTrainedModel, tokens: list[int]) -> Iterator[torch.Tensor]:
    """Logits of every position of one text, ``[positions, vocab]`` a piece.

    The decoder runs once; only what follows it is computed piece by piece. An architecture that cannot be asked for
    some positions alone gives one piece.
    """
    ids = torch.tensor([tokens])
    base: Any = model.base_model
    if base is model or "logits_to_keep" not in inspect.signature(model.forward).parameters:
        yield model(ids, use_cache=False).logits[0]
        return
    kept: list[Any] = []
    hook = base.register_forward_hook(lambda *call: kept.append(call[-1]))
    try:
        for start in range(0, len(tokens), PIECE):
            wanted = torch.arange(start, min(start + PIECE, len(tokens)))
            logits = model(ids, use_cache=False, logits_to_keep=wanted).logits[0]
            if len(logits) != len(wanted):
                yield model(ids, use_cache=False).logits[0]
                return
            if start == 0:
                hook.remove()
                # The decoder's answer stays what it was; what the model does with it is the model's own code.
                base.forward = lambda *_, **__: kept[0]
            yield logits
    finally:
        hook.remove()
        vars(base).pop("forward", None)


class LogitsFile:
    """Rows of logits, float32, in a file that has no name and ends with this object.

    Raises:
        HostStorageError: the temporary folder cannot hold them.
    """

    def __init__(self) -> None:
        self._vocabulary = 0
        self._rows = 0
        self._file = tempfile.TemporaryFile(prefix="edgekit-logits-")  # noqa: SIM115

    def append(self, logits: Logits) -> None:
        """Add ``[rows, vocab]`` at the end."""
        self._vocabulary = logits.shape[1]
        try:
            self._file.write(np.ascontiguousarray(logits, np.float32).data.cast("B"))
        except OSError as error:
            raise HostStorageError(
                f"keep the reference's logits in {tempfile.gettempdir()}: {error.strerror or error}",
                hint="free space there, or name another folder in TMPDIR",
            ) from error
        self._rows += len(logits)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, rows: slice) -> Logits:
        start, stop, _ = rows.indices(self._rows)
        count = max(0, stop - start)
        self._file.flush()
        self._file.seek(start * self._vocabulary * 4, os.SEEK_SET)
        data = np.frombuffer(self._file.read(count * self._vocabulary * 4), np.float32)
        self._file.seek(0, os.SEEK_END)
        return data.reshape(count, self._vocabulary).copy()
