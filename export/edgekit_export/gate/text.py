"""The text the gate reads, as tokens in windows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import torch

from edgekit.errors import InputError
from edgekit_export.sources import ModelSource

#: Our own prose, shipped with the package so that every gate reads the same words.
TEXT = "harbour-town-1"
TEXT_SHA256 = "2d131eb06d752ac9cbe02808a963c749892b930afaa05e7b17f19424ab090e74"

#: Tokens the gate judges: enough for a stable mean, few enough for seconds.
TOKENS = 512
#: Tokens of a prompt without a chat template.
PROMPT_TOKENS = 24
#: What an instruction-tuned model is asked.
QUESTION = "Name three things that float on water, and say why they do."
_RANDOM_SEED = 20240917


class GateText(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is read.

    Attributes:
        name: of the text, as bundles record it.
        sha256: over the text (over the tokens where they are random).
        windows: token ids, each window fits into the context.
        prompt: token ids that greedy generation continues.
        random: the tokens are random because the source has no tokenizer.
    """

    name: str
    sha256: str
    windows: list[list[int]]
    prompt: list[int]
    random: bool


def read_text() -> str:
    """The shipped text.

    Raises:
        InputError: it is not the text that was shipped.
    """
    data = (Path(__file__).parent / "texts" / f"{TEXT}.txt").read_bytes().replace(b"\r\n", b"\n")
    if hashlib.sha256(data).hexdigest() != TEXT_SHA256:
        raise InputError(f"the gate's text {TEXT} was changed", hint="install edgekit-slm again")
    return data.decode()


def gate_text(source: ModelSource, context_length: int) -> GateText:
    """The gate's text for ``source``: the shipped one, or random tokens for a source without a tokenizer."""
    window = min(TOKENS, context_length)
    if source.tokenizer is None:
        generator = torch.Generator().manual_seed(_RANDOM_SEED)
        ids: list[int] = torch.randint(0, source.architecture.vocab, (TOKENS,), generator=generator).tolist()
        digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()
        prompt = ids[:PROMPT_TOKENS]
        name = f"random tokens, seed {_RANDOM_SEED}"
    else:
        tokenizer = source.tokenizer.object
        text = read_text()
        ids = list(tokenizer(text)["input_ids"])[:TOKENS]
        digest = TEXT_SHA256
        name = TEXT
        prompt = ids[:PROMPT_TOKENS]
        if tokenizer.chat_template:
            prompt = list(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_dict=False
                )
            )
    windows = [ids[start : start + window] for start in range(0, len(ids), window)]
    # Room for generated tokens must remain in the context.
    prompt = prompt[-max(1, context_length // 2) :]
    # A window's first position is not judged and its last predicts nothing: shorter ones say nothing.
    return GateText(
        name=name,
        sha256=digest,
        windows=[part for part in windows if len(part) >= 3],
        prompt=prompt,
        random=source.tokenizer is None,
    )
