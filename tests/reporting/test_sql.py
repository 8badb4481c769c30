"""SQL output is read back by SQLite as what it was."""

from __future__ import annotations

import json
import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from edgekit.reporting.sql import statements
from edgekit.reporting.tables import Table, render

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_values_survive(values: list[object]) -> None:
    database = sqlite3.connect(":memory:")
    # One record, so that no column's type is decided by another record's value.
    record = {f"field {number}": value for number, value in enumerate(values)}
    database.executescript(statements([record], list(record), "t"))
    assert list(database.execute("SELECT * FROM t").fetchone()) == values


def test_hostile_text_stays_text() -> None:
    hostile = "'); DROP TABLE t; --\"\n"
    database = sqlite3.connect(":memory:")
    database.executescript(statements([{'a"b': hostile, "parts": [1, "x"]}], ['a"b', "parts"], 'odd"name'))
    found = database.execute('SELECT * FROM "odd""name"').fetchone()
    assert found[0] == hostile
    assert json.loads(found[1]) == [1, "x"]


def test_numbers_that_sql_cannot_write_become_null() -> None:
    text = statements([{"x": float("nan"), "y": float("inf")}], ["x", "y"], "t")
    assert "VALUES (NULL, NULL)" in text


def test_an_empty_table_has_no_statements() -> None:
    assert render(Table([], [], []), "sql") == ""
