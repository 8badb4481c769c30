"""Which part of the model each operator of an exported graph belongs to, and the files of an operator profile.

The map is written when a bundle is exported, from the source's own parameters and modules, so that a profile taken on
a device is told by module without guessing from names.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from edgekit.schema.bundle import RuntimeName
from edgekit.schema.codec import Document
from edgekit.schema.plan import ExecutorchArtefact, OnnxArtefact

#: The map's file in a bundle, and its copy in a profiled run.
OPERATOR_MAP = "operators.json"

#: What a runtime recorded, in a launch's folder: onnxruntime's profile (Chrome trace events), ExecuTorch's ETDump.
PROFILE_FILES: dict[str, str] = {"onnxruntime": "profile.json", "executorch": "profile.etdp"}

#: ``other``: residual sums, position look-ups and the like. ``unknown``: nothing is known of the operator.
#: ``runtime`` (never in a map): time outside of all operators.
Module = Literal["embedding", "attention", "FFN", "norm", "LM head", "other", "runtime", "unknown"]
#: In the order in which tables and plots show them.
MODULES: tuple[Module, ...] = ("embedding", "attention", "FFN", "norm", "LM head", "other", "runtime", "unknown")


def profile_file(artefact: OnnxArtefact | ExecutorchArtefact) -> str:
    """Name of the file that a profiled launch of ``artefact`` leaves in its folder."""
    return PROFILE_FILES[str(artefact.__struct_config__.tag)]


class OperatorLabel(msgspec.Struct, frozen=True, kw_only=True):
    """One operator of the exported graph."""

    #: ONNX: the node's name. ExecuTorch: the instruction's number, and after a dot the operation's in its delegate.
    key: str
    #: As the file has it: ``MatMulNBits``, ``llama::custom_sdpa.out``, ``FullyConnected``.
    operator: str
    module: Module
    #: Decoder layer; None outside of the layers.
    layer: int | None = None
    #: Which of the source's parameters it computes with: ``mlp.gate_proj+mlp.up_proj``; empty where there is none.
    weights: str = ""


class OperatorMap(Document, frozen=True, kw_only=True):
    """``operators.json``."""

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "operator map"

    runtime: RuntimeName
    #: In the order of execution.
    operators: list[OperatorLabel]
