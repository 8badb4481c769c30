"""The template: the decoder's graph without weights, good for any recipe and any weights of its shape."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from transformers import PretrainedConfig

from edgekit.errors import HostStorageError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.resources import cache_dir
from edgekit_export.onnx.graph import Array, Graph, Node, Weight
from edgekit_export.onnx.interface import COMPUTED, clean
from edgekit_export.onnx.provenance import unexplained
from edgekit_export.onnx.replicate import CannotReplicateError, replicate
from edgekit_export.onnx.shallow import TRACE_VOCABULARY, TracePlan, plan_trace
from edgekit_export.onnx.simplify import simplify

#: What a template depends on besides the configuration.
_PACKAGES = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


class OnnxTemplate(msgspec.Struct, kw_only=True, frozen=True):
    """A decoder graph with placeholders for its weights (see :mod:`edgekit_export.onnx.graph`).

    ``cache`` holds, per layer, (kv_heads, head_dim). ``notes`` says how the template came about.
    """

    key: str
    context_length: int
    vocabulary: int
    prefix: str
    cache: list[tuple[int, int]]
    notes: list[str]
    graph: Graph


def build_template(
    config: PretrainedConfig, *, context_length: int, progress: Progress = silent, cache: Path | None = None
) -> OnnxTemplate:
    """The template of an architecture, traced or taken from the cache.

    Args:
        config: the source's configuration; weights are not needed.
        context_length: tokens that the KV cache will hold.
        progress: told about each stage.
        cache: folder for finished templates, by default in the user's cache.

    Raises:
        UnsupportedError: the architecture cannot be exported, or computes something the
            fused graph would not reproduce; the message names it.
    """
    longest = getattr(config, "max_position_embeddings", None) or context_length
    if not 1 <= context_length <= longest:
        raise UnsupportedError(
            f"export with a context of {context_length} tokens: the model was made for {longest}",
            hint="ask for a shorter context",
        )
    config = _with_fixed_rope(config, context_length)
    key = template_key(config, context_length)
    path = (cache or cache_dir() / "onnx-templates") / f"{key}.zip"
    cached = _load(path)
    if cached is not None:
        progress(ProgressEvent("template", 1, 1, "", "from the cache"))
        return cached
    template = _build(config, context_length, key, progress)
    _store(template, path)
    return template


def _with_fixed_rope(config: PretrainedConfig, context_length: int) -> PretrainedConfig:
    """``config``, its rotary frequencies the same for every text that fits into the context.

    Raises:
        UnsupportedError: they follow the length of the text, so that no table of positions can hold them.
    """
    scaling = getattr(config, "rope_parameters", None) or {}
    kind = scaling.get("rope_type", "default")
    if kind == "dynamic":
        raise UnsupportedError(
            "export a model with dynamic RoPE scaling: its rotary embedding changes with the length of the text",
            hint="models whose RoPE scaling is fixed (none, linear, yarn, llama3) are served",
        )
    if kind != "longrope":
        return config
    original = getattr(config, "original_max_position_embeddings", None) or scaling["original_max_position_embeddings"]
    if context_length > original:
        raise UnsupportedError(
            f"export a model with longrope RoPE scaling and a context of {context_length} tokens: beyond {original} "
            "tokens the rotary embedding of all positions changes",
            hint=f"ask for a context of at most {original} tokens (--context)",
        )
    # Up to that length only the short factors count.
    fixed = copy.deepcopy(config)
    fixed.rope_parameters = {**scaling, "long_factor": scaling["short_factor"]}
    return fixed


def template_key(config: PretrainedConfig, context_length: int) -> str:
    """Hash over everything a template depends on: configuration, context, tools, and this code."""
    settings = {
        name: value
        for name, value in config.to_dict().items()
        if name not in ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
    }
    digest = hashlib.sha256()
    digest.update(json.dumps([settings, context_length], sort_keys=True, default=str).encode())
    digest.update(json.dumps([version(package) for package in _PACKAGES]).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _build(config: PretrainedConfig, context_length: int, key: str, progress: Progress) -> OnnxTemplate:
    notes = []
    plan = plan_trace(config)
    try:
        graph, cache = _assemble(plan, context_length, progress)
        notes.append(f"traced {len(plan.layers)} of {len(plan.kinds)} layers ({len(set(plan.kinds))} kinds)")
    except CannotReplicateError as reason:
        notes.append(f"traced every layer: {reason}")
        plan = plan_trace(config, every_layer=True)
        graph, cache = _assemble(plan, context_length, progress)
    progress(ProgressEvent("template", 1, 1, "", notes[-1]))
    return OnnxTemplate(
        key=key,
        context_length=context_length,
        vocabulary=config.vocab_size,
        prefix=plan.prefix,
        cache=cache,
        notes=notes,
        graph=graph,
    )


def _assemble(plan: TracePlan, context_length: int, progress: Progress) -> tuple[Graph, list[tuple[int, int]]]:
    from edgekit_export.onnx.trace import trace

    progress(ProgressEvent("trace", 0, 1, "", f"{len(plan.layers)} of {len(plan.kinds)} layers"))
    traced = trace(plan)
    progress(ProgressEvent("trace", 1, 1))
    graph = clean(traced, context_length)
    hidden = [name for name in unexplained(graph) if not name.startswith(COMPUTED)]
    if hidden:
        raise UnsupportedError(
            f"trace the weights to their parameters: {', '.join(hidden[:5])} came out of the exporter "
            "as something not recognised",
            hint="the architecture computes with its weights in a way that is not served",
        )
    if any(
        np.issubdtype(value.dtype, np.integer) and TRACE_VOCABULARY in value
        for name, value in graph.constants.items()
        if not name.startswith(COMPUTED)
    ):
        raise UnsupportedError("the traced graph computes with the size of the vocabulary")
    simplify(graph)
    full = replicate(graph, plan)
    by_kind = {plan.kinds[layer]: shape for layer, shape in zip(plan.layers, traced.cache, strict=True)}
    return full, [by_kind[kind] for kind in plan.kinds]


class _Stored(msgspec.Struct, kw_only=True):
    """A template on disk, its constants beside it as ``.npy`` files."""

    key: str
    context_length: int
    vocabulary: int
    prefix: str
    cache: list[tuple[int, int]]
    notes: list[str]
    nodes: list[Node]
    inputs: list[str]
    outputs: list[str]
    weights: dict[str, Weight]
    constants: list[str]


def _store(template: OnnxTemplate, path: Path) -> None:
    graph = template.graph
    names = sorted(graph.constants)
    stored = _Stored(
        key=template.key,
        context_length=template.context_length,
        vocabulary=template.vocabulary,
        prefix=template.prefix,
        cache=template.cache,
        notes=template.notes,
        nodes=graph.nodes,
        inputs=graph.inputs,
        outputs=graph.outputs,
        weights=graph.weights,
        constants=names,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as handle:
            try:
                with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
                    archive.writestr("template.json", msgspec.json.encode(stored))
                    for index, name in enumerate(names):
                        buffer = io.BytesIO()
                        np.save(buffer, graph.constants[name], allow_pickle=False)
                        archive.writestr(f"{index}.npy", buffer.getvalue())
            except BaseException:
                handle.close()
                Path(handle.name).unlink(missing_ok=True)
                raise
        os.replace(handle.name, path)  # noqa: PTH105 - replaces an existing file on Windows too
    except OSError as error:
        raise HostStorageError(f"store the traced graph in {path}: {error.strerror}", hint="free disk space") from error


def _load(path: Path) -> OnnxTemplate | None:
    """The stored template; None if there is none or the file is damaged, for it can be made again."""
    try:
        with zipfile.ZipFile(path) as archive:
            stored = msgspec.json.decode(archive.read("template.json"), type=_Stored)
            constants: dict[str, Array] = {
                name: _array(archive.read(f"{index}.npy")) for index, name in enumerate(stored.constants)
            }
    except (OSError, zipfile.BadZipFile, msgspec.MsgspecError, KeyError, ValueError):
        return None
    return OnnxTemplate(
        key=stored.key,
        context_length=stored.context_length,
        vocabulary=stored.vocabulary,
        prefix=stored.prefix,
        cache=stored.cache,
        notes=stored.notes,
        graph=Graph(
            nodes=stored.nodes,
            inputs=stored.inputs,
            outputs=stored.outputs,
            constants=constants,
            weights=stored.weights,
        ),
    )


def _array(data: bytes) -> Any:
    return np.load(io.BytesIO(data), allow_pickle=False)
