"""Optimum as a second opinion: its command, its environment, its graph in our contract, and what is refused."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.cli.main import _exit_code
from edgekit.errors import MissingToolError, UnsupportedError
from edgekit.schema.integrity import check_bundle
from edgekit_export.gate.runner import OnnxRunner
from edgekit_export.optimum import environment
from edgekit_export.optimum.adapt import adapt
from edgekit_export.optimum.environment import REQUIREMENTS, constraints, ensure_environment, install_command
from edgekit_export.optimum.run import export_command, older_config
from edgekit_export.pipeline import verify
from edgekit_export.sources.tensors import random_tensors

HEADS, SIZE, VOCAB, CONTEXT = 1, 4, 11, 9


def test_its_command_names_everything_and_looks_nothing_up() -> None:
    command = export_command(Path("/env/bin/python"), Path("/m"), Path("/out"))
    assert command[0] == "/env/bin/python"
    assert command[-1] == "/out"
    named = dict(itertools.pairwise(command))
    assert named["--model"] == "/m"
    assert named["--task"] == "text-generation-with-past"
    assert "--no-post-process" in command


def test_its_environment_keeps_this_ones_pytorch() -> None:
    import torch

    assert f"torch=={torch.__version__}" in constraints()
    command = install_command(Path("/env/bin/python"), Path("/env/constraints.txt"))
    assert command[command.index("--constraint") + 1] == "/env/constraints.txt"
    assert set(REQUIREMENTS) < set(command)
    assert all("==" in requirement for requirement in REQUIREMENTS)


def test_its_environment_is_made_once_and_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    calls: list[list[str]] = []
    real, works = subprocess.run, False

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if "install" in command:
            calls.append(command)
            return subprocess.CompletedProcess(command, 0 if works else 1, "", "no matching distribution")
        if "venv" in command:
            return real([*command, "--without-pip"], **options)
        return real(command, **options)

    monkeypatch.setattr(environment.subprocess, "run", run)
    with pytest.raises(MissingToolError, match="install optimum: exit code 1") as caught:
        ensure_environment()
    assert "no matching distribution" in str(caught.value.detail)
    assert [path.suffix for path in (tmp_path / "environments").iterdir()] == [".lock"]
    works = True
    told: list[str] = []
    python = ensure_environment(progress=lambda event: told.append(event.detail))
    assert python.exists()
    assert len(told) == 1
    assert "optimum-onnx==0.1.0" in told[0]
    borrowed = next(python.parent.parent.rglob("borrowed.pth")).read_text().strip()
    assert (Path(borrowed) / "torch").is_dir()
    count = len(calls)
    assert ensure_environment() == python
    assert len(calls) == count


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (
            {"rope_parameters": {"rope_theta": 5e4, "rope_type": "default"}, "dtype": "float32", "vocab_size": 7},
            {"rope_theta": 5e4, "torch_dtype": "float32", "vocab_size": 7},
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0}},
            {"rope_theta": 1e4, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "torch_dtype": "float32"},
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}},
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5, "torch_dtype": "float32"},
        ),
    ],
)
def test_configurations_are_told_in_older_words(config: dict, wanted: dict) -> None:
    assert older_config(config) == wanted


def test_a_configuration_that_has_no_older_words() -> None:
    with pytest.raises(UnsupportedError, match="rotary settings by kind of layer"):
        older_config({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-q", "w4"], "optimum does not export recipe w4"),
        (["-q", "fp32", "--runtime", "executorch"], "optimum-executorch 1.1.0 needs transformers 5.0.0rc1"),
    ],
)
def test_what_it_does_not_serve_is_refused_before_anything_is_made(
    trained: Path, options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundles"
    assert _exit_code(["export", str(trained), "--exporter", "optimum", *options, "--out", str(out)]) == 4
    message = capsys.readouterr().err
    assert said in message
    assert "Next: " in message
    assert not out.exists()


def write_decoder(path: Path, embedding: np.ndarray, projection: np.ndarray) -> None:
    """A graph with optimum's inputs and outputs: logits are a projection of the sum of all embeddings so far.

    What it adds up goes through the cache, the mask and the positions, so that a wrong one shows.
    """
    node = helper.make_node
    nodes = [
        node("Gather", ["embed", "input_ids"], ["x"]),
        node("Unsqueeze", ["x", "one"], ["x4"]),
        node("Concat", ["past_key_values.0.key", "x4"], ["present.0.key"], axis=2),
        node("Cast", ["position_ids"], ["positions"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["positions", "last"], ["positions3"]),
        node("Unsqueeze", ["positions3", "one"], ["positions4"]),
        node("Expand", ["positions4", "width"], ["positions_wide"]),
        node("Concat", ["past_key_values.0.value", "positions_wide"], ["present.0.value"], axis=2),
        node("Add", ["present.0.key", "present.0.value"], ["all"]),
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "one"], ["mask3"]),
        node("Unsqueeze", ["mask3", "last"], ["mask4"]),
        node("Mul", ["all", "mask4"], ["seen"]),
        node("CumSum", ["seen", "two"], ["sums"]),
        node("Squeeze", ["sums", "one"], ["sums3"]),
        node("Shape", ["input_ids"], ["n"], start=1, end=2),
        node("Neg", ["n"], ["begin"]),
        node("Slice", ["sums3", "begin", "end", "one"], ["new"]),
        node("MatMul", ["new", "onnx::MatMul_1"], ["logits"]),
    ]
    constants = {
        "embed": embedding,
        "onnx::MatMul_1": projection.T,
        "one": np.array([1]),
        "last": np.array([-1]),
        "two": np.array(2),
        "width": np.array([1, 1, 1, SIZE]),
        "end": np.array([2**31]),
    }
    value = helper.make_tensor_value_info
    cache = [1, HEADS, "past", SIZE]
    inputs = [value(name, TensorProto.INT64, [1, "n"]) for name in ("input_ids", "attention_mask", "position_ids")]
    inputs += [value(f"past_key_values.0.{kind}", TensorProto.FLOAT, cache) for kind in ("key", "value")]
    outputs = [value("logits", TensorProto.FLOAT, [1, "n", VOCAB])]
    outputs += [value(f"present.0.{kind}", TensorProto.FLOAT, [1, HEADS, "total", SIZE]) for kind in ("key", "value")]
    graph = helper.make_graph(
        nodes,
        "decoder",
        inputs,
        outputs,
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))


def test_its_graph_computes_the_same_on_a_cache_of_fixed_size(tmp_path: Path) -> None:
    tensors = random_tensors({"embed.weight": (VOCAB, SIZE), "head.weight": (VOCAB, SIZE)}, seed=0, spread=1.0)
    embedding, projection = (tensors[name].numpy() for name in ("embed.weight", "head.weight"))
    write_decoder(tmp_path / "optimum.onnx", embedding, projection)
    made = adapt(tmp_path / "optimum.onnx", tensors, tmp_path, context=CONTEXT)
    stored = {
        tensor.name for tensor in onnx.load(str(tmp_path / "model.onnx"), load_external_data=False).graph.initializer
    }
    assert {"embed.weight", "head.weight.T"} <= stored
    assert made.weight_bytes == 2 * VOCAB * SIZE * 4
    runner = OnnxRunner(tmp_path / "model.onnx", made.interface)
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    wanted = np.cumsum(embedding[tokens] + np.arange(len(tokens))[:, None], axis=0) @ projection.T
    for _ in range(2):
        runner.reset()
        found = [runner.forward(tokens[:3]), runner.forward(tokens[3:5])]
        found += [runner.forward([token]) for token in tokens[5:]]
        np.testing.assert_allclose(np.concatenate(found), wanted, rtol=1e-5, atol=1e-5)


def test_a_graph_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["pixels"], ["logits"])],
        "vision",
        [value("pixels", TensorProto.FLOAT, [1, 3])],
        [value("logits", TensorProto.FLOAT, [1, 3])],
    )
    onnx.save(helper.make_model(graph), str(tmp_path / "vision.onnx"))
    with pytest.raises(UnsupportedError, match="not a decoder") as caught:
        adapt(tmp_path / "vision.onnx", random_tensors({}, seed=0, spread=1.0), tmp_path, context=CONTEXT)
    assert "pixels" in str(caught.value.detail)


@pytest.mark.slow
def test_a_whole_export_passes_the_same_gate(trained: Path, export_cache: Path, tmp_path: Path) -> None:
    """Needs the network once, for optimum itself."""
    [outcome] = edgekit.export(str(trained), recipes=["fp32"], out=tmp_path, exporter="optimum", context=128)
    assert outcome.directory == tmp_path / "tiny-onnxruntime-fp32-optimum"
    bundle = check_bundle(outcome.directory)
    assert bundle.gate.passed
    assert bundle.gate.figures.kl_mean < 1e-6
    assert "optimum-onnx 0.1.0" in bundle.exporter
    assert {check.name for check in bundle.gate.checks} >= {"weights", "rope tables", "shipped graph"}
    assert verify(outcome.directory).passed
    [run] = edgekit.probe(
        [outcome.directory], out=tmp_path / "runs", prompts=[8], generates=[4], repetitions=1, threads=[1]
    )
    assert (run / "run.json").is_file()
