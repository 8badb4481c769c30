"""The journal: what was written stays, what was cut off is dropped, what was edited is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema.sweep import SweepPlan
from edgekit.schema.sweep_journal import (
    JOURNAL,
    Begun,
    Exported,
    Failed,
    Measured,
    Moved,
    Quarantined,
    Retried,
    Started,
)
from edgekit.sweeping.expected import ratio_for, seen_ratios
from edgekit.sweeping.journal import Account, Journal

AT = "2026-11-25T00:00:00Z"
PLAN = SweepPlan(schema_version=1, name="p", models=["one"], recipes=["w8"])
ENTRIES = [
    Begun(at=AT, schema_version=1, edgekit="0", plan=PLAN, devices=["local"], cells=3),
    Exported(at=AT, model="one", recipe="w8", runtime="onnxruntime", context=None, bundle="bundles/x", seconds=5.0),
    Started(at=AT, attempt="a", device="local", cells=["1", "2"], expected_s=2.0),
    Measured(at=AT, attempt="a", device="local", runs={"1": "a-one", "2": "a-two"}, seconds=3.0),
    Failed(at=AT, cells=["3"], device="local", reason="it crashed", exit_code=8),
    Retried(at=AT, cells=["3"]),
    Started(at=AT, attempt="b", device="local", cells=["3"]),
    Quarantined(at=AT, device="local", reason="lost", exit_code=7),
    Moved(at=AT, cells=["3"], device="adb:x"),
]


def filled(folder: Path) -> Journal:
    journal = Journal(folder)
    for entry in ENTRIES:
        journal.append(entry)
    return journal


def test_an_account_follows_its_lines(tmp_path: Path) -> None:
    filled(tmp_path)
    account = Journal(tmp_path).account
    assert set(account.done) == {"1", "2"}
    assert not account.failed
    assert [entry.attempt for entry in account.open_attempts] == ["b"]
    assert account.moved == {"3": "adb:x"}
    assert account.quarantined["local"].reason == "lost"
    account.take(ENTRIES[0])
    # A new start asks every device again.
    assert not account.quarantined
    assert not account.moved


def test_wherever_a_killed_host_stopped_writing_the_lines_before_stay(tmp_path: Path) -> None:
    filled(tmp_path / "whole")
    data = (tmp_path / "whole" / JOURNAL).read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == 10]
    for cut in [*range(0, len(data), 7), *ends, *(end - 1 for end in ends)]:
        folder = tmp_path / "cut"
        folder.mkdir(exist_ok=True)
        (folder / JOURNAL).write_bytes(data[:cut])
        journal = Journal(folder)
        whole = sum(end <= cut for end in ends)
        expected = Account()
        for entry in ENTRIES[:whole]:
            expected.take(entry)
        assert journal.account == expected
        journal.append(ENTRIES[-1])
        lines = (folder / JOURNAL).read_bytes().splitlines()
        assert len(lines) == whole + 1
        assert Journal(folder).account.moved == {"3": "adb:x"}


def test_a_file_that_grew_without_its_content_is_what_it_was_before(tmp_path: Path) -> None:
    filled(tmp_path)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b"\0" * 50 + b"\n")
    journal = Journal(tmp_path)
    assert set(journal.account.done) == {"1", "2"}
    journal.append(Retried(at=AT, cells=[]))
    assert b"\0" not in (tmp_path / JOURNAL).read_bytes()


@given(line=st.binary(max_size=60).filter(lambda data: b"\n" not in data), at=st.integers(0, 8))
def test_what_is_no_entry_is_refused_and_nothing_is_overwritten(
    tmp_path_factory: pytest.TempPathFactory, line: bytes, at: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    filled(folder)
    lines = (folder / JOURNAL).read_bytes().splitlines()
    lines.insert(at, line)
    data = b"\n".join(lines) + b"\n"
    (folder / JOURNAL).write_bytes(data)
    with pytest.raises((InputError, UnsupportedError), match=f"line {at + 1}|newer"):
        Journal(folder)
    assert (folder / JOURNAL).read_bytes() == data


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    text = (tmp_path / JOURNAL).read_text().replace('"schema_version":1,"edgekit"', '"schema_version":2,"edgekit"')
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(UnsupportedError, match="newer"):
        Journal(tmp_path)
    (tmp_path / JOURNAL).write_text('{"kind":"begun","schema_version":2,"novel":true}\n')
    with pytest.raises(UnsupportedError, match="newer"):
        Journal(tmp_path)


def test_times_are_learnt_from_what_was_seen(tmp_path: Path) -> None:
    ratios = seen_ratios([filled(tmp_path).account])
    assert ratio_for("local", ratios) == ratio_for("another", ratios) == pytest.approx(1.5)
    assert ratio_for("any", seen_ratios([Account()])) == 1.0
