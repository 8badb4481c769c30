"""Decoders with windows, caps, ALiBi, convolutions and partial rotation on a device: the native probe computes what
eager PyTorch computes, over prompts that are longer than the windows, and none of what a wrong feature would give.

A few families that between them have every such feature run always; the others are `slow`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch", reason="the export half is not installed")
pytest.importorskip("executorch", reason="the ExecuTorch half is not installed")

import families
import torch

import edgekit
from edgekit.analysis.load import load_run
from edgekit.probing.golden import judge
from edgekit.schema import codec
from edgekit.schema.bundle import MANIFEST, Bundle, Golden
from edgekit.schema.event import GoldenResult
from edgekit.schema.recipe import load_recipe
from edgekit_export.pipeline import export_bundles

BOTH = ["onnxruntime", "executorch"]
#: Windows in some layers, and caps; ALiBi; a parallel residual and partial rotation; windows in every layer (for ONNX
#: gemma2's show as much); a short convolution, for whose state ONNX bundles have no place.
ALWAYS = {"gemma2": BOTH, "bloom": BOTH, "gpt-neox": BOTH, "danube": ["executorch"], "lfm2": ["executorch"]}
#: Neither runtime takes it.
REFUSED = ["minicpm3"]
PROMPT, STEPS = 3 * families.WINDOW + 5, 24
#: Float32 in another order of sums, on logits of a few units: eager and the probe differ by 1e-5.
TOLERANCE = 1e-3


@pytest.fixture(autouse=True)
def device_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch, export_cache: Path) -> None:
    """The local device's store, away from the user's."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(session_cache))


def answered(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """Logits ``[steps, vocab]`` that each token is chosen from, all read at once."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens[:-1]]), use_cache=False).logits[0]
    found: torch.Tensor = logits[len(prompt) - 1 :]
    return found


def eager_golden(family: families.Family) -> Golden:
    """What the eager float32 model says to a prompt longer than the window, and then to tokens of its own choice."""
    model = family.model()
    prompt = families.tokens(PROMPT)[0].tolist()
    tokens: list[int] = []
    for _ in range(STEPS):
        tokens.append(int(answered(model, prompt, [*tokens, 0])[-1].argmax()))
    return golden_of(answered(model, prompt, tokens), prompt, tokens)


def golden_of(logits: torch.Tensor, prompt: list[int], tokens: list[int], tolerance: float = TOLERANCE) -> Golden:
    top = logits.topk(2).values
    return Golden(
        prompt=prompt,
        tokens=tokens,
        logit_ids=list(range(families.VOCABULARY)),
        logits=logits.tolist(),
        tolerance=tolerance,
        margins=(top[:, 0] - top[:, 1]).tolist(),
    )


def with_golden(bundle: Path, golden: Golden, to: Path) -> Path:
    """A copy of a bundle that is to be held against another record."""
    shutil.copytree(bundle, to)
    manifest = codec.read(to / MANIFEST, Bundle)
    (to / MANIFEST).write_bytes(codec.encode(msgspec.structs.replace(manifest, golden=golden)))
    return to


def exported(name: str, runtimes: list[str], out: Path) -> dict[str, Path]:
    """Bundles of a family's float32 export, by runtime."""
    source = str(families.family(name).save(out))
    outcomes = export_bundles(source, ["fp32"], runtimes, out_dir=out, context_length=families.CONTEXT)
    assert [outcome.refusal for outcome in outcomes] == [None] * len(runtimes)
    return {outcome.runtime: outcome.directory for outcome in outcomes if outcome.directory is not None}


def probed(bundles: list[Path], out: Path) -> list[GoldenResult]:
    """The answers of the native probe on this machine; a session refuses to time what fails its check."""
    runs = edgekit.probe(bundles, out=out, prompts=[8], generates=[], repetitions=1, threads=[2])
    found = []
    for run in runs:
        (launch,) = [entry for entry in load_run(run).launches if entry.launch.golden is not None]
        assert launch.launch.golden is not None
        assert launch.launch.golden.passed
        found += launch.events(GoldenResult)
    assert len(found) == len(bundles)
    return found


OTHERS = [
    (family.name, BOTH) for family in families.FAMILIES if family.name not in REFUSED and family.name not in ALWAYS
] + [("danube", ["onnxruntime"])]
CASES = [*ALWAYS.items(), *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]


@pytest.mark.parametrize(("name", "runtimes"), CASES)
def test_the_probe_computes_what_eager_pytorch_computes(
    name: str, runtimes: list[str], export_cache: Path, tmp_path: Path
) -> None:
    family = families.family(name)
    golden = eager_golden(family)
    made = exported(name, runtimes, tmp_path / "exports")
    bundles = [with_golden(bundle, golden, tmp_path / runtime) for runtime, bundle in made.items()]
    for answer in probed(bundles, tmp_path / "runs"):
        assert judge(golden, answer).passed
        for fault in family.faults:
            wrong = golden_of(
                answered(family.faulty(fault), golden.prompt, golden.tokens), golden.prompt, golden.tokens
            )
            assert not judge(wrong, answer).passed, (fault.feature, fault.settings)


@pytest.mark.parametrize("name", ["gemma2", "lfm2"])
def test_four_bits_on_the_probe_are_those_of_the_host(name: str, export_cache: Path, tmp_path: Path) -> None:
    """The record that ExecuTorch's own Python runtime made of the same program, over a prompt beyond the window."""
    from edgekit_export.gate.executorch_runner import ExecutorchRunner
    from edgekit_export.gate.golden import record_golden

    source = str(families.family(name).save(tmp_path))
    (outcome,) = export_bundles(source, ["w4a8"], ["executorch"], out_dir=tmp_path, context_length=families.CONTEXT)
    assert outcome.directory is not None
    golden = record_golden(
        ExecutorchRunner(outcome.directory / "model.pte"),
        families.tokens(PROMPT)[0].tolist(),
        context_length=families.CONTEXT,
        tolerance=load_recipe("w4a8").thresholds.logit_tolerance,
    )
    probed([with_golden(outcome.directory, golden, tmp_path / "bundle")], tmp_path / "runs")
