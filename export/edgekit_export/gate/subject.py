"""What the gate needs of an exported model, whatever runtime it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgekit.progress import Progress
from edgekit.schema.bundle import GateCheck, OnnxInterface
from edgekit.schema.recipe import RecipeProfile
from edgekit_export.gate.reference import Reference
from edgekit_export.gate.rope import check_looked_up, check_rope
from edgekit_export.gate.rounded import Rounded
from edgekit_export.gate.runner import OnnxRunner, Runner
from edgekit_export.gate.stored import StoredModel
from edgekit_export.gate.weights import check_weights
from edgekit_export.sources import ModelSource


class Subject(Protocol):
    """An exported model under judgement."""

    def full(self) -> Runner:
        """A session that answers with every position's logits."""

    def shipped(self) -> Runner:
        """A session of what is shipped, as the device runs it."""

    def structure(self, source: ModelSource, reference: Reference, progress: Progress) -> list[GateCheck]:
        """What can be checked by reading the file."""

    def rounded(self, source: ModelSource, recipe: RecipeProfile, progress: Progress) -> Rounded | None:
        """The eager model that stores and rounds as the file and its kernels do; None where that is not known."""

    def near(self) -> Runner | None:
        """A session that rounds as :meth:`rounded` does, with every position's logits; None where `full` does."""


class OnnxSubject:
    """An ONNX graph."""

    def __init__(self, model: Path, interface: OnnxInterface) -> None:
        self._model, self._interface = model, interface

    def full(self) -> Runner:
        """The graph with the cut to the last position undone."""
        return OnnxRunner(self._model, self._interface, all_logits=True)

    def shipped(self) -> Runner:
        """The graph as it is."""
        return OnnxRunner(self._model, self._interface)

    def structure(self, source: ModelSource, reference: Reference, progress: Progress) -> list[GateCheck]:
        """Rotary tables and weights against the source's."""
        stored = StoredModel(self._model)
        return [
            check_rope(stored, source.config),
            check_weights(stored, source.tensors, source.tied, reference.energy, progress=progress),
        ]

    def rounded(self, source: ModelSource, recipe: RecipeProfile, progress: Progress) -> Rounded:
        """The file's weights with activations as they are: how onnxruntime's kernels round them is the processor's."""
        return Rounded(source, StoredModel(self._model), linear=False, head=False, progress=progress)

    def near(self) -> Runner | None:
        """The graph with the rounding of activations taken out."""
        if not StoredModel(self._model).rounds():
            return None
        return OnnxRunner(self._model, self._interface, all_logits=True, rounding=False)


class ExecutorchSubject:
    """An ExecuTorch program."""

    def __init__(self, model: Path) -> None:
        self._model = model

    def full(self) -> Runner:
        """The program fed token by token."""
        from edgekit_export.gate.executorch_runner import ExecutorchRunner

        return ExecutorchRunner(self._model, all_logits=True)

    def shipped(self) -> Runner:
        """The program as it is."""
        from edgekit_export.gate.executorch_runner import ExecutorchRunner

        return ExecutorchRunner(self._model)

    def structure(self, source: ModelSource, reference: Reference, progress: Progress) -> list[GateCheck]:
        """Weights and rotary tables against the source's, and operators against those the probe has."""
        from edgekit_export.executorch.audit import check_operators
        from edgekit_export.executorch.stored import StoredProgram

        stored = StoredProgram(self._model, source.tensors.shapes, source.tied)
        return [
            check_operators(stored),
            check_looked_up(stored.rotary(), source.config),
            check_weights(stored, source.tensors, source.tied, reference.energy, progress=progress),
        ]

    def rounded(self, source: ModelSource, recipe: RecipeProfile, progress: Progress) -> Rounded | None:
        """XNNPACK rounds the inputs of products row by row, where the recipe says so.

        None with an int8 KV cache, which the eager model has not: the recipe's limits alone judge that.
        """
        if recipe.kv_cache != "float32":
            return None
        from edgekit_export.executorch.formats import formats_of
        from edgekit_export.executorch.stored import StoredProgram

        formats = formats_of(recipe)
        stored = StoredProgram(self._model, source.tensors.shapes, source.tied)
        return Rounded(source, stored, linear=formats.linear.dynamic, head=formats.head.dynamic, progress=progress)

    def near(self) -> None:
        """The program itself rounds as :meth:`rounded` does."""


def subject_of(model: Path, interface: OnnxInterface | None) -> Subject:
    """The subject for a bundle's model: a graph with its interface, or a program, which describes itself."""
    return ExecutorchSubject(model) if interface is None else OnnxSubject(model, interface)
