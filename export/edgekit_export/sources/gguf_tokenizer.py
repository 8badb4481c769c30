"""The tokenizer inside a GGUF file.

How text is split before merges apply is not in the file, only that scheme's name. transformers knows
some names and silently takes GPT-2's splitting for the others, which changes how digits are cut; names
that neither it nor this module knows are therefore refused.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
    GGUF_TOKENIZER_MAPPING,
    convert_gguf_tokenizer,
)

from edgekit.errors import InputError, UnsupportedError

#: Digits one by one, then GPT-2's splitting: what llama.cpp does for each of these names.
_SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
#: GPT-2's own splitting.
_GPT2 = frozenset({"gpt-2", "gpt2", "default", "phi-2", "mpt", "olmo", "jais"})

_SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def has_vocabulary(metadata: dict[str, Any]) -> bool:
    """Whether the file carries a tokenizer."""
    return isinstance(metadata.get("tokenizer.ggml.tokens"), list)


def build_tokenizer(metadata: dict[str, Any], *, origin: str) -> PreTrainedTokenizerFast:
    """The tokenizer that the file's metadata describes, chat template included.

    Raises:
        InputError: contradictory metadata.
        UnsupportedError: a kind of tokenizer whose behaviour cannot be reproduced.
    """
    renames = GGUF_TOKENIZER_MAPPING["tokenizer"]
    parts = {new: metadata[f"tokenizer.{key}"] for key, new in renames.items() if f"tokenizer.{key}" in metadata}
    kind, pre = parts.get("tokenizer_type"), parts.get("pre_tokenizer_type", "default")
    if kind not in ("gpt2", "llama"):
        raise UnsupportedError(f"{origin}: GGUF tokenizers of kind {kind!r} cannot be read")
    if kind == "gpt2" and pre not in _SINGLE_DIGITS | _GPT2 | GGUF_PRE_TOKENIZER_SPLITS.keys():
        raise UnsupportedError(
            f"{origin}: how its tokenizer splits text ({pre!r}) is not known here",
            hint="start from the model's safetensors, which bring a tokenizer.json",
        )
    tokens = parts["tokens"]
    special: dict[str, Any] = {}
    for name, key in _SPECIAL_TOKENS.items():
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            if not isinstance(index, int) or not 0 <= index < len(tokens):
                raise InputError(f"read the tokenizer from {origin}: {name} {index} is not in its vocabulary")
            special[name] = tokens[index]
    try:
        backend, extra = convert_gguf_tokenizer(metadata["general.architecture"], parts)
    # tokenizers raises bare Exception for a vocabulary and merges that do not fit together.
    except Exception as error:
        raise InputError(f"read the tokenizer from {origin}: {type(error).__name__}: {error}") from error
    if kind == "gpt2" and pre in _SINGLE_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    # Older sentencepiece files have no flag, and llama.cpp then puts BOS in front.
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", kind == "llama")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=metadata.get("tokenizer.chat_template"),
        add_bos_token=bool(add_bos),
        add_eos_token=bool(metadata.get("tokenizer.ggml.add_eos_token", False)),
        clean_up_tokenization_spaces=False,
        **special,
        **extra,
    )
