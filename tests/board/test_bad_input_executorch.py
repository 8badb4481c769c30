"""ExecuTorch bundles a device cannot serve: one message, a documented exit code, nothing left on the device."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from board import Board

from edgekit.cli.main import _exit_code
from edgekit.schema import codec
from edgekit.schema.bundle import MANIFEST, Bundle
from edgekit.schema.integrity import describe_file

pytestmark = pytest.mark.board

SHORT = ["-p", "8", "-n", "4", "-r", "1", "-t", "1"]


@pytest.fixture
def bundle(exported_executorch: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(exported_executorch / "tiny-executorch-w4a8", tmp_path / "bundle"))


def described_anew(bundle: Path, **runtime: object) -> None:
    """Make the manifest tell what the files are now, as if they had been exported so."""
    manifest = codec.read(bundle / MANIFEST, Bundle)
    files = [describe_file(bundle, entry.path, entry.role) for entry in manifest.files]
    changed = msgspec.structs.replace(manifest.runtime, **runtime)
    (bundle / MANIFEST).write_bytes(codec.encode(msgspec.structs.replace(manifest, files=files, runtime=changed)))


def contents(board: Board) -> list[str]:
    """What lies in the board's store, the folders of kept runs and unfinished files among it."""
    device = board.device()
    found = device.run(["sh", "-c", f"cd {device.root} 2>/dev/null && find runs bundles objects -type f"])
    return sorted(found.stdout.decode().split())


@pytest.fixture
def refuse(bundle: Path, x86_board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(exit_code: int, *arguments: str) -> str:
        """Probe the bundle on the board; the message with which that was refused."""
        device = ["-s", f"adb:{x86_board.serial}", "--out", str(tmp_path / "runs")]
        assert _exit_code(["probe", str(bundle), *SHORT, *arguments, *device]) == exit_code
        stderr = capsys.readouterr().err
        assert "Traceback" not in stderr
        assert stderr.count("edgekit: ") == 1, stderr
        assert "Next: " in stderr
        left = contents(x86_board)
        assert not [path for path in left if path.startswith("runs/") or ".part" in path]
        return stderr

    return call


def test_of_another_release(bundle: Path, x86_board: Board, refuse: Callable[..., str], tmp_path: Path) -> None:
    described_anew(bundle, version="1.4.0")
    before = contents(x86_board)
    message = refuse(4)
    assert "1.4.0" in message
    assert "1.5.1" in message
    assert "export it again" in message
    assert contents(x86_board) == before
    assert not (tmp_path / "runs").exists()


def test_of_another_file_format(bundle: Path, refuse: Callable[..., str]) -> None:
    program = bundle / "model.pte"
    program.write_bytes(program.read_bytes()[:4] + b"ET99" + program.read_bytes()[8:])
    described_anew(bundle)
    message = refuse(8)
    assert "no ExecuTorch program of a version this probe reads" in message


def test_with_an_operator_that_the_probe_lacks(bundle: Path, refuse: Callable[..., str]) -> None:
    program = bundle / "model.pte"
    program.write_bytes(program.read_bytes().replace(b"llama::custom_sdpa", b"llama::custom_xxxx"))
    described_anew(bundle)
    assert "operators that the probe lacks: llama::custom_xxxx.out" in refuse(8)


def test_cut_short(bundle: Path, x86_board: Board, refuse: Callable[..., str], tmp_path: Path) -> None:
    program = bundle / "model.pte"
    os.truncate(program, program.stat().st_size - 4096)
    before = contents(x86_board)
    assert "model.pte" in refuse(3)
    assert contents(x86_board) == before
    assert not (tmp_path / "runs").exists()
    # Also where nobody noticed on the host.
    described_anew(bundle)
    assert "cut short" in refuse(8)


def test_with_too_small_a_context(x86_board: Board, refuse: Callable[..., str], tmp_path: Path) -> None:
    before = contents(x86_board)
    message = refuse(3, "-n", "600")
    assert "600 tokens of context" in message
    assert "has 512" in message
    assert "--context 600" in message
    assert contents(x86_board) == before
    assert not (tmp_path / "runs").exists()


def test_on_more_threads_than_there_are_cores(x86_board: Board, refuse: Callable[..., str], tmp_path: Path) -> None:
    before = contents(x86_board)
    message = refuse(3, "-t", "999")
    assert f"999 threads asked for, the device has {os.cpu_count()} cores" in message
    assert contents(x86_board) == before
    assert not (tmp_path / "runs").exists()
