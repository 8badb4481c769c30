from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edgekit.errors import HostStorageError, InputError, UnfaithfulError, UnsupportedError
from edgekit.progress import ProgressEvent
from edgekit.resources import profiles_dir
from edgekit.schema.bundle import MANIFEST
from edgekit.schema.integrity import check_bundle, read_manifest
from edgekit_export.bundling import new_bundle, write_manifest
from edgekit_export.pipeline import _settle, export_onnx, verify


def recipe_file(folder: Path, name: str, base: str = "w4", **thresholds: float) -> str:
    """A recipe of one's own beside the shipped ones."""
    text = (
        (profiles_dir() / "quantization" / f"{base}.toml").read_text().replace(f'name = "{base}"', f'name = "{name}"')
    )
    for key, value in thresholds.items():
        lines = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in text.splitlines()]
        text = "\n".join(lines)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("recipe", ["fp32", "w8", "w4"])
def test_a_bundle_holds_everything_and_says_what_it_is(exported: Path, trained: Path, recipe: str) -> None:
    bundle = check_bundle(exported / f"tiny-onnxruntime-{recipe}")
    assert bundle.model == "tiny"
    assert bundle.recipe.name == recipe
    assert bundle.gate.passed
    assert bundle.gate.figures.tokens >= 500
    assert bundle.gate.text == "harbour-town-1"
    assert bundle.runtime.context_length == 512
    assert bundle.tokenizer is not None
    assert bundle.tokenizer.eos_ids == [2]
    assert {entry.role for entry in bundle.files} == {"model", "weights", "tokenizer", "config", "operators"}
    assert len(bundle.golden.tokens) == 16
    assert bundle.golden.scatter is not None
    assert bundle.golden.tolerance >= 2 * bundle.golden.scatter
    assert len(bundle.golden.logit_ids) == 48
    assert set(bundle.golden.tokens) <= set(bundle.golden.logit_ids)
    assert bundle.cost.peak_rss_bytes > 0
    assert bundle.cost.wall_s == pytest.approx(sum(bundle.cost.stages_s.values()), abs=0.01)
    assert set(bundle.cost.stages_s) >= {"open source", "trace", "reference", "write", "gate"}
    low, high = {"fp32": (32, 33), "w8": (8, 10), "w4": (4, 8)}[recipe]
    assert low <= bundle.recipe.bits_per_weight <= high
    assert str(trained) in bundle.source.name
    assert str(Path.home()) not in json.dumps(msgspec.to_builtins(bundle.gate))


