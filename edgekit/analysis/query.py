"""SQL over runs, with DuckDB in memory: it reads the runs' tables and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.analysis.load import RunData
from edgekit.analysis.run_tables import TABLES, RunTable
from edgekit.errors import InputError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Schema of the records whose ``run`` is a number; the views of the same names put the id in its place.
_STORE = "store"
#: Set before DuckDB sees a query: from then on SQL reaches no file, no network, no setting and no Python variable.
_LOCK = (
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    # Nothing is spilled to a disk either.
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_HINT = "`DESCRIBE runs` lists a table's columns; the tables are {}"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a query gave: names of the columns, each once, and the rows."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def query(sql: str, runs: Sequence[RunData]) -> Answer:
    """Ask runs one question in SQL (DuckDB's dialect).

    Args:
        sql: one SELECT (or WITH, DESCRIBE, SUMMARIZE, EXPLAIN) over the tables of
            :data:`~edgekit.analysis.run_tables.TABLES`.
        runs: what it is asked of; their ids must differ.

    Raises:
        InputError: no such SQL, not a reading statement, or one that fails.
    """
    import duckdb

    try:
        # What no terminal can have typed (a lone surrogate): releases of DuckDB answer it with errors of all kinds.
        sql.encode()
        needed = _needed(sql)
        with duckdb.connect(":memory:") as connection:
            _make(connection)
            _insert(connection, f"{_STORE}.run_ids", [[data.run.id for data in runs], list(range(len(runs)))])
            for table in needed:
                assert table.fill is not None
                _insert(connection, f"{_STORE}.{table.name}", table.fill(runs))
            _lock(connection)
            connection.execute(sql)
            described = connection.description or []
            return Answer(_unique([str(entry[0]) for entry in described]), connection.fetchall())
    except (duckdb.Error, RuntimeError, UnicodeError) as error:
        raise InputError(
            "query: DuckDB refuses it",
            detail=str(error),
            hint=_HINT.format(", ".join(table.name for table in TABLES)),
        ) from error


def _make(connection: DuckDBPyConnection) -> None:
    """Make all tables, still empty, and the views that are asked."""
    connection.execute(f"CREATE SCHEMA {_STORE}")
    connection.execute(f"CREATE TABLE {_STORE}.run_ids (id VARCHAR, number INTEGER)")
    for table in TABLES:
        if table.fill is None:
            continue
        columns = ", ".join(f'"{name}" {kind}' for name, kind, _ in table.columns)
        connection.execute(f"CREATE TABLE {_STORE}.{table.name} ({columns})")
        shown = ", ".join(f'"{name}"' for name, _, _ in table.columns if name != "run")
        connection.execute(
            f"CREATE VIEW {table.name} AS SELECT id AS run, {shown} "
            f"FROM {_STORE}.{table.name} JOIN {_STORE}.run_ids ON run = number"
        )
    for table in TABLES:
        if table.sql:
            connection.execute(f"CREATE VIEW {table.name} AS {table.sql}")


def _lock(connection: DuckDBPyConnection) -> None:
    for command in _LOCK:
        connection.execute(command)


def _needed(sql: str) -> list[RunTable]:
    """The tables that a query reads, all where that cannot be told.

    Raises:
        InputError: several statements, or one that does not read.
    """
    import duckdb

    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise InputError(
            f"query: {len(statements)} statements were given" if statements else "query: no statement was given",
            hint='give one, such as "SELECT run, median_tok_s FROM speeds"',
        )
    if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise InputError(
            f"query: {statements[0].type.name} does not read",
            hint="runs are never changed: ask with SELECT, WITH, DESCRIBE or SUMMARIZE",
        )
    filled = [table for table in TABLES if table.fill is not None]
    # Finding the names binds the query, which would open files and fetch addresses: locked up from the start.
    with duckdb.connect(":memory:") as connection:
        _make(connection)
        _lock(connection)
        try:
            # Of a view it names what the view reads.
            names = connection.get_table_names(sql)
        except duckdb.Error:
            return filled
    return [table for table in filled if table.name in names]


def _insert(connection: DuckDBPyConnection, table: str, columns: Sequence[Any]) -> None:
    """Append columns to a table, in its order."""
    import numpy as np

    if not columns:
        return
    kinds = [kind for _, kind, *_ in connection.execute(f"DESCRIBE {table}").fetchall()]
    found = {f"c{at}": _array(values, np) for at, values in enumerate(columns)}  # noqa: F841  DuckDB finds it by name
    cast = ", ".join(f"CAST(c{at} AS {kind})" for at, kind in enumerate(kinds))
    connection.execute(f"INSERT INTO {table} SELECT {cast} FROM found")


def _array(values: Any, np: Any) -> Any:
    if isinstance(values, np.ndarray):
        return values
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def _unique(names: Sequence[str]) -> list[str]:
    """Columns may share a name in SQL; records cannot."""
    result: list[str] = []
    taken: set[str] = set()
    for name in names:
        found, count = name, 0
        while found in taken:
            count += 1
            found = f"{name}_{count}"
        taken.add(found)
        result.append(found)
    return result
