"""ONNX: trace, template, replicate, bind, quantize, save, audit.

One trace of a few layers serves every recipe: :func:`build_template` makes the graph
without weights, :func:`write_model` fills it in one recipe's formats and audits the files.
"""

from edgekit_export.onnx.audit import audit
from edgekit_export.onnx.bind import write_model
from edgekit_export.onnx.calibrate import calibration_tokens, measure_energy
from edgekit_export.onnx.files import OnnxModelFiles, describe_interface
from edgekit_export.onnx.full_logits import full_logits_graph, full_logits_session
from edgekit_export.onnx.template import OnnxTemplate, build_template

__all__ = [
    "OnnxModelFiles",
    "OnnxTemplate",
    "audit",
    "build_template",
    "calibration_tokens",
    "describe_interface",
    "full_logits_graph",
    "full_logits_session",
    "measure_energy",
    "write_model",
]
