"""The same weights with the logits of every position, and on request without rounding, for the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit_export.onnx.files import MODEL
from edgekit_export.onnx.interface import LOGITS
from edgekit_export.onnx.positions import LAST
from edgekit_export.onnx.unrounded import remove_rounding


def full_logits_graph(directory: Path, *, rounding: bool = True) -> bytes:
    """The graph of ``directory/model.onnx`` with logits ``[1, n, vocab]``; its weights stay where they are.

    Without ``rounding``, its products multiply float32 activations.
    """
    import onnx

    model = onnx.load(directory / MODEL, load_external_data=False)
    if not rounding:
        remove_rounding(model.graph)
    cut = {node.output[0]: node.input[0] for node in model.graph.node if node.output[0].endswith(LAST)}
    if not cut:
        raise InputError(f"{directory / MODEL} was not written by this exporter: it has no last position to undo")
    kept = [node for node in model.graph.node if node.output[0] not in cut]
    for node in kept:
        for position, name in enumerate(node.input):
            if name in cut:
                node.input[position] = cut[name]
    read = {name for node in kept for name in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for output in model.graph.output:
        if output.name == LOGITS:
            output.type.tensor_type.shape.dim[1].dim_param = "n"
    return model.SerializeToString()


def full_logits_session(directory: Path, options: Any = None) -> Any:
    """An ``onnxruntime.InferenceSession`` over :func:`full_logits_graph`.

    Nothing is written: the graph goes in as bytes, the weights come from ``directory``.
    """
    import onnxruntime

    options = options or onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(directory))
    return onnxruntime.InferenceSession(full_logits_graph(directory), options, providers=["CPUExecutionProvider"])
