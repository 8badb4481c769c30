"""One call of optimum's exporter, in its own environment, on a copy of the source that it can read."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from edgekit.errors import UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit_export.optimum.environment import ensure_environment
from edgekit_export.sources import ModelSource

TASK = "text-generation-with-past"
#: The newest that optimum-onnx's tests cover.
OPSET = 18
#: Tracing 1.5B parameters takes minutes; this ends what hangs.
EXPORT_TIMEOUT_S = 3 * 3600

_MAIN = "from optimum.commands.optimum_cli import main; main()"


def export_command(python: Path, model: Path, out: Path) -> list[str]:
    """The command that exports a directory's model."""
    return [
        str(python),
        "-c",
        _MAIN,
        "export",
        "onnx",
        "--model",
        str(model),
        "--task",
        TASK,
        "--framework",
        "pt",
        "--opset",
        str(OPSET),
        # It would pack the graphs' weights anew, which takes as long as the export and changes nothing that we keep.
        "--no-post-process",
        str(out),
    ]


def older_config(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration in the words that transformers had before its fifth version.

    Raises:
        UnsupportedError: it has several sets of rotary settings, for which there was no common word.
    """
    older = dict(config)
    rope = older.pop("rope_parameters", None)
    if rope:
        if "rope_theta" not in rope:
            raise UnsupportedError("optimum: a model with rotary settings by kind of layer")
        older["rope_theta"] = rope["rope_theta"]
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        if "partial_rotary_factor" in scaling:
            older["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
        if scaling.get("rope_type", "default") != "default":
            older["rope_scaling"] = scaling
    older["torch_dtype"] = older.pop("dtype", None) or "float32"
    return older


def run_optimum(source: ModelSource, folder: Path, *, progress: Progress = silent) -> Path:
    """Export a source with optimum; the graph.

    Args:
        source: what to export.
        folder: an empty folder for the model that optimum reads, and for what it writes.
        progress: told of each step.

    Raises:
        MissingToolError: its environment cannot be made.
        UnsupportedError: optimum does not export this model; its last words are the detail.
    """
    python = ensure_environment(progress=progress)
    model, out = folder / "model", folder / "onnx"
    progress(ProgressEvent("optimum", detail="write the model for it"))
    source.load_model(progress=progress).save_pretrained(model)
    path = model / "config.json"
    path.write_text(json.dumps(older_config(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    progress(ProgressEvent("optimum", detail=f"export {source.name} with its own transformers"))
    try:
        done = subprocess.run(
            export_command(python, model, out),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=EXPORT_TIMEOUT_S,
            check=False,
            # Nothing is to be looked up: the model lies here.
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"},
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedError(f"optimum: not done after {EXPORT_TIMEOUT_S} s") from error
    graph = out / "model.onnx"
    if done.returncode != 0 or not graph.is_file():
        raise UnsupportedError(
            f"optimum does not export {source.name}: exit code {done.returncode}",
            detail=done.stderr.strip()[-2000:],
            hint="export it without --exporter optimum",
        )
    return graph
