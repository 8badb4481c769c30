"""ONNX: trace, template, replicate, bind, quantize, save, audit.

One trace of a few layers serves every recipe: :func:`build_template` makes the graph
without weights, :func:`write_model` fills it in one recipe's formats and audits the files.

Its names are loaded when they are asked for: onnx, onnxscript and the exporter hold 50 MB, which an export to
ExecuTorch alone need not have in memory beside the model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit_export.onnx.bind import write_model
    from edgekit_export.onnx.calibrate import calibration_tokens, measure_energy
    from edgekit_export.onnx.files import OnnxModelFiles, describe_interface
    from edgekit_export.onnx.full_logits import full_logits_graph, full_logits_session
    from edgekit_export.onnx.template import OnnxTemplate, build_template

_WHERE = {
    "OnnxModelFiles": "files",
    "OnnxTemplate": "template",
    "build_template": "template",
    "calibration_tokens": "calibrate",
    "describe_interface": "files",
    "full_logits_graph": "full_logits",
    "full_logits_session": "full_logits",
    "measure_energy": "calibrate",
    "write_model": "bind",
}

__all__ = [
    "OnnxModelFiles",
    "OnnxTemplate",
    "build_template",
    "calibration_tokens",
    "describe_interface",
    "full_logits_graph",
    "full_logits_session",
    "measure_energy",
    "write_model",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
