"""Runs through the index are the runs themselves, however stale, damaged or busy it is."""

from __future__ import annotations

import gc
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_runs import Session, bundle

from edgekit.analysis import run_index
from edgekit.analysis.compare import compare
from edgekit.analysis.load import load_run
from edgekit.analysis.run_index import find_runs, load_runs, without_collection
from edgekit.errors import EdgekitError, InputError
from edgekit.schema import codec


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    # What was just written is not kept: the tests do not wait until it has settled.
    monkeypatch.setattr(run_index, "SETTLED_NS", 0)
    made = Session(tmp_path / "runs", bundles=[bundle("w8"), bundle("w4")], threads=(1,), rounds=2).write()
    time.sleep(0.01)
    return made


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that were read from their files."""
    seen: list[str] = []

    def watched(path: Path) -> object:
        seen.append(path.name)
        return load_run(path)

    monkeypatch.setattr(run_index, "load_run", watched)
    return seen


def test_what_comes_from_the_index_equals_what_was_read(tmp_path: Path, runs: list[Path], reads: list[str]) -> None:
    index = tmp_path / "cache" / "index.sqlite"
    first = load_runs(runs, index=index)
    assert len(reads) == 2
    again = load_runs(runs, index=index)
    assert len(reads) == 2
    assert again == first == [load_run(path) for path in runs]


@pytest.mark.parametrize("name", ["run.json", "launches/001/events.jsonl", "launches/000/plan.json"])
def test_a_changed_file_is_read_anew(tmp_path: Path, runs: list[Path], reads: list[str], name: str) -> None:
    index = tmp_path / "index.sqlite"
    load_runs(runs, index=index)
    changed = runs[1] / name
    stat = changed.stat()
    text = changed.read_text()
    # As long as before and as old as before: only its change time tells.
    changed.write_text(text.replace("2026", "2027") if name == "run.json" else text[:-3] + "x\n\n")
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = load_runs(runs, index=index)
    assert reads == [path.name for path in (*runs, runs[1])]
    assert again[1] == load_run(runs[1])


def test_a_new_launch_and_a_removed_run_are_noticed(tmp_path: Path, runs: list[Path], reads: list[str]) -> None:
    index = tmp_path / "index.sqlite"
    load_runs(runs, index=index)
    (runs[0] / "launches/009").mkdir()
    (runs[0] / "launches/009/events.jsonl").write_text("")
    for file in sorted(runs[1].rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    runs[1].rmdir()
    assert len(load_runs(runs[:1], index=index)) == 1
    assert len(reads) == 3
    with sqlite3.connect(index) as connection:
        assert connection.execute("SELECT path FROM entry").fetchall() == [(str(runs[0].resolve()),)]


def test_what_may_still_change_is_not_kept(
    tmp_path: Path, runs: list[Path], reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_index, "SETTLED_NS", 3600 * 10**9)
    for _ in range(2):
        load_runs(runs, index=tmp_path / "index.sqlite")
    assert len(reads) == 4


def test_other_code_reads_anew(
    tmp_path: Path, runs: list[Path], reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_runs(runs, index=tmp_path / "index.sqlite")
    monkeypatch.setattr(run_index, "_code", b"another edgekit")
    load_runs(runs, index=tmp_path / "index.sqlite")
    assert len(reads) == 4


@pytest.mark.parametrize("damage", [b"", b"not a database at all, but long enough to be looked at" * 40])
def test_a_damaged_index_is_made_anew(tmp_path: Path, runs: list[Path], reads: list[str], damage: bytes) -> None:
    index = tmp_path / "index.sqlite"
    expected = load_runs(runs, index=index)
    index.write_bytes(damage)
    assert load_runs(runs, index=index) == expected
    assert load_runs(runs, index=index) == expected
    assert len(reads) == 4


def test_damaged_entries_are_read_anew(tmp_path: Path, runs: list[Path], reads: list[str]) -> None:
    index = tmp_path / "index.sqlite"
    expected = load_runs(runs, index=index)
    with sqlite3.connect(index) as connection:
        connection.execute("UPDATE entry SET data = substr(data, 1, 100)")
    assert load_runs(runs, index=index) == expected
    assert len(reads) == 4


@pytest.mark.parametrize("field", ["data", "launches", "stamp", "path"])
def test_an_entry_that_was_altered_is_no_result(tmp_path: Path, runs: list[Path], reads: list[str], field: str) -> None:
    """Each is still a valid entry in form: only its checksum tells."""
    index = tmp_path / "index.sqlite"
    expected = compare(load_runs(runs, index=index))
    with sqlite3.connect(index) as connection:
        held = dict(connection.execute(f"SELECT path, {field} FROM entry").fetchall())
        first, second = sorted(held)
        if field == "data":
            # A recipe's name of the same length: the entry decodes, and would tell another story.
            assert held[second].count(b"w8") + held[first].count(b"w8")
            for path in (first, second):
                connection.execute("UPDATE entry SET data = ? WHERE path = ?", (held[path].replace(b"w8", b"w9"), path))
        else:
            # The two entries change places.
            connection.execute(f"UPDATE entry SET {field} = 'x' WHERE path = ?", (first,))
            if field != "path":
                connection.execute(f"UPDATE entry SET {field} = ? WHERE path = ?", (held[first], second))
                connection.execute(f"UPDATE entry SET {field} = ? WHERE path = ?", (held[second], first))
    assert compare(load_runs(runs, index=index)) == expected
    assert len(reads) > 2


def test_an_index_of_an_older_form_is_replaced(tmp_path: Path, runs: list[Path], reads: list[str]) -> None:
    index = tmp_path / "index.sqlite"
    with sqlite3.connect(index) as connection:
        connection.execute("CREATE TABLE entry (path TEXT PRIMARY KEY, stamp BLOB, data BLOB) WITHOUT ROWID")
        connection.execute("INSERT INTO entry VALUES ('/elsewhere', x'00', x'00')")
    expected = load_runs(runs, index=index)
    assert load_runs(runs, index=index) == expected
    assert len(reads) == 2


def test_a_comparison_takes_what_was_derived_and_looks_at_no_event(
    tmp_path: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = compare([load_run(path) for path in runs])
    load_runs(runs, index=tmp_path / "index.sqlite")
    kept = load_runs(runs, index=tmp_path / "index.sqlite")
    monkeypatch.setattr(run_index, "_LAUNCHES_DECODER", None)
    assert codec.encode(compare(kept)) == codec.encode(read)
    with pytest.raises(AttributeError):
        len(kept[0].launches)


def test_an_index_that_cannot_be_written_or_is_locked_is_done_without(
    tmp_path: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [load_run(path) for path in runs]
    (tmp_path / "file").write_text("")
    assert load_runs(runs, index=tmp_path / "file" / "index.sqlite") == expected
    index = tmp_path / "index.sqlite"
    load_runs(runs, index=index)
    monkeypatch.setattr(run_index, "BUSY_TIMEOUT_S", 0.05)
    with sqlite3.connect(index) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert load_runs(runs, index=index) == expected


def test_processes_share_one_index(tmp_path: Path, runs: list[Path], reads: list[str]) -> None:
    index = tmp_path / "index.sqlite"
    program = (
        "import sys; from pathlib import Path; from edgekit.analysis import run_index; run_index.SETTLED_NS = 0; "
        "found = run_index.load_runs(sys.argv[2:], index=Path(sys.argv[1])); print(len(found))"
    )
    command = [sys.executable, "-c", program, str(index), *map(str, runs)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=120)[0].strip() for process in started] == ["2"] * 4
    load_runs(runs, index=index)
    assert reads == [], "one of them filled the index for all"


def test_broken_runs_are_errors_or_left_out_as_asked(tmp_path: Path, runs: list[Path]) -> None:
    (runs[0] / "bundle.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_runs(runs)
    told: list[EdgekitError] = []
    [left] = load_runs(runs, on_broken=told.append)
    assert left.path == runs[1]
    assert len(told) == 1


def test_a_run_with_a_number_beyond_64_bits_is_read_and_not_kept(
    tmp_path: Path, runs: list[Path], reads: list[str]
) -> None:
    manifest = runs[0] / "run.json"
    manifest.write_text(re.sub(r'"seed": \d+', f'"seed": {10**30}', manifest.read_text()))
    index = tmp_path / "cache" / "index.sqlite"
    first = load_runs(runs, index=index)
    assert first[0].run.protocol["seed"] == 10**30
    assert load_runs(runs, index=index) == first
    assert reads == [runs[0].name, runs[1].name, runs[0].name]


def test_few_runs_need_no_index(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    load_runs(runs)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(run_index, "INDEXED_FROM", 2)
    load_runs(runs)
    assert (tmp_path / "cache/runs/index.sqlite").is_file()


def test_runs_are_found_in_folders(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "runs" / "notes").mkdir()
    assert find_runs([tmp_path / "runs"]) == sorted(runs)
    assert find_runs([runs[1], tmp_path / "runs"]) == [runs[1], runs[0]]
    assert find_runs([runs[0], runs[0]]) == [runs[0], runs[0]], "whoever names a run twice is told so later"
    with pytest.raises(InputError, match="no run in it"):
        find_runs([tmp_path / "runs" / "notes"])
    with pytest.raises(InputError, match="no run in it"):
        find_runs([tmp_path / "nowhere"])


def test_what_was_read_counts_as_old_at_once() -> None:
    gc.collect()
    with without_collection():
        made: list[list[int]] = [[] for _ in range(10_000)]
    assert any(entry is made for entry in gc.get_objects(generation=2))
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
