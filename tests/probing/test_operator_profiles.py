"""Operator profiles: taken by the probe of either runtime, told by module, and never mistaken for a speed."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from trace_reader import read_trace

import edgekit
from edgekit.analysis import operators_etdump, operators_onnxruntime
from edgekit.analysis.clocks import align
from edgekit.analysis.load import load_run
from edgekit.analysis.operators import BETWEEN, aligned, breakdown, clock_offset, profiled_samples
from edgekit.cli.main import _exit_code
from edgekit.errors import InputError
from edgekit.schema import codec
from edgekit.schema.integrity import check_bundle
from edgekit.schema.operators import OPERATOR_MAP, OperatorLabel, OperatorMap
from edgekit.schema.run import Run

PROMPT, DECODED, LAYERS, ROUNDS = 96, 6, 2, 3
PLAN = {"prompts": [PROMPT], "generates": [DECODED], "repetitions": ROUNDS, "threads": [1]}
#: Products a layer has, by runtime: onnxruntime's file has q, k and v in one, and gate and up in another.
ATTENTION_PRODUCTS = {"onnxruntime": 2, "executorch": 4}
FFN_PRODUCTS = {"onnxruntime": 2, "executorch": 3}
#: An ExecuTorch program takes a prompt in passes of so many tokens at most.
PASS_TOKENS = 40
PREFILL_PASSES = {"onnxruntime": 1, "executorch": 3}


@pytest.fixture(scope="module")
def bundles(exported: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model for both runtimes."""
    pytest.importorskip("executorch", reason="the ExecuTorch half is not installed")
    from edgekit_export.executorch import decoder
    from edgekit_export.pipeline import export_bundles

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "PASS_TOKENS", PASS_TOKENS)
        [made] = export_bundles(str(trained), ["w8a8"], ["executorch"], out_dir=tmp_path_factory.mktemp("executorch"))
    assert made.directory is not None
    return {
        "onnxruntime fp32": exported / "tiny-onnxruntime-fp32",
        "onnxruntime w4": exported / "tiny-onnxruntime-w4",
        "executorch w8a8": made.directory,
    }


