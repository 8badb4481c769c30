"""``edgekit build-probe``: the probes of both runtimes, or of the one that is asked for."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli.main import cli
from edgekit.deploy.toolchain import host_abi

pytestmark = pytest.mark.skipif(host_abi() is None, reason="probes run on Linux only")


def built(*options: str) -> list[Path]:
    done = CliRunner().invoke(cli, ["build-probe", "--abi", str(host_abi()), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return [Path(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(find_spec("executorch") is None, reason="the ExecuTorch half is not installed")
def test_both_probes_are_built_unless_one_is_chosen(export_cache: Path) -> None:
    both = built()
    assert len(both) == 2
    assert all(os.access(binary, os.X_OK) for binary in both)
    assert [(binary.parent / "libexecutorch.so").is_file() for binary in both] == [False, True]
    assert built("--runtime", "onnxruntime") == both[:1]
    assert built("--runtime", "executorch") == both[1:]
