"""A GGUF file: header, weights and configuration.

transformers' own ``gguf_file=`` path reads the metadata several times, element by element, which
takes longer than everything else in an export; its newer reader and dequantizers are fast and are
what is used here. What that path drops (RoPE scaling) is read as well.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.integrations.gguf.dequant import GGML_BLOCK, GGML_NAME, dequantize
from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.bundle import Source
from edgekit.schema.integrity import sha256_file
from edgekit_export.sources.architecture import Skeleton, describe, make_config
from edgekit_export.sources.gguf_rope import rope_settings
from edgekit_export.sources.gguf_tokenizer import build_tokenizer, has_vocabulary
from edgekit_export.sources.source import ModelSource, short_name
from edgekit_export.sources.tensors import TensorStore
from edgekit_export.sources.tokenizer import TokenizerSource

#: Architectures whose tensors are those of transformers under other names; ``llama`` also permutes
#: the rows of its query and key projections.
ARCHITECTURES = ("llama", "qwen2", "qwen3")

_STRING_ARRAYS = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
_FLOAT_TYPES = {0: "F32", 1: "F16", 30: "BF16"}
_TORCH_TYPES = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
#: What a damaged header makes the reader raise.
_DAMAGE = (ValueError, struct.error, IndexError, KeyError, TypeError, OverflowError, MemoryError, ZeroDivisionError)


def open_gguf(
    path: Path, *, name: str | None = None, shown: str | None = None, sha256: str | None = None
) -> ModelSource:
    """The model in a GGUF file (arguments and errors as :func:`open_directory`).

    ``sha256`` is the file's, where the caller has just computed it.
    """
    origin = shown or str(path)
    metadata, header = read_header(path, origin=origin)
    architecture = metadata["general.architecture"]
    if architecture not in ARCHITECTURES:
        raise UnsupportedError(
            f"{origin}: GGUF files of architecture {architecture!r} cannot be read",
            hint=f"GGUF architectures: {', '.join(ARCHITECTURES)}; or start from the model's safetensors",
        )
    config = make_config(config_values(metadata, header, origin=origin), origin=origin)
    skeleton = Skeleton(config, origin=origin)
    types = [info.ggml_type for info in header.tensors if len(info.shape) > 1]
    common = max(set(types), key=types.count)
    stored = GGML_NAME.get(common, _FLOAT_TYPES.get(common, str(common)))
    licence = metadata.get("general.license")
    tokenizer = TokenizerSource(lambda: build_tokenizer(metadata, origin=origin)) if has_vocabulary(metadata) else None
    return ModelSource(
        name=name or short_name(path.stem),
        identity=Source(
            kind="gguf",
            name=origin,
            sha256=sha256 or sha256_file(path),
            license=licence if isinstance(licence, str) else None,
            weights_were=stored.upper() if common in GGML_BLOCK else None,
        ),
        config=config,
        skeleton=skeleton,
        architecture=describe(config, skeleton),
        tensors=_tensors(path, header, architecture, config, skeleton, origin=origin),
        tokenizer=tokenizer,
        generation=_generation(metadata),
    )


def read_header(path: Path, *, origin: str) -> tuple[dict[str, Any], GgufHeader]:
    """Metadata and tensor table of a GGUF file, checked against the file's size.

    Raises:
        InputError: no GGUF, a damaged header, or a file that was cut short.
        UnsupportedError: weights in a type that cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise InputError(
            f"read {origin}: {error.strerror or error}", hint="check the path and its permissions"
        ) from error
    if magic != b"GGUF":
        found = f"it begins with {magic!r}" if magic else "it is empty"
        raise InputError(f"read {origin}: not a GGUF file ({found})", hint="name a .gguf file or a model's directory")
    try:
        metadata, _ = read_gguf_metadata(str(path), _STRING_ARRAYS)
    except _DAMAGE as error:
        raise _damaged(origin, error) from error
    if not isinstance(metadata.get("general.architecture"), str):
        raise InputError(f"read {origin}: the GGUF header names no architecture", hint="fetch the file again")
    try:
        header = GgufHeader.from_file(str(path))
    except ValueError as error:
        if "not supported yet" in str(error):
            raise UnsupportedError(
                f"{origin}: {str(error).split('which is')[0].strip().split(' holds ')[-1]}, which cannot be read",
                hint="use a file in Q4_0, Q4_1, Q8_0, a K-quant, F16 or BF16",
            ) from error
        raise _damaged(origin, error) from error
    except _DAMAGE as error:
        raise _damaged(origin, error) from error
    if not header.tensors:
        raise InputError(f"read {origin}: the GGUF file holds no weights", hint="fetch the file again")
    end = max(header.data_start + info.offset + info.nbytes for info in header.tensors)
    if end > size:
        raise InputError(
            f"read {origin}: cut short: {size} bytes, but its header speaks of {end}",
            hint="fetch the file again",
        )
    return metadata, header


