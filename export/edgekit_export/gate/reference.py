"""What the source itself computes: once per source, shared by all recipes."""

from __future__ import annotations

import torch

from edgekit.progress import Progress, silent
from edgekit_export.allocator import trim
from edgekit_export.gate.logits import LogitsFile, logits_by_piece
from edgekit_export.gate.streamed import SourceWeights, Streamed
from edgekit_export.gate.text import GateText
from edgekit_export.onnx import calibration_tokens, measure_energy
from edgekit_export.sources import ModelSource

#: Greedy tokens compared with the export.
GREEDY_TOKENS = 32


class Reference:
    """What the eager float32 model computes.

    Attributes:
        text: what was read.
        logits: per window ``[tokens, vocab]``, float32, on disk.
        energy: mean square of each linear layer's inputs, for quantizing and for judging what it lost.
        description: what the reference is, for the bundle.
    """

    def __init__(
        self,
        text: GateText,
        logits: list[LogitsFile],
        energy: dict[str, torch.Tensor],
        description: str,
    ) -> None:
        self.text = text
        self.energy = energy
        self.logits = logits
        self.description = description


def compute_reference(
    source: ModelSource, text: GateText, *, context_length: int, progress: Progress = silent
) -> Reference:
    """Run the source's model over ``text``, a layer at a time.

    Raises:
        InputError: weights that cannot be read.
    """
    streamed = Streamed(source, SourceWeights(source), stage="reference", progress=progress)
    logits: list[LogitsFile] = []
    with torch.inference_mode():
        for window in text.windows:
            logits.append(LogitsFile())
            for piece in logits_by_piece(streamed.model, window):
                logits[-1].append(piece.numpy())
    tokenizer = source.tokenizer.object if source.tokenizer is not None else None
    tokens = calibration_tokens(tokenizer, source.architecture.vocab)
    energy = measure_energy(streamed.model, tokens[: source.architecture.max_position])
    del streamed
    trim()
    return Reference(text, logits, energy, describe_reference(source))


def describe_reference(source: ModelSource) -> str:
    """What exports of ``source`` are compared with."""
    were = source.identity.weights_were
    return f"eager float32 of the source dequantized from {were}" if were else "eager float32 of the source"


def choices(source: ModelSource, prompt: list[int], tokens: list[int], *, progress: Progress = silent) -> list[int]:
    """What the source's model would say after ``prompt``, and after each of ``tokens`` but the last.

    As far as ``tokens`` are its own greedy continuation, that is ``tokens``: one pass tells it, where the model would
    need one for each of them.
    """
    streamed = Streamed(source, SourceWeights(source), stage="reference's choices", progress=progress)
    rows: list[int] = []
    with torch.inference_mode():
        for piece in logits_by_piece(streamed.model, [*prompt, *tokens[:-1]]):
            rows += piece.argmax(-1).tolist()
    del streamed
    trim()
    return rows[len(prompt) - 1 :]
