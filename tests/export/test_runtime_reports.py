"""What an export runs in onnxruntime is told to nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_RUN = """
import edgekit_export
import numpy, onnx, onnxruntime
from onnx import TensorProto, helper

tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
print(session.run(None, {"x": numpy.ones(1, numpy.float32)}))
"""


def test_onnxruntime_reports_to_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    homes = {name: tmp_path / name for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR")}
    for folder in homes.values():
        folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {name: str(folder) for name, folder in homes.items()}
    subprocess.run([sys.executable, "-c", _RUN], env=environment, check=True, timeout=300)
    assert [path for folder in homes.values() for path in folder.iterdir()] == []
