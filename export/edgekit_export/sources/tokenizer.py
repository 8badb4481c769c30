"""The tokenizer of a source: its object, its files and the facts a bundle records."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from edgekit.errors import InputError
from edgekit.schema.bundle import Tokenizer

#: Files that make up a tokenizer, copied as they are: rewriting them is how they get lost or changed.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
)

#: Any text shows whether a beginning-of-sequence token is put in front.
_ANY_TEXT = "a"


class TokenizerSource:
    """A tokenizer that is built when first asked for.

    Args:
        build: makes the tokenizer.
        directory: where its files lie, for sources that have them.
    """

    def __init__(self, build: Callable[[], PreTrainedTokenizerBase], directory: Path | None = None) -> None:
        self._build = build
        self._directory = directory

    @cached_property
    def object(self) -> PreTrainedTokenizerBase:
        """transformers' tokenizer (errors as the source that built it)."""
        return self._build()

    def facts(self, config: PretrainedConfig, generation: dict[str, Any]) -> Tokenizer:
        """What a caller must know.

        Tokens that end an answer are stated in up to three places, which rarely agree: an instruction-tuned
        model ends its turns with a token that only ``generation_config.json`` or the tokenizer names.
        All of them end an answer.
        """
        tokenizer = self.object
        stated = (generation.get("eos_token_id"), tokenizer.eos_token_id, getattr(config, "eos_token_id", None))
        eos: list[int] = []
        for value in stated:
            for token in value if isinstance(value, list) else [value]:
                if isinstance(token, int) and token not in eos:
                    eos.append(token)
        bos = _first_known(
            tokenizer.bos_token_id, generation.get("bos_token_id"), getattr(config, "bos_token_id", None)
        )
        ids = tokenizer(_ANY_TEXT)["input_ids"]
        return Tokenizer(
            bos_id=bos,
            eos_ids=eos,
            pad_id=_first_known(tokenizer.pad_token_id, generation.get("pad_token_id")),
            adds_bos=bool(ids) and bos is not None and ids[0] == bos,
            has_chat_template=bool(tokenizer.chat_template),
        )

    def save(self, directory: Path) -> list[str]:
        """Write the tokenizer's files; ``load_tokenizer(directory)`` gives the same tokenizer back."""
        if self._directory is not None and (self._directory / "tokenizer.json").is_file():
            names = [name for name in TOKENIZER_FILES if (self._directory / name).is_file()]
            for name in names:
                shutil.copyfile(self._directory / name, directory / name)
            return names
        before = {path.name for path in directory.iterdir()}
        self.object.save_pretrained(str(directory))
        names = sorted(path.name for path in directory.iterdir() if path.name not in before)
        for name in set(names) - set(TOKENIZER_FILES):
            # save_pretrained copies whatever the tokenizer was built from, a whole GGUF for instance.
            (directory / name).unlink()
        return [name for name in names if name in TOKENIZER_FILES]


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer whose files lie in ``directory``.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        return AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    # tokenizers raises bare Exception for a damaged tokenizer.json.
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise InputError(
            f"read the tokenizer from {directory}: {type(error).__name__}: {lines[0] if lines else 'no message'}",
            hint="the tokenizer's files are incomplete or damaged; fetch the model again",
        ) from error


def has_tokenizer(directory: Path) -> bool:
    """Whether ``directory`` holds a tokenizer's vocabulary."""
    return any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def _first_known(*values: Any) -> int | None:
    return next((value for value in values if isinstance(value, int)), None)
