"""The golden record: what the shipped artefact computes, for the same check on the device."""

from __future__ import annotations

import numpy as np

from edgekit.schema.bundle import GOLDEN_RMS_SHARE, GateCheck, Golden
from edgekit_export.gate.divergence import Logits
from edgekit_export.gate.runner import OnnxRunner

#: Greedy tokens in the record.
STEPS = 16
#: Logits recorded per step: the highest ones and others spread over the vocabulary.
LOGITS = 48


def record_golden(runner: OnnxRunner, prompt: list[int], *, context_length: int, tolerance: float) -> Golden:
    """Let the shipped graph continue ``prompt`` greedily, and keep what it computed."""
    prompt = prompt[-max(1, context_length // 2) :]
    steps = max(1, min(STEPS, context_length - len(prompt)))
    tokens, logits = runner.greedy(prompt, steps)
    ids = _telling_ids(logits)
    top = np.sort(np.partition(logits, -2, axis=-1)[:, -2:], axis=-1)
    return Golden(
        prompt=prompt,
        tokens=tokens,
        logit_ids=ids,
        logits=[[float(value) for value in row] for row in logits[:, ids]],
        tolerance=tolerance,
        margins=[float(value) for value in top[:, 1] - top[:, 0]],
    )


def check_golden(runner: OnnxRunner, golden: Golden) -> GateCheck:
    """Whether the artefact still computes what its golden record says.

    Teacher-forced with the record's tokens, so one near-tie does not spoil what follows.
    """
    most = golden.tolerance * GOLDEN_RMS_SHARE
    runner.reset()
    rows = [runner.forward(golden.prompt)[-1]]
    rows += [runner.forward([token])[-1] for token in golden.tokens[:-1]]
    logits = np.stack(rows)
    differences = logits[:, golden.logit_ids] - np.array(golden.logits, np.float32)
    difference = float(np.abs(differences).max())
    rms = float(np.sqrt(np.square(differences, dtype=np.float64).mean()))
    chosen = logits.argmax(-1)
    # A token may differ only where the two best were closer than machines may differ.
    wrong = [
        step
        for step, (token, margin) in enumerate(zip(golden.tokens, golden.margins, strict=True))
        if chosen[step] != token and margin >= golden.tolerance
    ]
    passed = difference <= golden.tolerance and rms <= most and not wrong
    cause = None
    if not passed:
        cause = "this onnxruntime, or the weights on this machine, compute something else than when it was exported"
    return GateCheck(
        name="golden record",
        passed=passed,
        found=f"largest difference {difference:.3g}, root mean square {rms:.3g}, "
        f"{len(golden.tokens) - len(wrong)} of {len(golden.tokens)} tokens",
        limit=f"logits within {golden.tolerance:g}, root mean square {most:g}; the same tokens",
        cause=cause,
    )


def _telling_ids(logits: Logits) -> list[int]:
    """Token ids whose logits are recorded: the best of each step, filled up evenly over the vocabulary."""
    vocabulary = logits.shape[1]
    ids = dict.fromkeys(int(row.argmax()) for row in logits)
    for rank in range(2, 5):
        for row in logits:
            if len(ids) < LOGITS // 2:
                ids.setdefault(int(np.argpartition(row, -rank)[-rank]))
    for index in np.linspace(0, vocabulary - 1, LOGITS, dtype=int):
        if len(ids) < LOGITS:
            ids.setdefault(int(index))
    return sorted(ids)
