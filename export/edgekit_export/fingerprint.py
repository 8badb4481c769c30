"""When is an export the same as one that was made before?"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from edgekit.schema.recipe import RecipeProfile
from edgekit_export.sources import ModelSource

#: Packages whose version can change what is exported or how it is judged.
PACKAGES = (
    "edgekit-slm",
    "torch",
    "transformers",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "numpy",
    "tokenizers",
)


def versions() -> dict[str, str]:
    """Versions of everything that takes part in an export."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def fingerprint(source: ModelSource, recipe: RecipeProfile, *, runtime: str, context_length: int) -> str:
    """SHA-256 over everything an export is made from: source, recipe, context, versions and this code."""
    tokenizer = source.tokenizer_facts
    parts = {
        "source": [source.identity.sha256, source.name, source.generation],
        "config": source.config.to_dict(),
        "tokenizer": None if tokenizer is None else msgspec.to_builtins(tokenizer),
        "vocabulary": source.tokenizer_digest(),
        "recipe": msgspec.to_builtins(recipe),
        "runtime": runtime,
        "context": context_length,
        "versions": versions(),
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def code_digest() -> str:
    """SHA-256 over the export package itself: in a checkout its version says little."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
