"""The weights that every side runs: the GGUF of the built-in small model."""

from __future__ import annotations

from pathlib import Path

from benchmarks.ours import SOURCE
from edgekit.errors import InputError
from edgekit.schema.model_profile import load_model_profile
from edgekit_export.sources.packaged import packaged_gguf


def gguf() -> Path:
    """The model's file, from the cache or its package."""
    weights = load_model_profile(SOURCE).weights
    if weights is None:
        raise InputError(f"benchmark {SOURCE}: its profile names no packaged weights")
    return packaged_gguf(weights)
