"""What a runtime's side of the pipeline does, whoever's export it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import msgspec

from edgekit.progress import Progress
from edgekit.schema.bundle import FileRole, OnnxInterface, Runtime, RuntimeName
from edgekit.schema.recipe import RecipeProfile
from edgekit_export.gate.reference import Reference
from edgekit_export.sources import ModelSource


class HalfWritten(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe's model as files in the bundle's folder.

    Attributes:
        model: what the runtime opens.
        files: role by file name.
        runtime: as the bundle records it.
        bits_per_weight: over the source's unique parameters.
        kept: layers kept in another format, where the recipe mixes.
    """

    model: Path
    files: dict[str, FileRole]
    runtime: Runtime
    bits_per_weight: float
    kept: list[str] = msgspec.field(default_factory=list)

    @property
    def interface(self) -> OnnxInterface | None:
        """How a graph is fed; None for a program that describes itself."""
        return self.runtime.onnx


class Half(Protocol):
    """One runtime's side of the pipeline. ``trace`` is done once for all recipes."""

    name: RuntimeName
    #: Whose it is, one of :data:`~edgekit_export.halves.EXPORTERS`, and what exactly traces the model.
    kind: str
    exporter: str

    def refuse(self, profile: RecipeProfile) -> None:
        """Raise UnsupportedError for a recipe the runtime cannot serve, whatever the model."""

    def trace(self, source: ModelSource, context: int, progress: Progress) -> Any:
        """The decoder without weights."""

    def write(
        self,
        traced: Any,
        source: ModelSource,
        profile: RecipeProfile,
        reference: Reference,
        directory: Path,
        progress: Progress,
    ) -> HalfWritten:
        """Bind a recipe's weights and write the files."""
