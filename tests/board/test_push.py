"""Bundles on devices: what is refused, what is sent, where it lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from board import Board
from bundle_making import write_bundle
from userland import Userland

from edgekit.deploy.push import push_bundle, push_files
from edgekit.device.local import LocalDevice
from edgekit.errors import InputError, UnfaithfulError
from edgekit.schema.bundle import MANIFEST


@pytest.fixture(params=["local", pytest.param("x86_board", marks=pytest.mark.board)])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Userland:
    if request.param == "local":
        return Userland(LocalDevice(tmp_path / "root"))
    board: Board = request.getfixturevalue("x86_board")
    return Userland(board.device(f"/data/local/tmp/{tmp_path.name}"))


@pytest.fixture
def bundle_dir(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def fail_gate(directory: Path) -> None:
    raw = json.loads((directory / MANIFEST).read_bytes())
    raw["gate"]["passed"] = False
    raw["gate"]["checks"][0] |= {"passed": False, "found": "3.5", "cause": "the RoPE base differs"}
    (directory / MANIFEST).write_text(json.dumps(raw))


def test_a_bundle_lies_on_the_device_as_it_was_exported(device: Userland, bundle_dir: Path) -> None:
    pushed = push_bundle(device, bundle_dir)
    for name in ("model.onnx", "model.onnx.data", "tokenizer/tokenizer.json"):
        assert device.run(["cat", f"{pushed.directory}/{name}"]).stdout == (bundle_dir / name).read_bytes()
    assert pushed.model_path == f"{pushed.directory}/model.onnx"
    assert (pushed.device, pushed.model, pushed.recipe) == (device.name, "tiny", "fp32")
    size = 50 + 256 * 20 + 13
    assert pushed.bytes_sent + pushed.bytes_reused == size
    again = push_bundle(device, bundle_dir)
    assert (again.directory, again.bytes_sent, again.bytes_reused) == (pushed.directory, 0, size)


def test_this_machine_uses_bundles_and_programs_where_they_lie(tmp_path: Path, bundle_dir: Path) -> None:
    device = LocalDevice(tmp_path / "root")
    assert push_bundle(device, bundle_dir).model_path == str(bundle_dir / "model.onnx")
    assert push_files(device, {"x": bundle_dir / MANIFEST}) == {"x": str(bundle_dir / MANIFEST)}
    assert not (tmp_path / "root").exists()


def test_an_unfaithful_bundle_is_refused_unless_allowed(device: Userland, bundle_dir: Path) -> None:
    fail_gate(bundle_dir)
    with pytest.raises(UnfaithfulError) as caught:
        push_bundle(device, bundle_dir)
    assert "the RoPE base differs" in str(caught.value)
    assert device.stat(device.root) is None
    assert push_bundle(device, bundle_dir, allow_unfaithful=True).recipe == "fp32"


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "add", "manifest"])
def test_a_bundle_edited_by_hand_is_refused_before_anything_is_sent(
    device: Userland, bundle_dir: Path, damage: str
) -> None:
    weights = bundle_dir / "model.onnx.data"
    if damage == "flip":
        weights.write_bytes(b"X" + weights.read_bytes()[1:])
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "remove":
        weights.unlink()
    elif damage == "add":
        (bundle_dir / "extra").touch()
    else:
        (bundle_dir / MANIFEST).write_bytes((bundle_dir / MANIFEST).read_bytes()[:-100])
    with pytest.raises(InputError):
        push_bundle(device, bundle_dir)
    assert device.pushed == []
    assert device.stat(device.root) is None


def test_missing_programs_are_named(device: Userland, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such-probe"):
        push_files(device, {"probe": tmp_path / "no-such-probe"})
