"""What the source itself computes: once per source, shared by all recipes."""

from __future__ import annotations

import torch

from edgekit.progress import Progress, ProgressEvent, silent
from edgekit_export.allocator import trim
from edgekit_export.gate.logits import LogitsFile, logits_by_piece
from edgekit_export.gate.text import GateText
from edgekit_export.onnx import calibration_tokens, measure_energy
from edgekit_export.sources import ModelSource

#: Greedy tokens compared with the export.
GREEDY_TOKENS = 32


class Reference:
    """Logits and greedy continuation of the eager float32 model.

    Attributes:
        text: what was read.
        logits: per window ``[tokens, vocab]``, float32, on disk.
        greedy: continuation of the prompt, up to an end token.
        energy: mean square of each linear layer's inputs, for quantizing and for judging what it lost.
        description: what the reference is, for the bundle.
    """

    def __init__(
        self,
        text: GateText,
        logits: list[LogitsFile],
        greedy: list[int],
        energy: dict[str, torch.Tensor],
        description: str,
    ) -> None:
        self.text = text
        self.energy = energy
        self.logits = logits
        self.greedy = greedy
        self.description = description


def compute_reference(
    source: ModelSource, text: GateText, *, context_length: int, progress: Progress = silent
) -> Reference:
    """Run the source's model over ``text``; the model is released again afterwards.

    Raises:
        InputError: weights that cannot be read.
    """
    model = source.load_model(progress=progress)
    logits: list[LogitsFile] = []
    with torch.inference_mode():
        for index, window in enumerate(text.windows):
            progress(ProgressEvent("reference", index, len(text.windows) + 1, "windows"))
            logits.append(LogitsFile())
            for piece in logits_by_piece(model, window):
                logits[-1].append(piece.numpy())
        progress(ProgressEvent("reference", len(text.windows), len(text.windows) + 1, "windows"))
        steps = min(GREEDY_TOKENS, context_length - len(text.prompt))
        greedy = _greedy(model, text.prompt, steps, set(source.eos_ids))
        progress(ProgressEvent("reference", len(text.windows) + 1, len(text.windows) + 1, "windows"))
    tokenizer = source.tokenizer.object if source.tokenizer is not None else None
    tokens = calibration_tokens(tokenizer, source.architecture.vocab)
    energy = measure_energy(model, tokens[: source.architecture.max_position])
    del model
    trim()
    return Reference(text, logits, greedy, energy, describe_reference(source))


def describe_reference(source: ModelSource) -> str:
    """What exports of ``source`` are compared with."""
    were = source.identity.weights_were
    return f"eager float32 of the source dequantized from {were}" if were else "eager float32 of the source"


def _greedy(model: torch.nn.Module, prompt: list[int], steps: int, ends: set[int]) -> list[int]:
    tokens: list[int] = []
    cache = None
    feed = torch.tensor([prompt])
    for _ in range(steps):
        output = model(feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        tokens.append(int(output.logits[0, -1].argmax()))
        if tokens[-1] in ends:
            break
        feed = torch.tensor([[tokens[-1]]])
    return tokens
