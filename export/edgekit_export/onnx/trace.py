"""Tracing the shallow model through transformers' own exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter
from transformers.exporters.utils import decompose_for_generation

from edgekit.errors import UnsupportedError
from edgekit_export.onnx.attention import observed_caps, own_forwards
from edgekit_export.onnx.graph import Array, Graph, from_ir
from edgekit_export.onnx.provenance import name_weights
from edgekit_export.onnx.shallow import TracePlan, build_model

#: Small enough that activations stay finite through any number of layers, large enough to be unique in float32.
_WEIGHT_SPREAD = 0.05
_PROMPT_TOKENS = 8


class Traced(NamedTuple):
    """The fused decode graph with its weights named, the values they were traced with, per layer
    (kv_heads, head_dim) of its cache, and by layer the cap of its attention's scores."""

    graph: Graph
    values: dict[str, Array]
    cache: list[tuple[int, int]]
    caps: dict[int, float]


def trace(plan: TracePlan) -> Traced:
    """The fused decode graph of the plan's shallow model.

    Raises:
        UnsupportedError: the exporter cannot trace this architecture.
    """
    model = build_model(plan.config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * _WEIGHT_SPREAD)
    tokens = torch.arange(3, 3 + _PROMPT_TOKENS)[None]
    with _quiet(), torch.no_grad(), own_forwards(), observed_caps() as caps:
        try:
            # "decode" with several tokens serves prefill, continuation and single steps alike.
            part, sample = decompose_for_generation(
                model, {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, multi_token_decode=True
            )["decode"]
            cache = _cache_shapes(sample["past_key_values"].layers)
            program, _ = OnnxExporter().export_program(part, sample, OnnxConfig(dynamic=True, ort_fusions="cpu"))
            graph = from_ir(program)
        except UnsupportedError:
            raise
        # torch.export and onnxscript raise whatever the model's code provokes.
        except Exception as error:
            raise UnsupportedError(
                f"trace a {plan.config.model_type!r} model: {type(error).__name__}: {error}".splitlines()[0],
                hint="the architecture cannot be exported to ONNX with these versions",
            ) from error
    # A tied matrix counts once here, under its first name.
    constants = dict(graph.constants)
    name_weights(graph, {name: parameter.detach().numpy() for name, parameter in model.named_parameters()})
    return Traced(graph, {name: constants[name] for name in graph.weights}, cache, dict(caps))


def _cache_shapes(layers: list[Any]) -> list[tuple[int, int]]:
    """Per layer (kv_heads, head_dim).

    Raises:
        UnsupportedError: a layer that keeps something else than keys and values of one width.
    """
    shapes = []
    for index, layer in enumerate(layers):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None:
            raise UnsupportedError(
                f"layer {index} keeps another state than keys and values (a convolution's or a recurrence's), for "
                "which a bundle's interface has no place",
                hint="models with attention in every layer are served",
            )
        if keys.shape[3] != values.shape[3]:
            raise UnsupportedError(
                f"layer {index} has keys of width {keys.shape[3]} and values of width {values.shape[3]}: "
                "onnxruntime's GroupQueryAttention takes one width for both",
                hint="multi-head latent attention is not served by onnxruntime",
            )
        shapes.append((keys.shape[1], keys.shape[3]))
    return shapes


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' chatter from the terminal: their errors are raised, not logged."""
    loggers = [
        logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "transformers", "onnxscript")
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        silenced = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(silenced), contextlib.redirect_stderr(silenced):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
