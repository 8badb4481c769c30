from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgekit.errors import InputError, UnsupportedError
from edgekit.progress import ProgressEvent
from edgekit.schema.bundle import MANIFEST
from edgekit.schema.integrity import check_bundle, describe_file, path_fault


def fails(directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        check_bundle(directory)
    return str(caught.value)


def test_a_sound_bundle_is_returned_and_hashing_is_reported(bundle_dir: Path) -> None:
    seen: list[ProgressEvent] = []
    bundle = check_bundle(bundle_dir, progress=seen.append)
    assert bundle.model == "tiny"
    assert seen[-1].done == seen[-1].total == sum(entry.bytes for entry in bundle.files)


@pytest.mark.parametrize("position", [0, 2500, 5119])
def test_one_flipped_bit_is_found(bundle_dir: Path, position: int) -> None:
    weights = bundle_dir / "model.onnx.data"
    data = bytearray(weights.read_bytes())
    data[position] ^= 1
    weights.write_bytes(data)
    message = fails(bundle_dir)
    assert "model.onnx.data has another content" in message
    assert "export it again" in message


def test_a_short_file_is_found_by_its_size(bundle_dir: Path) -> None:
    weights = bundle_dir / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "has 5119 bytes instead of 5120" in fails(bundle_dir)


def test_all_findings_are_told_at_once(bundle_dir: Path) -> None:
    (bundle_dir / "model.onnx").unlink()
    (bundle_dir / "tokenizer" / "extra.json").write_text("{}")
    message = fails(bundle_dir)
    assert "model.onnx is missing" in message
    assert "'tokenizer/extra.json' is not listed" in message


def test_what_a_desktop_leaves_behind_is_ignored(bundle_dir: Path) -> None:
    (bundle_dir / "tokenizer" / ".DS_Store").write_bytes(b"x")
    check_bundle(bundle_dir)


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
@pytest.mark.parametrize("victim", ["model.onnx.data", "tokenizer", MANIFEST])
def test_symbolic_links_are_refused_even_to_the_right_content(bundle_dir: Path, tmp_path: Path, victim: str) -> None:
    (bundle_dir / victim).rename(tmp_path / "elsewhere")
    (bundle_dir / victim).symlink_to(tmp_path / "elsewhere")
    fails(bundle_dir)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_named_pipe_does_not_hang_the_check(bundle_dir: Path) -> None:
    (bundle_dir / "model.onnx").unlink()
    os.mkfifo(bundle_dir / "model.onnx")
    assert "no regular file" in fails(bundle_dir)


@pytest.mark.parametrize(
    "path",
    ["../secret", "/etc/passwd", "a/../../b", "C:\\x", "a\\b", "", "a//b", "./a", "a/", "nul\0", "dots.", MANIFEST],
)
def test_paths_that_are_no_plain_relative_paths_are_refused(bundle_dir: Path, edit_manifest, path: str) -> None:
    assert path_fault(path)
    edit_manifest(lambda raw: raw["files"][1].update(path=path))
    fails(bundle_dir)


def test_a_file_outside_is_never_read(bundle_dir: Path, edit_manifest) -> None:
    outside = bundle_dir.parent / "secret"
    outside.write_bytes(b"secret")
    entry = describe_file(bundle_dir.parent, "secret", "weights")
    edit_manifest(lambda raw: raw["files"].append({**raw["files"][0], "path": "../secret", "sha256": entry.sha256}))
    assert "leads out of the bundle" in fails(bundle_dir)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw["gate"].update(passed=False), "verdict does not follow"),
        (lambda raw: raw["gate"]["checks"][0].update(passed=False), "verdict does not follow"),
        (lambda raw: raw["files"].append(raw["files"][0]), "listed twice"),
        (lambda raw: raw["files"][0].update(role="weights"), "exactly one must have the role model"),
        (lambda raw: raw["files"][0].update(sha256="F" * 64), "SHA-256"),
        (lambda raw: raw["runtime"]["onnx"].update(past=[]), "differ in length"),
        (lambda raw: raw["runtime"].update(onnx=None), "without its interface"),
        (lambda raw: raw["runtime"].update(context_length=4), "cache shape"),
        (lambda raw: raw["runtime"].update(kv_cache_bytes=1), "kv_cache_bytes"),
        (lambda raw: raw["golden"]["tokens"].append(1), "differ in length"),
        (lambda raw: raw["golden"].update(prompt=[32]), "outside the vocabulary"),
        (lambda raw: raw["golden"].update(tolerance=0.0), "tolerance"),
        (lambda raw: raw["golden"]["logits"][0].pop(), "logit_ids"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(bundle_dir: Path, edit_manifest, change, said: str) -> None:
    edit_manifest(change)
    assert said in fails(bundle_dir)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    assert "no bundle.json" in fails(tmp_path / "nowhere")
    assert "no bundle.json" in fails(tmp_path)
    (tmp_path / MANIFEST).mkdir()
    assert "not a regular file" in fails(tmp_path)


def test_a_newer_manifest_is_refused_as_newer(bundle_dir: Path, edit_manifest) -> None:
    edit_manifest(lambda raw: raw.update(schema_version=2))
    with pytest.raises(UnsupportedError, match="newer"):
        check_bundle(bundle_dir)
