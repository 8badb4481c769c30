"""Runtimes for Android from their publishers' archives, and the probe built against them with an NDK."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import zipfile
from pathlib import Path

import pytest

from edgekit.cli.main import _exit_code
from edgekit.deploy import executorch_package, executorch_probe
from edgekit.deploy.android_archive import add_archives
from edgekit.deploy.executorch_package import SUPPORTED, ExecutorchPackage
from edgekit.deploy.executorch_probe import ensure_executorch_probe
from edgekit.deploy.runtime_library import ensure_runtime
from edgekit.errors import InputError, UnsupportedError

ARM, X86 = "android-arm64-v8a", "android-x86_64"
EXECUTORCH = SUPPORTED[-1]


def library(machine: int, filling: bytes = b"code") -> bytes:
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 3, machine) + filling * 16


def archive(path: Path, names: tuple[str, ...], filling: bytes = b"code", machine: int = 183) -> Path:
    """An AAR as publishers make them."""
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("AndroidManifest.xml", "<manifest/>")
        content.writestr("classes.jar", b"PK")
        for name in names:
            content.writestr(f"jni/arm64-v8a/{name}", library(machine, filling))
            content.writestr(f"jni/x86_64/{name}", library(62, filling))
    return path


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def onnxruntime_aar(tmp_path: Path) -> Path:
    return archive(tmp_path / "onnxruntime-android-1.32.0.aar", ("libonnxruntime.so", "libonnxruntime4j_jni.so"))


@pytest.mark.parametrize(("abi", "machine"), [(ARM, 183), (X86, 62)])
def test_what_was_added_is_what_the_probe_gets(onnxruntime_aar: Path, abi: str, machine: int) -> None:
    added = add_archives([onnxruntime_aar], abi)
    assert (added.runtime, added.version, added.pinned_now) == ("onnxruntime", "1.32.0", True)
    found = ensure_runtime("onnxruntime", "1.32.0", abi)
    assert added.libraries == [found]
    assert found.read_bytes() == library(machine)
    found.write_bytes(library(machine, b"evil"))
    with pytest.raises(InputError, match="changed"):
        ensure_runtime("onnxruntime", "1.32.0", abi)


def test_hashes_are_demanded_or_pinned(
    onnxruntime_aar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = hashlib.sha256(onnxruntime_aar.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=digest):
        add_archives([onnxruntime_aar], ARM, sha256=["0" * 64])
    assert not add_archives([onnxruntime_aar], ARM, sha256=[digest.upper()]).pinned_now
    assert _exit_code(["add-runtime", str(onnxruntime_aar)]) == 0
    told = capsys.readouterr()
    assert told.out.strip().endswith("libonnxruntime.so")
    assert "Nobody has confirmed" in told.err
    assert digest in told.err
    (tmp_path / "other").mkdir()
    other = archive(tmp_path / "other" / onnxruntime_aar.name, ("libonnxruntime.so",), b"evil")
    assert _exit_code(["add-runtime", str(other)]) == 3
    assert "added first" in capsys.readouterr().err


def test_what_is_no_runtimes_archive(onnxruntime_aar: Path, tmp_path: Path, empty_cache: Path) -> None:
    stranger = archive(tmp_path / "tensorflow-lite-2.16.1.aar", ("libtensorflowlite_jni.so",))
    with pytest.raises(UnsupportedError, match="no runtime's archive") as caught:
        add_archives([stranger], ARM)
    assert "onnxruntime-android-VERSION.aar" in str(caught.value.hint)
    with pytest.raises(UnsupportedError, match="linux-arm64"):
        add_archives([onnxruntime_aar], "linux-arm64")
    empty = archive(tmp_path / "executorch-android-1.5.1.aar", ("libother.so",))
    with pytest.raises(InputError, match=r"jni/arm64-v8a/libexecutorch\.so"):
        add_archives([empty], ARM)
    unnamed = onnxruntime_aar.rename(tmp_path / "onnxruntime-android.aar")
    with pytest.raises(InputError, match="no release"):
        add_archives([unnamed], ARM)
    unnamed.write_bytes(unnamed.read_bytes()[:100])
    with pytest.raises(InputError, match="read onnxruntime-android"):
        add_archives([unnamed], ARM, version="1.32.0")
    with pytest.raises(InputError, match="gone"):
        add_archives([tmp_path / "onnxruntime-android-1.0.0-gone.aar"], ARM)
    wrong = archive(tmp_path / "onnxruntime-android-1.0.0.aar", ("libonnxruntime.so",), machine=62)
    with pytest.raises(UnsupportedError, match="built for x86_64"):
        add_archives([wrong], ARM)
    assert not list(empty_cache.rglob("*.so"))


COMPILER = """#!{python}
import json, pathlib, sys
if "--version" in sys.argv:
    print("clang 19.0.1")
    sys.exit()
