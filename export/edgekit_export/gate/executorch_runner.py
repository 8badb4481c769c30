"""Running an exported ExecuTorch program on the host through ExecuTorch's own Python runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import EdgekitError, InputError, UnfaithfulError
from edgekit_export.gate.divergence import Logits
from edgekit_export.gate.runner import Runner

#: Positions whose logits are held at a time.
_PIECE = 32


class ExecutorchRunner(Runner):
    """One loaded program with its cache.

    Args:
        model: path of the ``.pte`` file.
        all_logits: answer with every position's logits. The program has the last one's only, so the tokens are
            fed one by one: what is judged is what is shipped.

    Raises:
        InputError: ExecuTorch cannot load it.
    """

    def __init__(self, model: Path, *, all_logits: bool = False) -> None:
        # These imports register the kernels that a program may call.
        import executorch.extension.llm.custom_ops.custom_ops
        import executorch.kernels.quantized  # noqa: F401
        from executorch.extension.pybindings.portable_lib import _load_for_executorch

        try:
            self._module: Any = _load_for_executorch(str(model))
        except RuntimeError as error:
            raise InputError(f"load {model}: {error}", hint="the export is damaged; make it again") from error
        self._path = model
        self._all_logits = all_logits
        self._pass_tokens: int | None = None
        self.past = 0

    def reset(self) -> None:
        """Forget all tokens; stale cache entries beyond the past are never read."""
        self.past = 0

    def forward(self, tokens: list[int]) -> Logits:
        """Append ``tokens`` to the past.

        Returns:
            Float32 logits, ``[1, vocab]`` of the last token, or ``[tokens, vocab]`` with ``all_logits``.

        Raises:
            UnfaithfulError: logits that are not finite, or operators that ExecuTorch does not have.
            InputError: ExecuTorch cannot run the program.
        """
        size = 1 if self._all_logits else self._most_at_once()
        calls = [tokens[start : start + size] for start in range(0, len(tokens), size)]
        rows = [self._call(call) for call in calls]
        logits: Logits = np.concatenate(rows if self._all_logits else rows[-1:])
        if not np.isfinite(logits).all():
            raise UnfaithfulError(
                f"the export computes logits that are not finite after {self.past} tokens",
                hint="its weights are damaged, or the recipe's number format overflows on this model",
            )
        return logits

    def pieces(self, tokens: list[int]) -> Iterator[Logits]:
        """:meth:`forward` a few tokens at a time where every position's logits are wanted: they come one by one."""
        if not self._all_logits:
            yield self.forward(tokens)
            return
        for start in range(0, len(tokens), _PIECE):
            yield self.forward(tokens[start : start + _PIECE])

    def _most_at_once(self) -> int:
        """Tokens that a pass of the program takes at most."""
        if self._pass_tokens is None:
            try:
                self._pass_tokens = int(self._module.method_meta("forward").input_tensor_meta(0).sizes()[1])
            except RuntimeError as error:
                raise _failed(self._path, error) from error
        return self._pass_tokens

    def _call(self, tokens: list[int]) -> Logits:
        import torch

        ids = torch.tensor([tokens], dtype=torch.long)
        positions = torch.arange(self.past, self.past + len(tokens), dtype=torch.long)
        try:
            (logits,) = self._module.forward((ids, positions))
        except RuntimeError as error:
            # The method is loaded by the first call.
            raise _failed(self._path, error) from error
        self.past += len(tokens)
        # The runtime's memory is written again by the next call.
        result: Logits = np.array(logits[0].numpy(), np.float32)
        return result


def _failed(model: Path, error: RuntimeError) -> EdgekitError:
    """Why a program that was loaded does not run."""
    from executorch.extension.pybindings.portable_lib import _get_operator_names

    from edgekit_export.executorch.stored import StoredProgram

    missing = sorted(set(StoredProgram(model, {}, {}).operators) - set(_get_operator_names()))
    if not missing:
        return InputError(f"run {model}: ExecuTorch says {error}", hint="the export is damaged; make it again")
    return UnfaithfulError(
        f"run {model.name}: it calls operators that ExecuTorch does not have: {', '.join(missing)}",
        detail="cause: work that belongs into a delegate was left outside, or other code made the program",
        hint="export it again with edgekit",
    )
