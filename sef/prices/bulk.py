"""Statements for any number of rows: they arrive as one parameter, a JSON array of arrays.

The text of a statement is the same for one row and for a thousand, so that it costs the same to
prepare and one round trip to execute. MySQL and MariaDB read the rows by JSON_TABLE, SQLite by
json_each; what is written here once for each.
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

AT_ONCE = 5000
"""Rows in one statement, far below what a server takes in a packet."""

Values = Sequence[Any]

_BY_KEY = " FORCE INDEX (PRIMARY)"
"""A small table would be scanned, and rows locked that nobody named."""


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def upsert_rows(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[Values]
) -> None:
    """Insert rows, replacing the other columns of those whose key is there."""
    sql = _upsert(table, columns, is_sqlite(connection))
    for start in range(0, len(rows), AT_ONCE):
        _execute(connection, sql, rows[start : start + AT_ONCE])


def delete_rows(connection: Connection, table: Table, keys: Sequence[Values]) -> None:
    """Delete the rows with these primary keys."""
    sql = _delete(table, is_sqlite(connection))
    for start in range(0, len(keys), AT_ONCE):
        _execute(connection, sql, keys[start : start + AT_ONCE])


def update_versions(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[Values]
) -> bool:
    """Set columns of rows whose key and `version` are as given, moving the version on.

    `columns` are the primary key, `version`, then those to set. Returns whether all rows were
    found; if not, the transaction is to be rolled back.
    """
    sqlite = is_sqlite(connection)
    changed = _execute(connection, _update(table, columns, sqlite), rows).rowcount
    # An INSERT counts 2 for a row that it updates, less for one that it inserts or leaves alone.
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
    """The wanted columns of the rows of a table in which the columns `by` are as in one of `keys`.

    Rows are looked up, and locked, in the order of the keys. `also` joins further tables to
    `present`, each by `{join}` if it is to be read after those before it.
    """
    sql = _select(wanted, by, lock, also, is_sqlite(connection))
    return decoded(_execute(connection, sql, keys), wanted)


def decoded(result: CursorResult[Any], columns: Sequence[Column[Any]]) -> list[Values]:
    """The rows of a result, as their types are in Python."""
    decode = _decoders(tuple(columns), result.dialect)
    return [
        [value if of is None else of(value) for of, value in zip(decode, row, strict=True)]
        for row in result.fetchall()
    ]


def instant(at: datetime | None) -> str | None:
    """A moment, which is in UTC, as a value of a row."""
    return None if at is None else at.isoformat(" ", "microseconds")[:26]


def price(connection: Connection, value: Decimal | None) -> str | float | None:
    """A price as a value of a row."""
    if value is None:
        return None
    return float(value) if is_sqlite(connection) else str(value)


def placeholder(connection: Connection) -> str:
    return "?" if is_sqlite(connection) else "%s"


def _execute(connection: Connection, sql: str, rows: Sequence[Values]) -> CursorResult[Any]:
    return connection.exec_driver_sql(sql, (json.dumps(rows),))


@cache
def _decoders(columns: tuple[Column[Any], ...], dialect: Dialect) -> list[Any]:
    return [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]


def _given(columns: Sequence[Column[Any]], sqlite: bool) -> str:
    """The rows of the parameter as a table named `given`."""
    if sqlite:
        parts = [
            f"json_extract(value, '$[{place}]') AS {column.name}"
            for place, column in enumerate(columns)
        ]
        return f"(SELECT {', '.join(parts)} FROM json_each(?)) AS given"
    parts = [f"{column.name} {_sent(column)} PATH '$[{n}]'" for n, column in enumerate(columns)]
    return f"JSON_TABLE(%s, '$[*]' COLUMNS ({', '.join(parts)})) AS given"


def _sent(column: Column[Any]) -> str:
    # JSON_TABLE makes NULL of what does not fit, without a word. Only what is compared has its
    # type; all else is text, which the table itself refuses when it cannot be converted.
    if isinstance(column.type, Integer):
        return "INT"
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
    # In this order: another would read, and lock, rows that nobody asked for.
    join = "CROSS JOIN" if sqlite else "STRAIGHT_JOIN"
    given = _given(by, sqlite)
    hint = ""
    if lock and not sqlite:
        hint = _BY_KEY
        # MySQL refuses to lock JSON_TABLE's rows, and MariaDB cannot be told which table to lock.
        given = f"(SELECT * FROM {given}) AS given"
    return (
        f"SELECT {', '.join(names)} FROM {given} {join} {table.name} AS present{hint} "
        f"ON {_matching(by)}{also.format(join=join)}{' FOR UPDATE' if lock and not sqlite else ''}"
    )


@cache
def _upsert(table: Table, columns: tuple[str, ...], sqlite: bool) -> str:
    keys = [column.name for column in table.primary_key]
    given = "excluded" if sqlite else "given"
    changes = ", ".join(f"{name} = {given}.{name}" for name in columns if name not in keys)
    # SQLite would take ON for a part of a join.
    then = (
        f"WHERE true ON CONFLICT ({', '.join(keys)}) DO UPDATE SET"
        if sqlite
        else "ON DUPLICATE KEY UPDATE"
    )
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) "
        f"SELECT {', '.join(f'given.{name}' for name in columns)} "
        f"FROM {_given([table.c[name] for name in columns], sqlite)} {then} {changes}"
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
    # An UPDATE that joins writes what it finds down first, and takes twice as long or more. The
    # version comes last: what stands behind an assignment sees what it assigned.
    is_as_read = f"{table.name}.version = given.version"
    changes = [
        f"{name} = IF({is_as_read}, given.{name}, {table.name}.{name})" for name in names
    ] + [f"version = {table.name}.version + ({is_as_read})"]
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) "
        f"SELECT {', '.join(f'given.{name}' for name in columns)} FROM {given} "
        f"ON DUPLICATE KEY UPDATE {', '.join(changes)}"
    )
