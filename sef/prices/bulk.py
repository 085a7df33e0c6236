"""Execute one statement for many rows, which are one parameter: a JSON array of arrays.

The text of a statement does not depend on the number of rows, so it is prepared once and executed
in one round trip. MySQL and MariaDB read the rows with JSON_TABLE, SQLite with json_each.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Integer, Table
from sqlalchemy.engine import CursorResult, Dialect

from sef.db.tables.columns import Instant

MAX_ROWS = 5000
"""Maximum number of rows in one statement, far below the packet limit of a server."""

Values = Sequence[Any]
"""The values of one row, in the order of its columns."""

_BY_KEY = " FORCE INDEX (PRIMARY)"
"""Index hint: without it, the server scans a small table and locks rows of other keys."""


def is_sqlite(connection: Connection) -> bool:
    """Return True for SQLite, False for MySQL and MariaDB."""
    return connection.dialect.name == "sqlite"


def upsert_rows(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[Values]
) -> None:
    """Insert rows. If a row with the same key exists, replace its other columns."""
    sql = _upsert(table, columns, is_sqlite(connection))
    for start in range(0, len(rows), MAX_ROWS):
        _execute(connection, sql, rows[start : start + MAX_ROWS])


def upsert_latest(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[Values]
) -> None:
    """Insert rows. If a row with the same key exists, keep the later time in its other columns.

    All columns outside the primary key are times. A row is not read before.
    """
    sql = _upsert(table, columns, is_sqlite(connection), keep_latest=True)
    for start in range(0, len(rows), MAX_ROWS):
        _execute(connection, sql, rows[start : start + MAX_ROWS])


def delete_rows(connection: Connection, table: Table, keys: Sequence[Values]) -> None:
    """Delete the rows with these primary keys."""
    sql = _delete(table, is_sqlite(connection))
    for start in range(0, len(keys), MAX_ROWS):
        _execute(connection, sql, keys[start : start + MAX_ROWS])


def update_versions(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[Values]
) -> bool:
    """Update rows with the given keys and versions, and increment the versions.

    Args:
        connection: open transaction.
        table: table with a column `version`.
        columns: primary key, `version`, and the columns to set.
        rows: values of the columns.

    Returns:
        False if a row is missing or has another version. The caller must then roll back.
    """
    sqlite = is_sqlite(connection)
    changed = _execute(connection, _update(table, columns, sqlite), rows).rowcount
    # On MySQL the INSERT counts 2 for a row that it updates, and 1 or 0 for a row that it inserts
    # or leaves unchanged.
    return changed == (1 if sqlite else 2) * len(rows)


def select_rows(
    connection: Connection,
    wanted: tuple[Column[Any], ...],
    by: tuple[Column[Any], ...],
    keys: Sequence[Values],
    *,
    lock: bool = False,
    also: str = "",
) -> list[Values]:
    """Return the wanted columns of the rows in which the columns `by` have the values of a key.

    Rows are read, and locked, in the order of the keys.

    Args:
        connection: open connection.
        wanted: columns to return.
        by: columns to compare with `keys`, all of one table.
        keys: values of `by`.
        lock: lock the rows until the transaction ends. SQLite has no row locks.
        also: joins of further tables, in SQL. The table of `by` has the name `present`; `{join}`
            stands for a join that keeps the order of the tables.
    """
    sql = _select(wanted, by, lock, also, is_sqlite(connection))
    return decoded(_execute(connection, sql, keys), wanted)


def decoded(result: CursorResult[Any], columns: Sequence[Column[Any]]) -> list[Values]:
    """Return the rows of a result with the Python types of the columns."""
    decoders = _decoders(tuple(columns), result.dialect)
    return [
        [
            value if decode is None else decode(value)
            for decode, value in zip(decoders, row, strict=True)
        ]
        for row in result.fetchall()
    ]


def instant(at: datetime | None) -> str | None:
    """Return a time in UTC as a value for a row."""
    return None if at is None else at.isoformat(" ", "microseconds")[:26]


def price(connection: Connection, value: Decimal | None) -> str | float | None:
    """Return a price as a value for a row."""
    if value is None:
        return None
    return float(value) if is_sqlite(connection) else str(value)


def placeholder(connection: Connection) -> str:
    """Return the placeholder of a parameter in the SQL of the driver."""
    return "?" if is_sqlite(connection) else "%s"


def _execute(connection: Connection, sql: str, rows: Sequence[Values]) -> CursorResult[Any]:
    return connection.exec_driver_sql(sql, (json.dumps(rows),))


@cache
def _decoders(columns: tuple[Column[Any], ...], dialect: Dialect) -> list[Any]:
    return [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]


def _given(columns: Sequence[Column[Any]], sqlite: bool) -> str:
    """Return the rows of the parameter as a table named `given`."""
    if sqlite:
        parts = [
            f"json_extract(value, '$[{index}]') AS {column.name}"
            for index, column in enumerate(columns)
        ]
        return f"(SELECT {', '.join(parts)} FROM json_each(?)) AS given"
    parts = [
        f"{column.name} {_json_type(column)} PATH '$[{index}]'"
        for index, column in enumerate(columns)
    ]
    return f"JSON_TABLE(%s, '$[*]' COLUMNS ({', '.join(parts)})) AS given"


def _json_type(column: Column[Any]) -> str:
    # JSON_TABLE silently turns a value that does not fit its type into NULL. So only integers and
    # the compared times have a type of their own; all other values are text, and the target table
    # raises an error for text that it cannot convert.
    if isinstance(column.type, Integer):
        return "BIGINT"
    if isinstance(column.type, Instant) and column.primary_key:
        return "DATETIME(6)"
    return "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"


def _matching(columns: Sequence[Column[Any]]) -> str:
    return " AND ".join(f"present.{column.name} = given.{column.name}" for column in columns)


@cache
def _select(
    wanted: tuple[Column[Any], ...],
    by: tuple[Column[Any], ...],
    lock: bool,
    also: str,
    sqlite: bool,
) -> str:
    table = by[0].table
    names = [f"{'present' if c.table is table else c.table.name}.{c.name}" for c in wanted]
    # Any other join order would read, and lock, rows of other keys.
    join = "CROSS JOIN" if sqlite else "STRAIGHT_JOIN"
    given = _given(by, sqlite)
    hint = ""
    if lock and not sqlite:
        hint = _BY_KEY
        # MySQL refuses to lock the rows of JSON_TABLE, and MariaDB has no way to name the tables
        # to lock: so hide JSON_TABLE in a subquery.
        given = f"(SELECT * FROM {given}) AS given"
    return (
        f"SELECT {', '.join(names)} FROM {given} {join} {table.name} AS present{hint} "
        f"ON {_matching(by)}{also.format(join=join)}{' FOR UPDATE' if lock and not sqlite else ''}"
    )


@cache
def _upsert(
    table: Table, columns: tuple[str, ...], sqlite: bool, *, keep_latest: bool = False
) -> str:
    keys = [column.name for column in table.primary_key]
    given = "excluded" if sqlite else "given"
    value = "{given}.{name}"
    if keep_latest:
        # JSON_TABLE returns text: without CAST, the server would compare texts.
        new = "{given}.{name}" if sqlite else "CAST({given}.{name} AS DATETIME(6))"
        value = ("MAX" if sqlite else "GREATEST") + f"(COALESCE({{table}}.{{name}}, {new}), {new})"
    changes = ", ".join(
        f"{name} = {value.format(table=table.name, given=given, name=name)}"
        for name in columns
        if name not in keys
    )
    # Without WHERE, SQLite would parse ON as a part of a join.
    on_conflict = (
        f"WHERE true ON CONFLICT ({', '.join(keys)}) DO UPDATE SET"
        if sqlite
        else "ON DUPLICATE KEY UPDATE"
    )
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) "
        f"SELECT {', '.join(f'given.{name}' for name in columns)} "
        f"FROM {_given([table.c[name] for name in columns], sqlite)} {on_conflict} {changes}"
    )


@cache
def _delete(table: Table, sqlite: bool) -> str:
    keys = list(table.primary_key)
    given = _given(keys, sqlite)
    if sqlite:
        names = ", ".join(column.name for column in keys)
        return f"DELETE FROM {table.name} WHERE ({names}) IN (SELECT {names} FROM {given})"
    return (
        f"DELETE present FROM {given} STRAIGHT_JOIN {table.name} AS present{_BY_KEY} "
        f"ON {_matching(keys)}"
    )


@cache
def _update(table: Table, columns: tuple[str, ...], sqlite: bool) -> str:
    given = _given([table.c[name] for name in columns], sqlite)
    keys = [column.name for column in table.primary_key]
    names = [name for name in columns if name not in (*keys, "version")]
    if sqlite:
        changes = [f"{name} = given.{name}" for name in names] + ["version = given.version + 1"]
        return (
            f"UPDATE {table.name} AS present SET {', '.join(changes)} FROM {given} "
            f"WHERE {_matching([*table.primary_key, table.c.version])}"
        )
    # An UPDATE with a join first writes the rows that it finds to a temporary table, and takes at
    # least twice as long. The version must be assigned last, because an assignment sees the
    # results of the assignments before it.
    unchanged = f"{table.name}.version = given.version"
    changes = [f"{name} = IF({unchanged}, given.{name}, {table.name}.{name})" for name in names] + [
        f"version = {table.name}.version + ({unchanged})"
    ]
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) "
        f"SELECT {', '.join(f'given.{name}' for name in columns)} FROM {given} "
        f"ON DUPLICATE KEY UPDATE {', '.join(changes)}"
    )
