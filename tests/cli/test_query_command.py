"""``edgekit query``: every format, refusals with their exit codes, hostile text kept harmless."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_runs import Session, bundle, device

from edgekit.cli.main import _exit_code

HOSTILE = '=HYPERLINK("http://x")\x1b[2J\x1b]0;owned\x07\u202e|<script>'
SPEEDS = "SELECT recipe, test, median_tok_s, kernels FROM speeds JOIN runs USING (run) ORDER BY ALL"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("query") / "runs"
    made = [bundle("w8", model=HOSTILE), bundle("w4")]
    Session(root, bundles=made, threads=(1,), rounds=2, device=device(name=HOSTILE)).write()
    return root


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = _exit_code(["query", *map(str, arguments)])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out


def test_all_formats_hold_the_same(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = json.loads(ask(capsys, SPEEDS, runs, "-o", "json"))
    assert [(record["recipe"], record["test"]) for record in records] == [
        ("w4", "pp128"),
        ("w4", "tg64"),
        ("w8", "pp128"),
        ("w8", "tg64"),
    ]
    assert [json.loads(line) for line in ask(capsys, SPEEDS, runs, "-o", "jsonl").splitlines()] == records
    rows = list(csv.DictReader(io.StringIO(ask(capsys, SPEEDS, runs, "-o", "csv"))))
    assert [float(row["median_tok_s"]) for row in rows] == [record["median_tok_s"] for record in records]
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(ask(capsys, SPEEDS, runs, "-o", "sql"))
        assert connection.execute("SELECT sum(median_tok_s) FROM answer").fetchone()[0] == pytest.approx(
            sum(record["median_tok_s"] for record in records)
        )
    assert f"{records[0]['median_tok_s']:.6g} |" in ask(capsys, SPEEDS, runs)


@pytest.mark.parametrize("output", ["md", "csv"])
def test_hostile_names_do_nothing(runs: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    text = ask(capsys, "SELECT model, device FROM runs WHERE recipe = 'w8'", runs, "-o", output)
    if output == "md":
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "<script>" not in text
    else:
        [row] = csv.DictReader(io.StringIO(text))
        assert row["model"].startswith("'=HYPERLINK("), "a spreadsheet shows it as text"
    exact = json.loads(ask(capsys, "SELECT model FROM runs WHERE recipe = 'w8'", runs, "-o", "json"))
    assert exact == [{"model": HOSTILE}]


def test_values_of_every_kind(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = (
        "SELECT 1/0 AS inf, 1.5::DECIMAL(4,2) AS dec, DATE '2026-01-02' AS day, INTERVAL 2 SECOND AS wait, "
        "[1, NULL] AS list, {'a': 1.5} AS parts, 'x'::BLOB AS bytes, 12345678901234567890123::HUGEINT AS huge, "
        "NULL AS no"
    )
    [record] = json.loads(ask(capsys, sql, runs, "-o", "json"))
    assert record == {
        "inf": None,
        "dec": 1.5,
        "day": "2026-01-02",
        "wait": 2.0,
        "list": [1, None],
        "parts": {"a": 1.5},
        "bytes": "78",
        "huge": "12345678901234567890123",
        "no": None,
    }
    assert ask(capsys, "SELECT run, ms FROM tokens WHERE false", runs, "-o", "csv") == "run,ms\n"


@pytest.mark.parametrize(
    ("sql", "said"), [("SELCT 1", "syntax error"), ("DROP VIEW runs", "DROP does not read"), ("", "no statement")]
)
def test_bad_sql_has_an_exit_code(runs: Path, capsys: pytest.CaptureFixture[str], sql: str, said: str) -> None:
    assert _exit_code(["query", sql, str(runs)]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("edgekit: query: ")
    assert said in shown.err
    assert "Next: " in shown.err


def test_an_error_moves_no_cursor(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["query", "SELECT \x08\x1b[2J", str(runs)]) == 3
    assert not {"\x1b", "\x08"} & set(capsys.readouterr().err)


def test_broken_runs_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _exit_code(["query", "SELECT count(*) FROM runs"]) == 3
    assert "no run in it" in capsys.readouterr().err
    broken, _ = Session(tmp_path / "runs", bundles=[bundle("w8"), bundle("w4")], threads=(1,), rounds=1).write()
    (broken / "run.json").write_text("{")
    assert _exit_code(["query", "SELECT recipe FROM runs", "-o", "csv"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "recipe\nw4\n"
    assert "edgekit: left out: " in shown.err
