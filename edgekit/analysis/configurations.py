"""The configuration of a model that is named rather than given: a built-in name, ``arch:...``, or a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.analysis.accounting.decoder import Decoder
from edgekit.analysis.accounting.families import decoder_of
from edgekit.errors import InputError, UnsupportedError

#: No configuration file comes near this.
_MAX_CONFIG_BYTES = 4 * 1024 * 1024


def configuration(model: str) -> Mapping[str, Any]:
    """The transformers configuration of a named model.

    Args:
        model: a built-in name, ``arch:NAME[:KEY=N]...``, or a folder with a model's ``config.json``.

    Raises:
        InputError: no such model, or a file that is no configuration.
        UnsupportedError: an option for something that the architecture has not got.
    """
    folder = Path(model)
    if folder.is_dir():
        return _read_config(folder / "config.json")
    if folder.is_file() and folder.suffix == ".json":
        return _read_config(folder)
    if model.startswith("arch:"):
        from edgekit.schema.arch_spec import parse_arch

        return parse_arch(model).config
    from edgekit.schema.model_profile import load_model_profile

    return load_model_profile(model).config


def known_decoder(source: str) -> Decoder | None:
    """The tensors of a model source, None where they are known only after opening it.

    Raises:
        InputError: a broken configuration, or an ``arch:`` source that is none.
    """
    from edgekit.schema.model_profile import model_names

    if not source.startswith("arch:") and source not in model_names() and not (Path(source) / "config.json").is_file():
        return None
    try:
        return decoder_of(configuration(source), origin=source)
    except UnsupportedError:
        return None


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise InputError(f"read {path}: larger than any configuration")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"read {path}: {error.strerror or error}", hint="name a folder with a config.json") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"read {path}: not valid JSON ({error})") from error
    if not isinstance(raw, dict):
        raise InputError(f"read {path}: no JSON object")
    return raw
