"""RoPE settings of a GGUF file.

llama.cpp states scaling as metadata, except that of Llama 3: there it stores the finished factors, one
per frequency, as a tensor. The settings that produce them are recovered, and the factors compared.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from transformers.integrations.gguf.reader import GgufHeader, load_gguf_state_dict

from edgekit.errors import InputError, UnsupportedError

#: llama.cpp's base where a file states none.
DEFAULT_THETA = 10000.0

FACTORS = "rope_freqs.weight"
#: Llama 3 was published with these alone; ``factor`` is the largest stored factor.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope_settings(
    metadata: dict[str, Any], header: GgufHeader, values: dict[str, Any], *, origin: str
) -> dict[str, Any]:
    """The file's RoPE as transformers' ``rope_parameters``.

    Args:
        metadata: of the GGUF.
        header: of the GGUF.
        values: configuration so far, with ``head_dim`` or what it follows from.
        origin: for messages.

    Raises:
        UnsupportedError: a kind of scaling that cannot be carried over exactly.
    """
    prefix = f"{metadata['general.architecture']}.rope"
    theta = float(str(np.float32(metadata.get(f"{prefix}.freq_base", DEFAULT_THETA))))
    head_dim = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    rotary = metadata.get(f"{prefix}.dimension_count", head_dim)
    settings: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if rotary != head_dim:
        settings["partial_rotary_factor"] = rotary / head_dim
    kind = metadata.get(f"{prefix}.scaling.type", "none")
    factor = metadata.get(f"{prefix}.scaling.factor", metadata.get(f"{prefix}.scale_linear"))
    original = metadata.get(f"{prefix}.scaling.original_context_length")
    if kind == "linear" or (kind == "none" and factor not in (None, 0, 1)):
        settings |= {"rope_type": "linear", "factor": float(factor or 1.0)}
    elif kind == "yarn":
        if not factor or not original:
            raise InputError(f"read {origin}: YaRN scaling without its factor or its original context")
        settings |= {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": int(original)}
    elif kind != "none":
        raise UnsupportedError(f"{origin}: RoPE scaling of kind {kind!r} cannot be read from a GGUF file")
    if any(info.name == FACTORS for info in header.tensors):
        stored = load_gguf_state_dict(header)[FACTORS][...].float().numpy()
        settings |= _llama3(stored, theta, rotary, origin=origin)
    return settings


def llama3_factors(theta: float, rotary: int, settings: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """By how much Llama 3's scaling divides each frequency, ``[rotary / 2]``."""
    wavelength = 2 * math.pi * theta ** (np.arange(0, rotary, 2, dtype=np.float64) / rotary)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    original, factor = settings["original_max_position_embeddings"], settings["factor"]
    smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    result: np.ndarray[Any, np.dtype[np.float64]] = 1.0 / ((1 - smooth) / factor + smooth)
    return result


def _llama3(stored: np.ndarray[Any, np.dtype[np.float32]], theta: float, rotary: int, *, origin: str) -> dict[str, Any]:
    if np.all(stored == 1.0):
        return {}
    settings = {"rope_type": "llama3", "factor": float(stored.max()), **_LLAMA3}
    if stored.shape != (rotary // 2,) or not np.allclose(stored, llama3_factors(theta, rotary, settings), rtol=1e-3):
        raise UnsupportedError(
            f"{origin}: its RoPE frequency factors are not those of Llama 3, the only ones that can be carried over",
            hint="start from the model's safetensors",
        )
    return settings
