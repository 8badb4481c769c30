"""A local directory as models are published: config.json, safetensors, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.bundle import Source, SourceKind
from edgekit_export.sources.architecture import Skeleton, describe, make_config
from edgekit_export.sources.published_names import under_own_names
from edgekit_export.sources.source import ModelSource, short_name
from edgekit_export.sources.tensors import open_safetensors, sha256_of_files
from edgekit_export.sources.tokenizer import TokenizerSource, has_tokenizer, load_tokenizer

INDEX = "model.safetensors.index.json"

#: Weights in formats that run code when read, or that belong to other frameworks.
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.ckpt")


def open_directory(
    directory: Path,
    *,
    kind: SourceKind = "directory",
    name: str | None = None,
    shown: str | None = None,
    revision: str | None = None,
) -> ModelSource:
    """The model in ``directory``.

    Args:
        directory: holds ``config.json`` and the safetensors files.
        kind: how the bundle records the source.
        name: short name; by default the directory's.
        shown: the source as the user named it.
        revision: exact revision the files have, where there is one.

    Raises:
        InputError: files are missing, cut short or damaged.
        UnsupportedError: not a decoder-only language model, or weights in no safetensors files.
    """
    origin = shown or str(directory)
    raw = read_json(directory / "config.json", origin=origin)
    config = make_config(raw, origin=origin)
    files = weight_files(directory, origin=origin)
    skeleton = Skeleton(config, origin=origin)
    generation = directory / "generation_config.json"
    tokenizer = TokenizerSource(lambda: load_tokenizer(directory), directory) if has_tokenizer(directory) else None
    tensors = under_own_names(open_safetensors(files), config, skeleton)
    licenses = sorted(path for path in directory.glob("LICENSE*") if path.is_file())
    return ModelSource(
        name=name or short_name(directory.resolve().name),
        identity=Source(
            kind=kind,
            name=origin,
            sha256=sha256_of_files(files),
            revision=revision,
            license=_license(directory),
        ),
        config=config,
        skeleton=skeleton,
        architecture=describe(config, skeleton),
        tensors=tensors,
        tokenizer=tokenizer,
        generation=read_json(generation, origin=origin) if generation.is_file() else {},
        license_files=licenses,
    )


def weight_files(directory: Path, *, origin: str) -> list[Path]:
    """The safetensors files of the model, in the order its index or its folder gives.

    Raises:
        InputError: none, or one that the index lists is missing.
        UnsupportedError: weights in other formats only.
    """
    if (directory / INDEX).is_file():
        index = read_json(directory / INDEX, origin=origin).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(value, str) for value in index.values()):
            raise InputError(f"{origin}: {INDEX} holds no weight_map", hint="fetch the model again")
        names = sorted(set(index.values()))
        strange = [name for name in names if Path(name).name != name]
        missing = [name for name in names if not (directory / name).is_file()]
        if strange or missing:
            raise InputError(
                f"{origin}: {INDEX} lists {', '.join((strange or missing)[:3])}, which is not in the folder",
                hint="the download is incomplete; fetch the model again",
            )
        return [directory / name for name in names]
    if (directory / "model.safetensors").is_file():
        return [directory / "model.safetensors"]
    found = sorted(directory.glob("*.safetensors"))
    if found:
        return found
    if any(next(directory.glob(pattern), None) for pattern in _OTHER_WEIGHTS):
        raise UnsupportedError(
            f"{origin}: holds weights, but not as safetensors",
            hint="convert them: load with transformers, then save_pretrained writes safetensors",
        )
    raise InputError(f"{origin}: no weights (*.safetensors)", hint="the download is incomplete; fetch the model again")


def read_json(path: Path, *, origin: str) -> dict[str, Any]:
    """A JSON object from a file (InputError when it is missing or is none)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{origin}: no {path.name}", hint="a model directory needs the config.json it was published with"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{origin}: {path.name} cannot be read: {error}", hint="fetch the model again") from error
    if not isinstance(value, dict):
        raise InputError(f"{origin}: {path.name} is no JSON object", hint="fetch the model again")
    return value


def _license(directory: Path) -> str | None:
    """The licence a model card states in its header."""
    card = directory / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()[:200]
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            return None
        if line.startswith("license:"):
            return line.removeprefix("license:").strip() or None
    return None
