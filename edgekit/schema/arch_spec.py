"""``arch:NAME[:KEY=N]...``: a known architecture, as published or in another shape."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.model_profile import load_model_profile, with_layers

#: No published decoder has more; beyond it the option is a slip of the finger.
MAX_LAYERS = 1000
MAX_SIZE = 1 << 24
FORM = "arch:NAME[:KEY=N]... with the keys layers, hidden, heads, kv_heads, head_dim, ffn, vocab, context, tied, seed"

#: option: the key of a transformers configuration, and the letters that name it in a bundle's name.
_SHAPE = {
    "hidden": ("hidden_size", "h"),
    "heads": ("num_attention_heads", "a"),
    "kv_heads": ("num_key_value_heads", "k"),
    "head_dim": ("head_dim", "d"),
    "ffn": ("intermediate_size", "f"),
    "vocab": ("vocab_size", "v"),
    "context": ("max_position_embeddings", "c"),
    "tied": ("tie_word_embeddings", "tied"),
}


@dataclass(frozen=True)
class ArchSpec:
    """What an ``arch:`` source describes."""

    #: Name for bundles and files; two specifications of one name describe the same model.
    name: str
    config: dict[str, Any]
    seed: int


def parse_arch(spec: str) -> ArchSpec:
    """Read ``arch:NAME[:KEY=N]...``.

    Raises:
        InputError: no such profile, or options that are none.
        UnsupportedError: an option for something that the architecture has not got.
    """
    name, _, rest = spec.removeprefix("arch:").partition(":")
    options = _options(rest, spec)
    config = dict(load_model_profile(name).config)
    suffix = "-random"
    if "layers" in options:
        config = with_layers(config, options["layers"], origin=spec)
        suffix += f"-l{options['layers']}"
    for option, (key, letters) in _SHAPE.items():
        if option not in options:
            continue
        # Every decoder is tied or not, whether its configuration says so or leaves it to the default.
        if key not in config and option != "tied":
            raise UnsupportedError(f"model source {spec!r}: {option} cannot be chosen for {name} (it has no {key})")
        value = options[option]
        config[key] = bool(value) if option == "tied" else value
        suffix += f"-{letters}{value}"
    seed = options.get("seed", 0)
    return ArchSpec(name=f"{name}{suffix}" + (f"-s{seed}" if seed else ""), config=config, seed=seed)


def _options(text: str, spec: str) -> dict[str, int]:
    options: dict[str, int] = {}
    for part in text.split(":") if text else []:
        match = re.fullmatch(r"([a-z_]+)=(\d{1,9})", part)
        if match is None or match[1] in options or match[1] not in {"layers", "seed", *_SHAPE}:
            raise InputError(f"model source {spec!r}: {part!r} is no option", hint=f"the form is {FORM}")
        options[match[1]] = int(match[2])
    for option, value in options.items():
        low, high = {"layers": (1, MAX_LAYERS), "tied": (0, 1), "seed": (0, 10**9)}.get(option, (1, MAX_SIZE))
        if not low <= value <= high:
            raise InputError(f"model source {spec!r}: {option} must be {low} to {high}", hint=f"the form is {FORM}")
    return options