def config_values(metadata: dict[str, Any], header: GgufHeader, *, origin: str) -> dict[str, Any]:
    """The configuration a GGUF states, in transformers' words (errors as :func:`read_header`)."""
    architecture = metadata["general.architecture"]
    values: dict[str, Any] = {"model_type": architecture}
    for key, renamed in GGUF_CONFIG_MAPPING[architecture].items():
        value = metadata.get(f"{architecture}.{key}")
        if value is not None and isinstance(renamed, str):
            values[renamed] = _exact(value)
    if (length := metadata.get(f"{architecture}.attention.key_length")) is not None:
        values["head_dim"] = length
    needed = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "max_position_embeddings")
    absent = [key for key in needed if not isinstance(values.get(key), int) or values[key] < 1]
    if absent:
        raise InputError(f"read {origin}: the GGUF header does not state {', '.join(absent)}")
    values.setdefault("num_key_value_heads", values["num_attention_heads"])
    window = metadata.get(f"{architecture}.attention.sliding_window")
    if isinstance(window, int) and 0 < window < values["max_position_embeddings"]:
        raise UnsupportedError(f"{origin}: a sliding attention window cannot be read from a GGUF file")
    names = {info.name: info for info in header.tensors}
    values["tie_word_embeddings"] = "output.weight" not in names
    if architecture == "llama":
        values["attention_bias"] = "blk.0.attn_q.bias" in names
        values["mlp_bias"] = "blk.0.ffn_up.bias" in names
    if "token_embd.weight" in names:
        values["vocab_size"] = names["token_embd.weight"].shape[0]
    values.pop("rope_theta", None)
    values["rope_parameters"] = rope_settings(metadata, header, values, origin=origin)
    for token in ("bos", "eos"):
        values[f"{token}_token_id"] = metadata.get(f"tokenizer.ggml.{token}_token_id")
    return values


def _tensors(
    path: Path, header: GgufHeader, architecture: str, config: PretrainedConfig, skeleton: Skeleton, *, origin: str
) -> TensorStore:
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    infos = {info.name: info for info in header.tensors}
    arch = next(key for key, value in MODEL_ARCH_NAMES.items() if value == architecture)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    place: dict[str, str] = {}
    for wanted in skeleton.shapes:
        stem, _, suffix = wanted.rpartition(".")
        stored = names.get_name(stem)
        if stored is not None and f"{stored}.{suffix}" in infos:
            place[wanted] = f"{stored}.{suffix}"
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}

    def read(name: str) -> torch.Tensor:
        info = infos[place[name]]
        try:
            raw = torch.from_numpy(np.fromfile(path, np.uint8, info.nbytes, offset=header.data_start + info.offset))
            values = (
                raw.view(_TORCH_TYPES[info.ggml_type])
                if info.ggml_type in _FLOAT_TYPES
                else dequantize(raw, info.ggml_type)
            )
            values = values.to(torch.float32).reshape(info.shape)
        except (*_DAMAGE, RuntimeError, OSError) as error:
            raise InputError(f"read {info.name} from {origin}: {error}") from error
        part = info.name.split(".")[2] if info.name.startswith("blk.") else ""
        if architecture == "llama" and part in heads:
            return _unpermuted(values, heads[part])
        return values

    return TensorStore({name: tuple(infos[stored].shape) for name, stored in place.items()}, read)


def _unpermuted(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo llama.cpp's order of a head's rows (pairs side by side) in favour of transformers' (halves)."""
    rows = values.shape[0] // heads // 2
    return values.reshape(heads, rows, 2, *values.shape[1:]).transpose(1, 2).reshape(values.shape)


def _generation(metadata: dict[str, Any]) -> dict[str, Any]:
    """What stands for ``generation_config.json``: the file's own end tokens, end of turn included."""
    found = [metadata.get(f"tokenizer.ggml.{token}_token_id") for token in ("eos", "eot")]
    ends = list(dict.fromkeys(token for token in found if isinstance(token, int)))
    values: dict[str, Any] = {}
    if ends:
        values["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    for ours, theirs in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        if isinstance(token := metadata.get(f"tokenizer.ggml.{theirs}_token_id"), int):
            values[ours] = token
    return values


def _exact(value: Any) -> Any:
    """A float that was stored in 32 bits, as the decimal number it was written for (1e-05, not 9.99…e-06)."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _damaged(origin: str, error: BaseException) -> InputError:
    return InputError(
        f"read {origin}: the GGUF header is damaged ({type(error).__name__}: {error})", hint="fetch the file again"
    )