@pytest.fixture(scope="module")
def profiled(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    runs = edgekit.probe(list(bundles.values()), profile=True, out=tmp_path_factory.mktemp("runs"), **PLAN)
    return dict(zip(bundles, runs, strict=True))


NAMES = ["onnxruntime fp32", "onnxruntime w4", "executorch w8a8"]


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_says_what_each_operator_belongs_to(bundles: dict[str, Path], name: str) -> None:
    bundle = check_bundle(bundles[name])
    assert [entry.path for entry in bundle.files if entry.role == "operators"] == [OPERATOR_MAP]
    labels = codec.read(bundles[name] / OPERATOR_MAP, OperatorMap).operators
    assert len({label.key for label in labels}) == len(labels)
    assert not {label.module for label in labels} & {"unknown", "runtime"}
    runtime = name.split()[0]
    for layer in range(LAYERS):
        products = [label for label in labels if label.layer == layer and label.weights and is_product(label)]
        modules = [label.module for label in products]
        assert modules.count("attention") == ATTENTION_PRODUCTS[runtime]
        assert modules.count("FFN") == FFN_PRODUCTS[runtime]
        assert len(products) == ATTENTION_PRODUCTS[runtime] + FFN_PRODUCTS[runtime]
        weights = {part for label in products for part in label.weights.split("+")}
        parts = {"self_attn": "qkvo", "mlp": ("gate", "up", "down")}
        assert weights == {f"{module}.{part}_proj" for module, names in parts.items() for part in names}
    heads = [label for label in labels if label.module == "LM head" and is_product(label)]
    assert [label.layer for label in heads] == [None]
    assert [label.layer for label in labels if label.module == "embedding"] == [None]
    assert {label.module for label in labels if "Normalization" in label.operator or label.operator == "Square"} <= {
        "norm"
    }


def is_product(label: OperatorLabel) -> bool:
    return any(kind in label.operator for kind in ("MatMul", "FullyConnected"))


@pytest.mark.parametrize("name", NAMES)
def test_every_product_is_counted_under_its_module(profiled: dict[str, Path], name: str) -> None:
    found = breakdown([load_run(profiled[name])], ["operator", "layer", "weights"])
    assert found.faults == []
    runtime = name.split()[0]
    for test, passes in ((f"pp{PROMPT}", PREFILL_PASSES[runtime]), (f"tg{DECODED}", DECODED)):
        rows = [row for row in found.rows if row.test.name == test]
        assert not [row for row in rows if row.module == "unknown"]
        products = [row for row in rows if row.weights and ("MatMul" in row.operator or "Fully" in row.operator)]
        for layer in range(LAYERS):
            here = [row for row in products if row.layer == layer]
            calls = {module: sum(row.calls for row in here if row.module == module) for module in ("attention", "FFN")}
            assert calls == {
                "attention": ATTENTION_PRODUCTS[runtime] * passes,
                "FFN": FFN_PRODUCTS[runtime] * passes,
            }
        assert sum(row.calls for row in products if row.module == "LM head") == passes
        assert sum(row.calls for row in rows if row.module == "attention" and _attends(row.operator)) == LAYERS * passes


def _attends(operator: str) -> bool:
    return "Attention" in operator or "sdpa" in operator


@pytest.mark.parametrize("name", NAMES)
def test_operators_add_up_to_the_trial(profiled: dict[str, Path], name: str) -> None:
    samples, faults = profiled_samples(load_run(profiled[name]))
    assert faults == []
    assert len(samples) == 2 * ROUNDS
    covered: dict[str, list[float]] = {}
    for sample in samples:
        prefill = sample.trial.kind == "prefill"
        assert len(sample.passes) == (PREFILL_PASSES[name.split()[0]] if prefill else len(sample.result.token_ns))
        taken = sum(call.duration_ns for entry in sample.passes for call in entry.calls)
        whole = sample.result.end_ns - sample.result.start_ns
        assert taken <= whole
        covered.setdefault(sample.trial.kind, []).append(taken / whole)
        offset = clock_offset(sample)
        assert offset is not None
        shift, error = offset
        edges = list(pairwise([sample.result.start_ns, *sample.result.token_ns]))
        if prefill:
            edges *= len(sample.passes)
        for entry, (before, after) in zip(sample.passes, edges, strict=True):
            assert before - error <= entry.start_ns + shift <= entry.end_ns + shift <= after + error + 2000
            for call in entry.calls:
                assert entry.start_ns <= call.start_ns
                assert call.start_ns + call.duration_ns <= entry.end_ns + 2000
    # What is missing is the runtime's own time: on a model this small no small part of a decode.
    assert max(covered["prefill"]) > 0.6
    assert max(covered["decode"]) > 0.3
    rows = breakdown([load_run(profiled[name])], ["module", "operator"]).rows
    for test in {row.test for row in rows}:
        assert sum(row.share for row in rows if row.test == test) == pytest.approx(1, abs=0.3)
        assert all(row.samples == ROUNDS and row.low <= row.share <= row.high for row in rows)
        assert any(row.operator == BETWEEN and row.module == "runtime" for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_timeline_shows_operators_within_their_tokens(profiled: dict[str, Path], tmp_path: Path, name: str) -> None:
    read = read_trace(edgekit.timeline(profiled[name], out=tmp_path / "t.pftrace"))
    passes = read.slices("pass")
    assert len(passes) == ROUNDS * (PREFILL_PASSES[name.split()[0]] + DECODED)
    timed = [entry for entry in read.slices("prefill", "token") if entry.name.startswith(("pp", "token"))]
    for entry in passes:
        error = entry.details["clock error, ns"] + 2000
        assert any(whole.start - error <= entry.start and entry.end <= whole.end + error for whole in timed)
    operators = read.slices("operator")
    assert {entry.details["module"] for entry in operators} >= {"attention", "FFN", "LM head", "norm", "embedding"}
    assert all(entry.depth > 0 for entry in operators)
    assert bool(read.slices("delegate")) == name.startswith("executorch")
    found = breakdown([load_run(profiled[name])], ["operator"]).rows
    wanted = sum(row.calls * row.samples for row in found if not row.operator.startswith("("))
    assert len(operators) == wanted


def test_clocks_are_compared_in_every_session(profiled: dict[str, Path]) -> None:
    clocks = codec.read(profiled["onnxruntime w4"] / "run.json", Run).clocks
    assert clocks is not None
    assert clocks.begin
    assert clocks.end
    found = align(clocks)
    assert found is not None
    # Here the device is this machine: one clock.
    assert abs(found.device_ns(found.host_ns[-1]) - found.host_ns[-1]) <= found.error_ns(found.host_ns[-1])
    assert not found.jumped


def test_a_profiled_run_is_no_speed(
    profiled: dict[str, Path], bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = profiled["onnxruntime fp32"]
    assert codec.read(one / "run.json", Run).profiled
    with pytest.raises(InputError, match="profiled"):
        edgekit.compare([one])
    [plain] = edgekit.probe([bundles["onnxruntime fp32"]], out=tmp_path, **PLAN | {"repetitions": 1})
    found = edgekit.compare([plain, one])
    assert {row.run for row in found.rows} == {plain.name}
    assert any("profiled" in fault for fault in found.faults)
    with pytest.raises(InputError, match="none of the runs was profiled"):
        edgekit.operators([plain])
    assert {row.run for row in edgekit.operators([one.parent]).rows} == {path.name for path in profiled.values()}
    with pytest.raises(InputError, match="no breakdown by 'colour'"):
        edgekit.operators([one], by=["colour"])
    assert _exit_code(["operators", str(one), str(plain), "--by", "module", "-o", "json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {record["module"] for record in records} >= {"attention", "FFN", "LM head", "norm", "embedding", "runtime"}
    assert {record["phase"] for record in records} == {"prefill", "decode"}
    assert "operator" not in records[0]


def test_the_reader_agrees_with_executorchs_own(profiled: dict[str, Path]) -> None:
    pytest.importorskip("executorch")
    from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc

    path = profiled["executorch w8a8"] / "launches" / "001" / "profile.etdp"
    theirs = deserialize_from_etdump_flatcc(path.read_bytes())
    blocks = [block for block in theirs.run_data if block.name == "Execute"]
    ours = operators_etdump.read_profile(path)
    assert len(ours) == len(blocks) > 0
    for block, entry in zip(blocks, ours, strict=True):
        events = [event.profile_event for event in block.events]
        wanted = [
            (str(event.instruction_id), event.start_time, event.end_time - event.start_time)
            for event in events
            if event.name in ("OPERATOR_CALL", "DELEGATE_CALL") or event.delegate_debug_id_str
        ]
        assert [(call.key, call.start_ns, call.duration_ns) for call in entry.calls] == wanted
        [whole] = [event for event in events if event.name == "Method::execute"]
        assert (entry.start_ns, entry.end_ns) == (whole.start_time, whole.end_time)


@pytest.mark.parametrize(
    ("name", "file", "reader"),
    [
        ("executorch w8a8", "profile.etdp", operators_etdump.read_profile),
        ("onnxruntime fp32", "profile.json", operators_onnxruntime.read_profile),
    ],
)
def test_a_damaged_profile_is_a_fault(profiled: dict[str, Path], tmp_path: Path, name: str, file: str, reader) -> None:
    run = tmp_path / "run"
    shutil.copytree(profiled[name], run)
    path = run / "launches" / "001" / file
    whole = path.read_bytes()
    draw = random.Random(7)
    for _ in range(40):
        cut = draw.randrange(len(whole))
        damaged = bytearray(whole[:cut] if draw.random() < 0.5 else whole)
        for _ in range(8):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        # Whatever is in the file, nothing but a message may come of it.
        with contextlib.suppress(InputError):
            reader(path)
    path.write_bytes(whole[: len(whole) // 2])
    found = edgekit.operators([run])
    assert any("launch 1" in fault for fault in found.faults)
    assert {row.samples for row in found.rows} == {ROUNDS - 1}
    path.unlink()
    assert any("launch 1" in fault for fault in edgekit.operators([run]).faults)
    (run / OPERATOR_MAP).unlink()
    unknown = edgekit.operators([run])
    assert {row.module for row in unknown.rows} == {"unknown", "runtime"}
    assert any("export it again" in fault for fault in unknown.faults)


def test_operations_of_a_delegate_find_their_nodes() -> None:
    kinds = ["Convert", "FullyConnected", "StaticReshape", "Multiply", "FullyConnected", "Add"]
    nodes = [
        OperatorLabel(key=f"3.{index}", operator=kind, module="FFN", weights=str(index))
        for index, kind in enumerate(kinds)
    ]
    # The conversion is dropped; a transposition that no node asked for is added.
    names = [
        "Fully Connected (NC, QD8, F32, QC8W) GEMM",
        "Static Reshape (NC)",
        "Transpose (ND, X32)",
        "Multiply (ND)",
        "Fully Connected (NC, F32) GEMM",
        "Add (ND)",
    ]
    found = [label and label.key for label in aligned(names, nodes)]
    assert found == ["3.1", "3.2", None, "3.3", "3.4", "3.5"]
    # A sum before the second product is not the sum after it.
    assert [label and label.key for label in aligned(["Fully Connected (NC)", "Add (ND)"], nodes)] == ["3.1", None]
