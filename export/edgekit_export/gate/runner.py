"""Running an exported ONNX graph on the host, the way the probe runs it on a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import InputError, UnfaithfulError
from edgekit.schema.bundle import OnnxInterface
from edgekit_export.gate.divergence import Logits


class Runner(ABC):
    """One session of an exported model with its KV cache.

    Attributes:
        past: tokens in the cache.
    """

    past: int

    @abstractmethod
    def reset(self) -> None:
        """Forget all tokens."""

    @abstractmethod
    def forward(self, tokens: list[int]) -> Logits:
        """Append ``tokens`` to the past; float32 logits ``[1 or tokens, vocab]``, the last token's last."""

    def pieces(self, tokens: list[int]) -> Iterator[Logits]:
        """:meth:`forward`, its rows in one or several pieces."""
        yield self.forward(tokens)

    def greedy(self, prompt: list[int], steps: int, ends: set[int] | None = None) -> tuple[list[int], Logits]:
        """Continue ``prompt`` greedily from an empty cache, up to ``steps`` tokens or one of ``ends``.

        Returns:
            The tokens, and the logits each was chosen from, ``[tokens, vocab]``.
        """
        self.reset()
        rows = [self.forward(prompt)[-1]]
        tokens = [int(rows[-1].argmax())]
        while len(tokens) < steps and tokens[-1] not in (ends or ()):
            rows.append(self.forward(tokens[-1:])[-1])
            tokens.append(int(rows[-1].argmax()))
        return tokens, np.stack(rows)


class OnnxRunner(Runner):
    """One session with its KV cache, past and present bound to the same buffers.

    Args:
        model: path of the ONNX graph, its weights beside it.
        interface: how it is fed.
        all_logits: undo the cut to the last position, so that every position's logits come out.
        rounding: False takes the products' rounding of activations out; with ``all_logits`` only.

    Raises:
        InputError: onnxruntime cannot load it.
    """

    def __init__(
        self, model: Path, interface: OnnxInterface, *, all_logits: bool = False, rounding: bool = True
    ) -> None:
        import onnxruntime as ort

        from edgekit_export.onnx import full_logits_graph

        options = ort.SessionOptions()
        # Warnings of the runtime's about its own optimisations help nobody here.
        options.log_severity_level = 3
        # Spinning threads gain nothing in a check, and on a busy machine they take from everyone.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Dequantized matrices that are multiplied with become kernels of the same kind, which would round, too.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self._interface = interface
        try:
            if all_logits and interface.logits_positions == "last":
                options.add_session_config_entry(
                    "session.model_external_initializers_file_folder_path", str(model.parent.resolve())
                )
                graph: Any = full_logits_graph(model.parent, rounding=rounding)
            else:
                graph = str(model)
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            raise InputError(
                f"load {model}: {_first_line(error)}", hint="the export is damaged; make it again"
            ) from error
        self._binding = self._session.io_binding()
        self._caches = []
        dtype = np.dtype(interface.cache_dtype)
        for past, present, shape in zip(interface.past, interface.present, interface.cache_shape, strict=True):
            cache = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype))
            self._binding.bind_ortvalue_input(past, cache)
            self._binding.bind_ortvalue_output(present, cache)
            self._caches.append(cache)
        self.past = 0

    def reset(self) -> None:
        """Forget all tokens; stale cache entries beyond the past are never read."""
        self.past = 0

    def forward(self, tokens: list[int]) -> Logits:
        """Append ``tokens`` to the past.

        Returns:
            Float32 logits, ``[1, vocab]`` of the last token, or ``[tokens, vocab]`` with ``all_logits``.

        Raises:
            UnfaithfulError: logits that are not finite.
        """
        total = self.past + len(tokens)
        names = self._interface
        self._binding.bind_cpu_input(names.tokens, np.array([tokens], np.int64))
        self._binding.bind_cpu_input(names.seqlens_k, np.array([total - 1], np.int32))
        self._binding.bind_cpu_input(names.total_sequence_length, np.array(total, np.int32))
        self._binding.bind_output(names.logits, "cpu")
        self._session.run_with_iobinding(self._binding)
        self.past = total
        found = self._binding.get_outputs()
        logits: Logits = found[-1].numpy()[0].astype(np.float32, copy=False)
        if not np.isfinite(logits).all():
            raise UnfaithfulError(
                f"the export computes logits that are not finite after {total} tokens",
                hint="its weights are damaged, or the recipe's number format overflows on this model",
            )
        return logits


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
