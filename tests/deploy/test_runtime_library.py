"""The runtime's library: from an installed package, from a wheel through the real pip, from the cache."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from edgekit.deploy import runtime_library
from edgekit.deploy.runtime_library import KNOWN_SHA256, ensure_runtime, extract_library
from edgekit.deploy.toolchain import host_abi
from edgekit.errors import InputError, MissingToolError, UnsupportedError

MACHINE = {"linux-x86_64": 62, "linux-arm64": 183}
VERSION = "0.99.0"


def library_bytes(abi: str, filling: bytes = b"code") -> bytes:
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 3, MACHINE[abi]) + filling * 16


def make_wheel(folder: Path, abi: str, content: bytes, *, members: int = 1) -> Path:
    """A wheel that pip accepts, with a library of our own making."""
    platform = {"linux-x86_64": "x86_64", "linux-arm64": "aarch64"}[abi]
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"onnxruntime-{VERSION}-py3-none-manylinux_2_28_{platform}.whl"
    info = f"onnxruntime-{VERSION}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for number in range(members):
            archive.writestr(f"onnxruntime/capi/libonnxruntime.so.{number}", content)
        archive.writestr("onnxruntime/capi/libonnxruntime_providers_shared.so", b"something else")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: onnxruntime\nVersion: {VERSION}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip sees this folder and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.mark.parametrize("abi", ["linux-x86_64", "linux-arm64"])
def test_fetched_by_pip_for_either_abi_then_offline(index: Path, abi: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in MACHINE:
        make_wheel(index, each, library_bytes(each))
    stages: list[str] = []
    path = ensure_runtime("onnxruntime", VERSION, abi, progress=lambda event: stages.append(event.stage))
    assert path.read_bytes() == library_bytes(abi)
    assert path.name == "libonnxruntime.so"
    assert stages == ["download"]
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".lock", "libonnxruntime.so", "library.json"]
    monkeypatch.setattr(subprocess, "run", None)
    assert ensure_runtime("onnxruntime", VERSION, abi) == path


def test_not_to_be_had(index: Path, empty_cache: Path) -> None:
    with pytest.raises(MissingToolError, match="with pip: exit code") as caught:
        ensure_runtime("onnxruntime", VERSION, "linux-arm64")
    assert VERSION in str(caught.value.detail)
    assert "pip download" in str(caught.value.hint)
    assert not list(empty_cache.rglob("*.so"))


def test_wheel_with_another_machines_library(index: Path, empty_cache: Path) -> None:
    make_wheel(index, "linux-arm64", library_bytes("linux-x86_64"))
    with pytest.raises(UnsupportedError, match="built for x86_64"):
        ensure_runtime("onnxruntime", VERSION, "linux-arm64")
    assert not list(empty_cache.rglob("*.so"))


def test_another_build_of_a_known_version(index: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    make_wheel(index, "linux-arm64", library_bytes("linux-arm64"))
    monkeypatch.setitem(runtime_library.KNOWN_SHA256, (VERSION, "linux-arm64"), "0" * 64)
    with pytest.raises(InputError, match="SHA-256"):
        ensure_runtime("onnxruntime", VERSION, "linux-arm64")
    assert not list(empty_cache.rglob("*.so"))


def test_cached_library_that_was_changed(index: Path) -> None:
    make_wheel(index, "linux-arm64", library_bytes("linux-arm64"))
    path = ensure_runtime("onnxruntime", VERSION, "linux-arm64")
    path.write_bytes(library_bytes("linux-arm64", b"evil"))
    with pytest.raises(InputError, match="changed"):
        ensure_runtime("onnxruntime", VERSION, "linux-arm64")
    path.write_bytes(b"")
    with pytest.raises(InputError, match="not a 64-bit"):
        ensure_runtime("onnxruntime", VERSION, "linux-arm64")


def test_the_installed_package_is_used_where_it_fits(offline: None) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    abi = host_abi()
    if abi is None:
        pytest.skip("Linux only")
    path = ensure_runtime("onnxruntime", onnxruntime.__version__, abi)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == KNOWN_SHA256.get((onnxruntime.__version__, abi), digest)
    original = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    assert path.read_bytes() == original.read_bytes()
    # A copy: upgrading the package later must not change what was measured.
    assert not path.samefile(original)


def test_android_says_where_to_take_it_and_takes_it_there(offline: None, empty_cache: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        ensure_runtime("onnxruntime", VERSION, "android-arm64-v8a")
    place = empty_cache / "runtimes" / "onnxruntime" / VERSION / "android-arm64-v8a" / "libonnxruntime.so"
    assert str(place) in str(caught.value.hint)
    assert "edgekit add-runtime" in str(caught.value.hint)
    place.write_bytes(library_bytes("linux-x86_64"))
    with pytest.raises(UnsupportedError, match="built for x86_64"):
        ensure_runtime("onnxruntime", VERSION, "android-arm64-v8a")
    place.write_bytes(library_bytes("linux-arm64"))
    assert ensure_runtime("onnxruntime", VERSION, "android-arm64-v8a") == place


@pytest.mark.parametrize(
    ("name", "version", "abi", "kind"),
    [
        ("tensorflow", VERSION, "linux-arm64", UnsupportedError),
        ("onnxruntime", VERSION, "linux-riscv64", UnsupportedError),
        ("onnxruntime", "../../etc", "linux-arm64", InputError),
        ("onnxruntime", "--index-url=x", "linux-arm64", InputError),
        ("onnxruntime", "", "linux-arm64", InputError),
    ],
)
def test_what_is_refused_before_anything_is_fetched(offline: None, name, version, abi, kind) -> None:
    with pytest.raises(kind):
        ensure_runtime(name, version, abi)


def test_wheels_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    target = tmp_path / "library.so"
    for members in (0, 2):
        wheel = make_wheel(tmp_path / str(members), "linux-arm64", b"x", members=members)
        with pytest.raises(InputError, match=f"holds {members} libraries"):
            extract_library(wheel, target)
    broken = tmp_path / "broken.whl"
    broken.write_bytes(make_wheel(tmp_path / "w", "linux-arm64", b"x").read_bytes()[:100])
    with pytest.raises(InputError, match=r"read broken\.whl"):
        extract_library(broken, target)
    assert not target.exists()
