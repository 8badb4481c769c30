"""What is made of pip-audit's answer."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

judge = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools/audit.py"))["judge"]

CLEAN = {"name": "click", "version": "8.2.0", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "not found"}
BAD = {"name": "jinja2", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
OURS = {"name": "edgekit-slm", "skip_reason": "editable"}


@pytest.mark.parametrize(
    ("packages", "required", "code", "says"),
    [
        ([CLEAN, SKIPPED, OURS], False, 0, "0 known vulnerabilities in 1 packages; 1 could not"),
        ([CLEAN, BAD], False, 1, "jinja2 2.0: PYSEC-1, fixed in 2.1"),
        ([SKIPPED, OURS], False, 0, "nothing was judged"),
        ([SKIPPED, OURS], True, 1, "nothing was judged"),
    ],
)
def test_the_verdict(packages: list[dict[str, object]], required: bool, code: int, says: str) -> None:
    found, text = judge({"dependencies": packages}, required=required)
    assert found == code
    assert says in text