def test_the_same_export_is_not_made_again(exported: Path, trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    seen: list[ProgressEvent] = []
    outcomes = export_onnx(str(trained), ["w4", "fp32"], out_dir=exported, progress=seen.append)
    assert [outcome.recipe for outcome in outcomes] == ["w4", "fp32"]
    assert all(outcome.reused for outcome in outcomes)
    assert {path: path.stat().st_mtime_ns for path in exported.rglob("*")} == before
    assert not {"trace", "reference", "load model"} & {event.stage for event in seen}


def test_whatever_changes_the_result_is_exported_anew(bundle, model_dir: Path, tmp_path: Path) -> None:
    directory = bundle("w8")

    def reused(**options: object) -> bool:
        (outcome,) = export_onnx(str(model_dir), ["w8"], out_dir=tmp_path, **options)  # type: ignore[arg-type]
        assert outcome.directory == directory
        return outcome.reused

    assert reused()
    assert not reused(force=True)
    assert reused()
    (directory / "model.onnx.data").write_bytes(b"damaged")
    assert not reused()
    check_bundle(directory)
    generation = model_dir / "generation_config.json"
    generation.write_text(json.dumps({"bos_token_id": 1, "eos_token_id": [2, 1], "pad_token_id": 0}))
    assert not reused()
    assert read_manifest(directory).tokenizer.eos_ids == [2, 1]  # type: ignore[union-attr]
    assert leftovers(tmp_path) == ["tiny", directory.name]


def test_arguments_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    for recipes, said in ((["w4", "w3"], "w3"), ([], "no recipe")):
        with pytest.raises(InputError, match=said):
            export_onnx("no/such-model", recipes, out_dir=tmp_path)
    with pytest.raises(InputError, match="too short"):
        export_onnx("no/such-model", ["w4"], out_dir=tmp_path, context_length=4)
    assert leftovers(tmp_path) == []


def test_a_context_longer_than_the_model_was_made_for(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 512"):
        export_onnx(str(trained), ["fp32"], out_dir=tmp_path, context_length=513)


def test_a_refused_recipe_does_not_stop_the_others(bundle, trained: Path, tmp_path: Path) -> None:
    directory = bundle("w8")
    refused = tmp_path / "elsewhere.toml"
    text = (profiles_dir() / "quantization" / "w4.toml").read_text().replace('name = "w4"', 'name = "elsewhere"')
    refused.write_text(
        text.partition("[runtimes.onnxruntime]")[0] + '[runtimes.onnxruntime]\nrefused = "no such kernel"\n'
    )
    first, second = export_onnx(str(trained), [str(refused), "w8"], out_dir=tmp_path)
    assert first.bundle is None
    assert "no such kernel" in str(first.refusal)
    assert second.directory == directory
    with pytest.raises(UnsupportedError, match="no such kernel"):
        export_onnx("no/such-model", [str(refused)], out_dir=tmp_path)


def test_what_all_refusals_advise_is_advised_once() -> None:
    jobs: list[Any] = [(SimpleNamespace(name="executorch"), SimpleNamespace(name=name)) for name in ("w8", "w4")]
    alike = UnsupportedError("no such cache", hint="take --kv-cache float32")
    with pytest.raises(UnsupportedError) as caught:
        _settle(jobs, {("executorch", "w8"): alike, ("executorch", "w4"): alike})
    assert (caught.value.detail, caught.value.hint) == ("no such cache", "take --kv-cache float32")
    other = UnsupportedError("no such heads", hint="take another model")
    with pytest.raises(UnsupportedError) as caught:
        _settle(jobs, {("executorch", "w8"): alike, ("executorch", "w4"): other})
    assert caught.value.detail == "no such cache\nno such heads"
    assert "edgekit recipes" in (caught.value.hint or "")


def test_an_unfaithful_export_is_not_kept_unless_allowed(trained: Path, tmp_path: Path) -> None:
    strict = recipe_file(tmp_path, "strict", kl_mean=1e-9, kl_p99=1e-9, kl_max=1e-9)
    out = tmp_path / "out"
    with pytest.raises(UnfaithfulError) as caught:
        export_onnx(str(trained), [strict], out_dir=out)
    assert "kl mean" in caught.value.message
    assert "what the recipe's rounding loses" in str(caught.value)
    assert leftovers(out) == []

    (outcome,) = export_onnx(str(trained), [strict], out_dir=out, allow_unfaithful=True)
    assert outcome.directory is not None
    gate = check_bundle(outcome.directory).gate
    assert (gate.passed, gate.allowed_unfaithful) == (False, True)
    assert verify(outcome.directory, source=str(trained)).allowed_unfaithful
    # Allowed once is not allowed for ever.
    with pytest.raises(UnfaithfulError):
        export_onnx(str(trained), [strict], out_dir=out)
    assert check_bundle(outcome.directory).gate.allowed_unfaithful


def test_an_interrupt_leaves_nothing_behind(trained: Path, tmp_path: Path) -> None:
    def interrupt(event: ProgressEvent) -> None:
        if event.stage == "gate":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_onnx(str(trained), ["fp32"], out_dir=tmp_path / "out", progress=interrupt)
    assert leftovers(tmp_path / "out") == []


#: Begins a bundle beside its place, and stays there until it is killed.
BEGIN = """
import sys, time
from pathlib import Path
from edgekit_export.bundling import new_bundle
with new_bundle(Path(sys.argv[1])) as folder:
    (folder / "model.pte").write_bytes(b"half")
    print("begun", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be held there")
def test_what_a_killed_export_left_goes_with_the_next_one(tmp_path: Path) -> None:
    target, neighbour = tmp_path / "m-w4", tmp_path / ".m-w4a8.part-abcd"
    neighbour.mkdir()
    command = [sys.executable, "-c", BEGIN, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            with new_bundle(target) as folder:
                (folder / MANIFEST).write_text("{}")
            assert len(list(tmp_path.glob(".m-w4.part-*"))) == 1, "an export that still runs is left alone"
        finally:
            process.kill()
    # Killed between the two renames that replace a bundle.
    aside = tmp_path / ".m-w4.old-abcd"
    aside.mkdir()
    target.rename(aside / "old")
    with suppress(InterruptedError), new_bundle(target):
        assert target.is_dir(), "the bundle that was to be replaced is there again"
        assert len(list(tmp_path.glob(".m-w4.*"))) == 1
        raise InterruptedError
    assert sorted(tmp_path.iterdir()) == [neighbour, target]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")
def test_a_full_disk_is_said_to_be_one(trained: Path, tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(HostStorageError) as caught:
            export_onnx(str(trained), ["fp32"], out_dir=tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.hint
    assert leftovers(tmp_path / "out") == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(HostStorageError):
        export_onnx(str(trained), ["fp32"], out_dir=tmp_path / "out")


def test_what_is_no_bundle_is_not_overwritten(trained: Path, tmp_path: Path) -> None:
    precious = tmp_path / "tiny-onnxruntime-fp32" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(InputError, match="something else is there"):
        export_onnx(str(trained), ["fp32"], out_dir=tmp_path, force=True)
    assert precious.read_text() == "years of work"


def test_verify_runs_the_gate_again(exported: Path, trained: Path) -> None:
    directory = exported / "tiny-onnxruntime-w4"
    recorded = read_manifest(directory).gate
    gate = verify(directory, source=str(trained))
    assert gate.passed
    assert gate.figures.kl_mean == pytest.approx(recorded.figures.kl_mean, rel=0.05)
    assert gate.checks[-1].name == "golden record"


def test_verify_without_the_source_lets_the_recorded_verdict_stand(bundle) -> None:
    directory = bundle("w4")
    manifest = read_manifest(directory)
    gone = msgspec.structs.replace(manifest.source, name="/nowhere/at/all")
    write_manifest(directory, msgspec.structs.replace(manifest, source=gone))
    gate = verify(directory)
    assert gate.passed
    assert [check.name for check in gate.checks[-2:]] == ["golden record", "source"]
    with pytest.raises(InputError):
        verify(directory, source="/nowhere/at/all")


def test_verify_against_another_model(exported: Path, model_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(model_dir / "model.safetensors")
    weights["model.norm.weight"] += 0.1
    save_file(weights, model_dir / "model.safetensors")
    with pytest.raises(InputError, match="not what the bundle was made from"):
        verify(exported / "tiny-onnxruntime-w8", source=str(model_dir))


def test_verify_finds_a_golden_record_that_was_edited(bundle) -> None:
    directory = bundle("fp32")
    raw = json.loads((directory / MANIFEST).read_text())
    raw["golden"]["logits"][3][5] += 1.0
    (directory / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(UnfaithfulError, match="golden record"):
        verify(directory)


@pytest.mark.slow
def test_random_weights_in_any_number_of_layers(tmp_path: Path) -> None:
    outcomes = export_onnx("arch:smollm2-135m:layers=2", ["w8", "w4"], out_dir=tmp_path, context_length=128)
    for outcome in outcomes:
        assert outcome.bundle is not None
        assert outcome.bundle.tokenizer is None
        assert outcome.bundle.architecture.layers == 2
        assert outcome.bundle.gate.text.startswith("random tokens")