with open({log!r}, "a") as log:
    print(json.dumps(sys.argv), file=log)
if {fails}:
    sys.exit("ld.lld: error: undefined symbol: et_pal_init")
pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_bytes({binary!r})
"""


def make_ndk(folder: Path, log: Path, *, fails: bool = False) -> Path:
    tools = folder / "toolchains/llvm/prebuilt/linux-x86_64/bin"
    tools.mkdir(parents=True)
    compiler = tools / "aarch64-linux-android24-clang++"
    compiler.write_text(COMPILER.format(python=sys.executable, log=str(log), binary=library(183), fails=fails))
    compiler.chmod(0o755)
    return folder


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """ExecuTorch's archives, added; headers stand in for those of the wheel."""
    archives = [
        archive(tmp_path / f"executorch-android-{EXECUTORCH}.aar", ("libexecutorch.so",)),
        archive(tmp_path / "fbjni-0.7.0.aar", ("libfbjni.so", "libc++_shared.so")),
    ]
    real = executorch_package.ensure_package

    def headers(version: str, abi: str, **options: object) -> ExecutorchPackage:
        return ExecutorchPackage(tmp_path / "include", ()) if abi == "linux-arm64" else real(version, abi, **options)

    monkeypatch.setattr(executorch_package, "ensure_package", headers)
    monkeypatch.setattr(executorch_probe, "ensure_package", headers)
    return add_archives(archives, ARM).libraries


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for a compiler is a script")
def test_the_executorch_probe_is_linked_against_them_with_the_ndk(
    added: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "compiler.log"
    monkeypatch.setenv("ANDROID_NDK_HOME", str(make_ndk(tmp_path / "ndk", log)))
    made = ensure_executorch_probe(EXECUTORCH, ARM)
    assert {path.name for path in made.libraries} == {"libexecutorch.so", "libfbjni.so", "libc++_shared.so"}
    assert made.libraries[-1].name == "libexecutorch.so"
    assert all(path.parent == made.probe.parent for path in made.libraries)
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    link = calls[-1]
    assert f"-isystem{tmp_path / 'include'}" in link
    assert f"-L{added[0].parent}" in link
    assert link.index("-Wl,--no-as-needed") < link.index("-l:libfbjni.so") < link.index("-l:libexecutorch.so")
    assert "-Wl,-rpath,$ORIGIN" in link
    assert "-static-libstdc++" in link
    assert "-pthread" not in link
    # Built once.
    assert ensure_executorch_probe(EXECUTORCH, ARM) == made
    assert len(log.read_text().splitlines()) == len(calls)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for a compiler is a script")
def test_what_cannot_be_linked_names_the_way_round(
    added: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANDROID_NDK_HOME", str(make_ndk(tmp_path / "ndk", tmp_path / "log", fails=True)))
    with pytest.raises(UnsupportedError, match=r"clang\+\+ failed") as caught:
        ensure_executorch_probe(EXECUTORCH, ARM)
    assert "undefined symbol" in str(caught.value.detail)
    assert "EDGEKIT_C_LIBRARY=bundled" in str(caught.value.hint)


def test_without_the_archive_its_commands_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.name == "nt":
        pytest.skip("the stand-in for a compiler is a script")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(make_ndk(tmp_path / "ndk", tmp_path / "log")))
    with pytest.raises(UnsupportedError, match="not on PyPI") as caught:
        ensure_executorch_probe(EXECUTORCH, ARM)
    hint = str(caught.value.hint)
    assert f"-Dartifact=org.pytorch:executorch-android:{EXECUTORCH}:aar" in hint
    assert "edgekit add-runtime --abi android-arm64-v8a executorch-android-*.aar fbjni-*.aar" in hint
