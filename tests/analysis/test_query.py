"""SQL over runs: the tables hold what the figures say, and SQL reaches nothing else."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest
from data_runs import Session, bundle

from edgekit.analysis import metrics
from edgekit.analysis.compare import compare
from edgekit.analysis.load import RunData, load_run
from edgekit.analysis.query import query
from edgekit.analysis.run_tables import TABLES
from edgekit.errors import InputError

GUIDE = Path(__file__).parents[2] / "docs" / "query.md"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunData]:
    session = Session(tmp_path_factory.mktemp("runs"), bundles=[bundle("w8"), bundle("w4")], rounds=3, depths=(0, 256))
    return [load_run(path) for path in session.write()]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_has_the_columns_that_are_documented(runs: list[RunData], table) -> None:
    described = query(f"DESCRIBE {table.name}", runs).rows
    kinds = {"INTEGER[]": "INTEGER[]"}
    expected = [(name, "VARCHAR" if name == "run" else kinds.get(kind, kind)) for name, kind, _ in table.columns]
    assert [row[:2] for row in described] == expected
    assert query(f"SELECT * FROM {table.name}", runs).columns == [name for name, _, _ in table.columns]


def test_speeds_are_those_of_the_comparison(runs: list[RunData]) -> None:
    rows = query("SELECT run, test, threads, samples, median_tok_s, min_tok_s, max_tok_s FROM speeds", runs).rows
    expected = [
        (
            row.run,
            row.test,
            row.threads,
            row.samples,
            pytest.approx(row.median_tok_s),
            pytest.approx(min(row.samples_tok_s)),
            pytest.approx(max(row.samples_tok_s)),
        )
        for row in compare(runs).rows
    ]
    assert sorted(rows) == sorted(expected, key=lambda row: row[:3])


def test_tokens_are_those_of_the_samples(runs: list[RunData]) -> None:
    rows = query("SELECT run, count(*), sum(ms), min(position), max(position) FROM tokens GROUP BY run", runs).rows
    for run in runs:
        samples = [sample for found in metrics.samples(run).values() for sample in found if sample.token_ms]
        steps = [step for sample in samples for step in sample.token_ms]
        [row] = [row for row in rows if row[0] == run.run.id]
        assert row[1] == len(steps)
        assert row[2] == pytest.approx(sum(steps))
        assert row[3:] == (0, 256 + 63)


def test_memory_is_on_the_clock_of_the_trials(runs: list[RunData]) -> None:
    found = query(
        "SELECT count(*), max(rss), bool_and(rss = anon + file), min(at_s) FROM memory WHERE launch = 1",
        runs,
    ).rows[0]
    curves = [metrics.timeline(run.launches[1]) for run in runs]
    assert found[:3] == (sum(len(c.rss) for c in curves if c), max(max(c.rss) for c in curves if c), True)
    inside = query(
        "SELECT count(*) FROM trials t JOIN memory m USING (run, launch) "
        "WHERE counted AND at_s BETWEEN start_s AND start_s + seconds",
        runs,
    ).rows[0][0]
    assert inside > 0.5 * found[0]


def test_runs_launches_and_conditions(runs: list[RunData]) -> None:
    rows = query(
        "SELECT run, recipe, size_bytes, kl_mean, command, golden_passed, path FROM runs ORDER BY 2", runs
    ).rows
    assert rows == sorted(
        [
            (
                r.run.id,
                r.run.recipe,
                r.bundle.size_bytes,
                r.bundle.gate.figures.kl_mean,
                r.run.command,
                True,
                str(r.path),
            )
            for r in runs
        ],
        key=lambda row: row[1],
    )
    [(launches, cold, median)] = query(
        "SELECT count(*), count(*) FILTER (resident_before = 0), median(load_s) FROM launches", runs
    ).rows
    assert launches == sum(len(run.launches) for run in runs)
    assert cold == len(runs)
    times = [metrics.load_times(run) for run in runs]
    assert median == pytest.approx(statistics.median([s for t in times for s in (*t.cold, *t.warm, *t.other)]))
    warmth = query("SELECT moment, value, unit FROM conditions WHERE quantity = 'temperature' ORDER BY 1", runs).rows
    assert set(warmth) == {("before", 44.5, "°C"), ("after", 61.0, "°C")}


def test_warm_ups_are_there_and_not_counted(runs: list[RunData]) -> None:
    rows = query("SELECT counted, count(tok_s) = count(*), count(*) > 0 FROM trials GROUP BY counted ORDER BY 1", runs)
    assert rows.rows == [(False, False, True), (True, True, True)]


@pytest.mark.parametrize("sql", re.findall(r"```sql\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL))
def test_the_examples_of_the_guide_have_answers(runs: list[RunData], sql: str) -> None:
    answer = query(sql, runs)
    assert answer.rows
    assert all(any(value is not None for value in column) for column in zip(*answer.rows, strict=True))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT (SELECT count(*) FROM tokens) > 0",
        "WITH t AS (FROM memory) SELECT count(*) > 0 FROM t",
        "SELECT count(*) > 0 FROM query('SELECT * FROM launches')",
        "SELECT count(*) > 0 FROM runs AS tokens JOIN conditions USING (run)",
        'SELECT count(*) > 0 FROM main."trials"',
    ],
)
def test_tables_are_filled_however_they_are_named(runs: list[RunData], sql: str) -> None:
    assert query(sql, runs).rows == [(True,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{path}')",
        "SELECT * FROM read_text('{path}')",
        "SELECT * FROM '{path}'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM 'https://127.0.0.1:9/x.parquet'",
        "SELECT * FROM found",
        "SELECT * FROM duckdb_secrets()",
        "COPY runs TO '{path}.out'",
        "EXPORT DATABASE '{path}.out'",
        "ATTACH '{path}.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "CREATE TABLE x (a INT)",
        "DELETE FROM runs",
        "DROP VIEW runs",
        "INSERT INTO store.runs SELECT * FROM store.runs",
        "SELECT 1; DROP VIEW runs",
        "EXPLAIN ANALYZE COPY runs TO '{path}.out'",
    ],
)
def test_sql_reaches_nothing_but_the_tables(runs: list[RunData], tmp_path: Path, sql: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(InputError, match=r"^query: "):
        query(sql.format(path=secret), runs)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELCT 1", "syntax error"),
        ("SELECT speed FROM speeds", "median_tok_s"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("", "no statement"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("SELECT 'a'::INT", "Conversion"),
        ("SELECT '\ud800'", "query: "),
    ],
)
def test_bad_sql_is_refused_in_words(runs: list[RunData], sql: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        query(sql, runs)
    assert said in str(refused.value)
    assert "Next: " in str(refused.value)


def test_columns_of_one_name_stay_apart(runs: list[RunData]) -> None:
    assert query("SELECT 1 AS a, 2 AS a, 3 AS b", runs).columns == ["a", "a_1", "b"]
    assert query("SELECT 1 AS a, 2 AS a, 3 AS a_1", runs).columns == ["a", "a_1", "a_1_1"]


def test_no_runs_and_runs_without_events(tmp_path: Path) -> None:
    assert query("SELECT count(*) FROM tokens", []).rows == [(0,)]
    [path] = Session(tmp_path, bundles=[bundle("w4")], threads=(1,), rounds=1).write()
    (path / "launches/001/events.jsonl").unlink()
    data = load_run(path)
    assert query("SELECT faults > 0 FROM runs", [data]).rows == [(True,)]
    assert query("SELECT count(*) FROM trials", [data]).rows == [(0,)]
