"""What continuous integration reads: JUnit XML, annotations, exit code; hostile names start nothing."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from data_runs import Session, bundle

from edgekit.analysis.compare import compare
from edgekit.analysis.comparison import Comparison
from edgekit.analysis.load import load_run
from edgekit.analysis.regression import parse_limit, regressions
from edgekit.cli.main import _exit_code
from edgekit.reporting.ci import github_annotations, github_summary, junit_xml

HOSTILE = "w4]]>\n::error::x<script>\x00%|\ud800"


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A fast decoder and one that is slower by far."""
    return Session(tmp_path / "runs", bundles=[bundle("w4"), bundle("w8")], threads=(1,)).write()


def named(comparison: Comparison, label: str) -> Comparison:
    rows = [
        row if row.run == comparison.baseline else msgspec.structs.replace(row, label=label) for row in comparison.rows
    ]
    return msgspec.structs.replace(comparison, rows=rows)


def test_junit_has_a_case_per_row_and_fails_on_regressions(runs: list[Path]) -> None:
    comparison = compare([load_run(path) for path in runs])
    found = regressions(comparison, [parse_limit("slower:3%")])
    suite = ElementTree.fromstring(junit_xml(comparison, found)).find("testsuite")
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "2",
        "failures": "1",
        "errors": "0",
        "skipped": "0",
    }
    [failed] = [case for case in suite if case.find("failure") is not None]
    assert (failed.get("classname"), failed.get("name")) == ("w8", "tg64, 1 thread")
    assert "slower by" in failed.find("failure").get("message")
    assert failed.find("failure").get("type") == "slower:3%"


def test_rows_without_a_verdict_are_skipped_with_the_reason(tmp_path: Path) -> None:
    paths = Session(tmp_path, bundles=[bundle("w4"), bundle("w8")], threads=(1,), rounds=2).write()
    comparison = compare([load_run(path) for path in paths])
    suite = ElementTree.fromstring(junit_xml(comparison, [])).find("testsuite")
    assert suite.get("skipped") == "2"
    assert all("too few samples" in case.find("skipped").get("message") for case in suite)
    assert github_annotations(comparison, []).count("::warning title=unstable::") == 2


def test_hostile_names_stay_text(runs: list[Path]) -> None:
    comparison = named(compare([load_run(path) for path in runs]), HOSTILE)
    found = regressions(comparison, [parse_limit("slower:3%")])
    suite = ElementTree.fromstring(junit_xml(comparison, found)).find("testsuite")
    assert "<script>" in suite[0].get("classname")
    lines = github_annotations(comparison, found).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error"]
    assert "%0A" in lines[0]
    assert "<script>" not in github_summary(comparison, found).replace("\\<script", "")


def test_the_command_exits_with_the_documented_code_and_writes_everything(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    junit, summary = tmp_path / "out" / "compare.xml", tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    arguments = ["compare", *map(str, runs), "--fail-if", "slower:3%", "--junit", str(junit), "-o", "github"]
    assert _exit_code(arguments) == 11
    captured = capsys.readouterr()
    assert captured.out.startswith("::error title=slower%3A3%25 exceeded::w8 tg64, 1 thread: slower by ")
    assert "1 regression beyond the limit" in captured.err
    assert "Next: " in captured.err
    assert ElementTree.parse(junit).find("testsuite").get("failures") == "1"
    text = summary.read_text()
    assert text.startswith("before\n## edgekit compare with w4")
    assert "| w8" in text.replace("smollm2-135m ", "")


def test_the_command_passes_without_a_regression(
    runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert _exit_code(["compare", *map(str, runs), "--fail-if", "slower:90%", "-o", "github"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("::notice title=edgekit compare::no regression against w4")
    assert "## edgekit compare with w4" in out


def test_junit_that_cannot_be_written_is_said(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / "compare.xml"
    assert _exit_code(["compare", *map(str, runs), "--junit", str(target)]) == 10
    assert f"write JUnit XML to {target}: " in capsys.readouterr().err


def test_a_mistyped_limit_is_wrong_usage(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["compare", str(runs[0]), "--fail-if", "slowr:3%"]) == 2
    assert "slower:3%" in capsys.readouterr().err


def test_a_limit_without_anything_to_compare_is_bad_input(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["compare", str(runs[0]), "--fail-if", "slower:3%"]) == 3
    assert "nothing can be compared" in capsys.readouterr().err
