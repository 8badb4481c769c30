"""The example of docs/python.md, executed as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT

import edgekit

GUIDE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
#: Far above what a busy machine needs.
LIMIT_S = 500.0


@pytest.mark.skipif(sys.platform != "linux", reason="the local device needs Linux")
def test_the_example_runs(export_cache: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example)
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *figures, report = done.stdout.splitlines()
    assert [line.split(":")[0] for line in figures] == ["w8 pp32", "w8 tg8", "w4 pp32", "w4 tg8"]
    assert (tmp_path / report).is_file()


def test_every_function_is_named() -> None:
    assert [name for name in edgekit.__all__ if f"edgekit.{name}(" not in GUIDE] == []
