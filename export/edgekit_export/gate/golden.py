"""The golden record: what the shipped artefact computes, for the same check on the device."""

from __future__ import annotations

import numpy as np

from edgekit.schema.bundle import GOLDEN_RMS_SHARE, GateCheck, Golden
from edgekit_export.gate.divergence import Logits
from edgekit_export.gate.runner import Runner

#: Greedy tokens in the record.
STEPS = 16
#: Logits recorded per step: the highest ones and others spread over the vocabulary.
LOGITS = 48
#: Tokens that the prompt is read by to see how far rounding alone moves the logits: other shapes take other kernels and
#: sum in another order, as another machine does.
PIECES = (7, 1)
#: Another machine may differ by this many times what the host saw of itself.
HEADROOM = 2.0


def record_golden(runner: Runner, prompt: list[int], *, context_length: int, tolerance: float) -> Golden:
    """Let the shipped graph continue ``prompt`` greedily, and keep what it computed.

    ``tolerance`` is the least that another machine may differ by. Activations rounded to 8 bits amplify the last bit
    of a sum, by how much depends on model and processor, so the artefact's own scatter widens it.
    """
    prompt = prompt[-max(1, context_length // 2) :]
    steps = max(1, min(STEPS, context_length - len(prompt)))
    tokens, logits = runner.greedy(prompt, steps)
    ids = _telling_ids(logits)
    top = np.sort(np.partition(logits, -2, axis=-1)[:, -2:], axis=-1)
    moved = [_forced(runner, prompt, tokens, piece)[:, ids] - logits[:, ids] for piece in PIECES if piece < len(prompt)]
    scatter = max((float(np.abs(entry).max()) for entry in moved), default=0.0)
    rms = max((_rms(entry) for entry in moved), default=0.0)
    return Golden(
        prompt=prompt,
        tokens=tokens,
        logit_ids=ids,
        logits=[[float(value) for value in row] for row in logits[:, ids]],
        tolerance=max(tolerance, HEADROOM * scatter, HEADROOM * rms / GOLDEN_RMS_SHARE),
        scatter=scatter,
        margins=[float(value) for value in top[:, 1] - top[:, 0]],
    )


def check_golden(runner: Runner, golden: Golden) -> GateCheck:
    """Whether the artefact still computes what its golden record says.

    Teacher-forced with the record's tokens, so one near-tie does not spoil what follows.
    """
    most = golden.tolerance * GOLDEN_RMS_SHARE
    logits = _forced(runner, golden.prompt, golden.tokens, len(golden.prompt))
    differences = logits[:, golden.logit_ids] - np.array(golden.logits, np.float32)
    difference = float(np.abs(differences).max())
    rms = _rms(differences)
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
        cause = "this runtime, or the weights on this machine, compute something else than when it was exported"
    return GateCheck(
        name="golden record",
        passed=passed,
        found=f"largest difference {difference:.3g}, root mean square {rms:.3g}, "
        f"{len(golden.tokens) - len(wrong)} of {len(golden.tokens)} tokens",
        limit=f"logits within {golden.tolerance:g}, root mean square {most:g}; the same tokens",
        cause=cause,
    )


def _forced(runner: Runner, prompt: list[int], tokens: list[int], piece: int) -> Logits:
    """Logits that each of ``tokens`` is chosen from, ``[tokens, vocab]``; the prompt read ``piece`` at a time."""
    runner.reset()
    for start in range(0, len(prompt), piece):
        last = runner.forward(prompt[start : start + piece])[-1]
    return np.stack([last, *(runner.forward([token])[-1] for token in tokens[:-1])])


def _rms(differences: Logits) -> float:
    return float(np.sqrt(np.square(differences, dtype=np.float64).mean()))


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
