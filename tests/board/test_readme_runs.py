"""The README's steps, executed as they stand: a real model, this machine, and a board in place of the reader's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from board import Board

pytestmark = pytest.mark.board

README = Path(__file__).resolve().parents[2] / "README.md"
_BLOCK = re.compile(r"<!-- ci: run -->\n```sh\n(.*?)```", re.DOTALL)
#: The device that the README speaks of.
THEIRS = "adb:192.168.1.20:5555"
#: Export of a real model on a busy machine; minutes less on a quiet one.
LINE_TIMEOUT_S = 900.0
#: The user's cache, as it was before other tests chose their own: the model is fetched once per machine.
USER_CACHE = os.environ.get("EDGEKIT_CACHE")


@pytest.mark.timeout(1800)
def test_the_steps_of_the_readme(x86_board: Board, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the export half is not installed")
    # What is connected is what `edgekit devices` lists: whether another test did that already is no matter.
    x86_board.device()
    (block,) = _BLOCK.findall(README.read_text(encoding="utf-8"))
    lines = [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    assert any(THEIRS in line for line in lines)
    environment = dict(os.environ)
    environment.pop("EDGEKIT_CACHE", None)
    if USER_CACHE is not None:
        environment["EDGEKIT_CACHE"] = USER_CACHE
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    told = {}
    for line in lines:
        done = subprocess.run(
            ["sh", "-c", line.replace(THEIRS, f"adb:{x86_board.serial}")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LINE_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "Warning" not in done.stderr, done.stderr
        told[line.split()[1]] = done.stdout
    assert f"adb:{x86_board.serial}" in told["devices"]
    assert {path.name for path in (tmp_path / "bundles").iterdir()} == {
        "smollm2-135m-onnxruntime-w8",
        "smollm2-135m-onnxruntime-w4",
    }
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert "pp64" in told["compare"]
    assert "tg16" in told["compare"]
    assert "smollm2-135m" in (tmp_path / "report.html").read_text(encoding="utf-8")
