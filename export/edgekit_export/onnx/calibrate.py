"""What a model's matrices are multiplied with, measured on a little text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from edgekit_export.gate.logits import logits_by_piece

#: The text; not the gate's, so that the gate stays a test.
TEXT = Path(__file__).with_name("calibration.txt")
#: Tokens of it that are used: more changed nothing that could be measured.
TOKENS = 512


def calibration_tokens(tokenizer: Any | None, vocabulary: int) -> list[int]:
    """The shipped text in the model's tokens; without a tokenizer, evenly spread token ids."""
    if tokenizer is None:
        step = max(1, vocabulary // TOKENS)
        return [position * step % vocabulary for position in range(min(TOKENS, vocabulary))]
    ids: list[int] = tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"]
    return ids[:TOKENS]


def measure_energy(model: PreTrainedModel, tokens: list[int]) -> dict[str, torch.Tensor]:
    """Mean square of every input of every linear layer over ``tokens``.

    Returns float32 ``[in]`` by the name of the layer's weight, a tied head under its embedding's name.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    sums: dict[str, torch.Tensor] = {}
    rows: dict[str, int] = {}

    def watch(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            flat = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).to(torch.float32)
            sums[name] = sums.get(name, torch.zeros(1)) + flat.square().sum(0)
            rows[name] = rows.get(name, 0) + len(flat)

        return hook

    hooks = [
        module.register_forward_pre_hook(watch(names[id(module.weight)]))
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and id(module.weight) in names
    ]
    try:
        with torch.no_grad():
            for _ in logits_by_piece(model, tokens):
                pass
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / rows[name] for name, total in sums.items()}
