"""Tokenizer and end-token parity: what lies in the bundle against what the source states."""

from __future__ import annotations

import json
from pathlib import Path

from edgekit.errors import InputError
from edgekit.schema.bundle import GateCheck, Tokenizer
from edgekit_export.gate.text import read_text
from edgekit_export.sources import ModelSource
from edgekit_export.sources.architecture import make_config
from edgekit_export.sources.tokenizer import TokenizerSource, load_tokenizer

#: Where tokenizers differ first: digits, runs of spaces, case, scripts, emoji, bytes outside of Unicode's plain part.
PROBES = (
    "",
    " leading and trailing ",
    "0123456789 3.14159 1,000,000 2024-09-17",
    "tabs\tand\n\nnew lines\r\n    and    runs",
    "ÄÖÜ ß é ñ ł — “quotes” … €",
    "漢字かな交じり文 한국어 עברית العربية हिन्दी",
    "😀👩‍👩‍👧🇩🇪",
    "def f(x):\n    return {'a': x ** 2}  # comment",
    "don't I'll WE'RE o'clock",
)


def check_tokenizer(directory: Path, source: ModelSource) -> GateCheck:
    """Whether the tokenizer in ``directory`` cuts text as the source's does, chat template included."""
    name, limit = "tokenizer", f"the same tokens for {len(PROBES) + 1} texts and the chat template"
    if source.tokenizer is None:
        return GateCheck(name=name, passed=True, found="the source has none", limit=limit)
    wanted = source.tokenizer.object
    try:
        found = load_tokenizer(directory)
    except InputError as error:
        return GateCheck(name=name, passed=False, found="unreadable", limit=limit, cause=error.message)
    for text in (*PROBES, *(f"{token}x" for token in wanted.all_special_tokens[:16]), read_text()):
        ours, theirs = found(text)["input_ids"], wanted(text)["input_ids"]
        if ours != theirs:
            place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), "the end")
            cause = f"the text beginning {text[:24]!r} is cut differently from token {place} on"
            return GateCheck(name=name, passed=False, found="other tokens", limit=limit, cause=cause)
    if found.chat_template != wanted.chat_template:
        cause = "the chat template in the bundle is not the source's"
        return GateCheck(name=name, passed=False, found="another chat template", limit=limit, cause=cause)
    return GateCheck(name=name, passed=True, found="the same", limit=limit)


def check_end_tokens(directory: Path, source: ModelSource, recorded: Tokenizer | None) -> GateCheck:
    """Whether beginning and end tokens agree in the source, the bundle's files and its manifest."""
    wanted = source.tokenizer_facts
    name = "end tokens"
    if wanted is None:
        passed = recorded is None
        cause = None if passed else "the manifest names end tokens, but the source has no tokenizer"
        return GateCheck(name=name, passed=passed, found="no tokenizer", limit="as the source", cause=cause)
    limit = _shown(wanted)
    try:
        found = facts_in(directory)
    except InputError as error:
        return GateCheck(name=name, passed=False, found="unreadable", limit=limit, cause=error.message)
    causes = []
    for where, facts in (("the bundle's files", found), ("the manifest", recorded)):
        if facts is None:
            causes.append(f"{where} state none")
        elif facts.eos_ids != wanted.eos_ids:
            causes.append(f"wrong EOS: {where} state {facts.eos_ids}, the source {wanted.eos_ids}")
        elif (facts.bos_id, facts.adds_bos) != (wanted.bos_id, wanted.adds_bos):
            causes.append(f"wrong BOS: {where} state {facts.bos_id}, the source {wanted.bos_id}")
        elif facts != wanted:
            causes.append(f"{where} differ in padding or chat template")
    return GateCheck(
        name=name, passed=not causes, found=_shown(recorded or found), limit=limit, cause="; ".join(causes) or None
    )


def facts_in(directory: Path) -> Tokenizer:
    """The facts that the files in ``directory`` state by themselves.

    Raises:
        InputError: files are missing or damaged.
    """
    values = {}
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        try:
            values[name] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError) as error:
            raise InputError(f"read {path}: {error}") from error
        if not isinstance(values[name], dict):
            raise InputError(f"read {path}: no JSON object")
    config = make_config(values["config.json"], origin=str(directory))
    return TokenizerSource(lambda: load_tokenizer(directory)).facts(config, values["generation_config.json"])


def _shown(facts: Tokenizer) -> str:
    return f"BOS {facts.bos_id}{' (added)' if facts.adds_bos else ''}, EOS {', '.join(map(str, facts.eos_ids))}"
