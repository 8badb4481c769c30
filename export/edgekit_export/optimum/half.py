"""Optimum's side of the pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgekit.errors import UnsupportedError
from edgekit.progress import Progress
from edgekit.schema.bundle import Runtime, RuntimeName
from edgekit.schema.recipe import RecipeProfile
from edgekit_export.fingerprint import versions
from edgekit_export.gate.reference import Reference
from edgekit_export.half import HalfWritten
from edgekit_export.onnx.files import MODEL, WEIGHTS
from edgekit_export.optimum.adapt import adapt
from edgekit_export.optimum.environment import REQUIREMENTS
from edgekit_export.optimum.run import run_optimum
from edgekit_export.sources import ModelSource

#: Why optimum is not asked for programs of ExecuTorch.
EXECUTORCH_REFUSAL = (
    "optimum-executorch 1.1.0 needs transformers 5.0.0rc1 and an older optimum, and its programs' interface is not the "
    "probe's"
)


class OptimumHalf:
    """onnxruntime, exported by optimum: an unfused float32 graph with the logits of every position."""

    name: RuntimeName = "onnxruntime"
    kind = "optimum"
    exporter = ", ".join(REQUIREMENTS[:3]).replace("==", " ")

    def refuse(self, profile: RecipeProfile) -> None:
        """Raise UnsupportedError for every recipe but float32: optimum's quantizers know none of the others."""
        formats = (profile.linear, profile.head, profile.embedding)
        if profile.kv_cache != "float32" or any(form.scheme != "float" or form.dtype != "float32" for form in formats):
            raise UnsupportedError(
                f"optimum does not export recipe {profile.name}: its export is float32, and its quantizers know none "
                "of our recipes",
                hint="--exporter optimum goes with --quant fp32",
            )

    def trace(self, source: ModelSource, context: int, progress: Progress) -> Any:
        """What optimum writes, in a folder that lives as long as this object."""
        self._context = context
        self._folder = tempfile.TemporaryDirectory(prefix="edgekit-optimum-")
        return run_optimum(source, Path(self._folder.name), progress=progress)

    def write(
        self,
        traced: Any,
        source: ModelSource,
        profile: RecipeProfile,
        reference: Reference,
        directory: Path,
        progress: Progress,
    ) -> HalfWritten:
        """The graph in our contract, and its data."""
        adapted = adapt(traced, source.tensors, directory, context=self._context)
        self._folder.cleanup()
        return HalfWritten(
            model=directory / MODEL,
            files={MODEL: "model", WEIGHTS: "weights"},
            runtime=Runtime(
                name=self.name,
                backend="cpu",
                version=versions()["onnxruntime"],
                opsets=adapted.opsets,
                operators=adapted.operators,
                context_length=self._context,
                kv_cache_bytes=adapted.kv_cache_bytes,
                onnx=adapted.interface,
            ),
            bits_per_weight=8 * adapted.weight_bytes / source.architecture.parameters,
        )
