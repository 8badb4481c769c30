"""The two runtimes an export can be for: what differs between them, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import MissingToolError, UnsupportedError
from edgekit.progress import Progress
from edgekit.schema import codec
from edgekit.schema.bundle import Runtime, RuntimeName
from edgekit.schema.operators import OPERATOR_MAP, OperatorMap
from edgekit.schema.recipe import RecipeProfile
from edgekit_export.fingerprint import versions
from edgekit_export.gate.reference import Reference
from edgekit_export.half import Half, HalfWritten
from edgekit_export.sources import ModelSource

_INSTALL_EXECUTORCH = "pip install 'edgekit-slm[executorch]'"


class OnnxHalf:
    """onnxruntime on the CPU."""

    name: RuntimeName = "onnxruntime"
    kind = "edgekit"
    exporter = "transformers.exporters"

    def refuse(self, profile: RecipeProfile) -> None:
        """Raise UnsupportedError for a recipe the runtime cannot serve."""
        from edgekit_export.onnx.files import runtime_options

        runtime_options(profile)

    def trace(self, source: ModelSource, context: int, progress: Progress) -> Any:
        """The template of the graph."""
        from edgekit_export.onnx import build_template

        self._context = context
        return build_template(source.config, context_length=context, progress=progress)

    def write(
        self,
        traced: Any,
        source: ModelSource,
        profile: RecipeProfile,
        reference: Reference,
        directory: Path,
        progress: Progress,
    ) -> HalfWritten:
        """The graph and its external data."""
        from edgekit_export.onnx import write_model
        from edgekit_export.onnx.modules import operator_map

        written = write_model(traced, source.tensors, profile, directory, progress, energy=reference.energy)
        labels = operator_map(written.model, traced)
        (directory / OPERATOR_MAP).write_bytes(codec.encode(labels))
        return HalfWritten(
            model=written.model,
            files={written.model.name: "model", written.weights.name: "weights", OPERATOR_MAP: "operators"},
            runtime=Runtime(
                name=self.name,
                backend="cpu",
                version=versions()["onnxruntime"],
                opsets=written.opsets,
                operators=written.operators,
                context_length=self._context,
                kv_cache_bytes=written.kv_cache_bytes,
                onnx=written.interface,
            ),
            bits_per_weight=written.bits_per_weight,
            kept=written.kept,
        )


class ExecutorchHalf:
    """ExecuTorch with XNNPACK."""

    name: RuntimeName = "executorch"
    kind = "edgekit"
    exporter = "edgekit"

    def __init__(self) -> None:
        from importlib.util import find_spec

        if find_spec("executorch") is None:
            raise MissingToolError("export: executorch is not installed", hint=_INSTALL_EXECUTORCH)

    def refuse(self, profile: RecipeProfile) -> None:
        """Raise UnsupportedError for a recipe the runtime cannot serve."""
        from edgekit_export.executorch.formats import formats_of

        formats_of(profile)

    def trace(self, source: ModelSource, context: int, progress: Progress) -> Any:
        """The decoder's operations."""
        from edgekit_export.executorch.decoder import build_decoder

        return build_decoder(source.config, context=context, progress=progress)

    def write(
        self,
        traced: Any,
        source: ModelSource,
        profile: RecipeProfile,
        reference: Reference,
        directory: Path,
        progress: Progress,
    ) -> HalfWritten:
        """The program, one file."""
        from edgekit_export.executorch.audit import audited
        from edgekit_export.executorch.write import write_program

        path = directory / "model.pte"
        written = write_program(
            traced, source.tensors, profile, path, tied=source.tied, energy=reference.energy, progress=progress
        )
        labels = OperatorMap(schema_version=OperatorMap.SCHEMA_VERSION, runtime=self.name, operators=written.labels)
        (directory / OPERATOR_MAP).write_bytes(codec.encode(labels))
        return HalfWritten(
            model=path,
            files={path.name: "model", OPERATOR_MAP: "operators"},
            runtime=Runtime(
                name=self.name,
                backend="xnnpack",
                version=versions()["executorch"],
                opsets={},
                operators=audited(written.operators),
                context_length=traced.context,
                kv_cache_bytes=written.kv_cache_bytes,
                kv_cache=profile.kv_cache,
                planned_bytes=written.planned_bytes,
            ),
            bits_per_weight=written.bits_per_weight,
        )


#: Whose export a bundle holds: our own way, or a second opinion.
EXPORTERS = ("edgekit", "optimum")


def half_for(name: RuntimeName, exporter: str = "edgekit") -> Half:
    """The side of the pipeline for a runtime.

    Args:
        name: of the runtime.
        exporter: one of :data:`EXPORTERS`.

    Raises:
        UnsupportedError: no such runtime or exporter, or the exporter does not serve the runtime.
        MissingToolError: what it needs is not installed.
    """
    if exporter not in EXPORTERS:
        raise UnsupportedError(f"no exporter is called {exporter!r}", hint=f"exporters: {', '.join(EXPORTERS)}")
    if exporter == "optimum":
        from edgekit_export.optimum.half import EXECUTORCH_REFUSAL, OptimumHalf

        if name != "onnxruntime":
            raise UnsupportedError(
                f"--exporter optimum for {name}: {EXECUTORCH_REFUSAL}", hint="use it with --runtime onnxruntime"
            )
        return OptimumHalf()
    if name == "onnxruntime":
        return OnnxHalf()
    if name == "executorch":
        return ExecutorchHalf()
    raise UnsupportedError(f"no runtime is called {name!r}")
