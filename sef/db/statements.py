"""Statements of a few shapes, each built once.

To build one takes SQLAlchemy as long as the database takes to execute it; a signal has dozens.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Insert,
    Select,
    Table,
    Update,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from sef.db.database import VersionConflict


def rows_where(
    connection: Connection,
    table: Table,
    key: Mapping[str, Any],
    *,
    newest_by: str | None = None,
    lock: bool = False,
) -> CursorResult[Any]:
    """The rows of a key: names of columns, and their values.

    Args:
        newest_by: only the one that has most in this column.
        lock: until the end of the transaction nobody else gets them.
    """
    return connection.execute(_rows_where(table, tuple(key), newest_by, lock), _named("key", key))


def insert_rows(connection: Connection, table: Table, *rows: dict[str, Any]) -> None:
    """Insert rows of one shape."""
    connection.execute(_insert(table), rows[0] if len(rows) == 1 else rows)


def upsert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows of one shape, replacing the other columns of those whose key is there."""
    if rows:
        connection.execute(_upsert(table, connection.dialect.name, tuple(rows[0])), rows)


def insert_missing(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert those rows whose key is not there yet."""
    if rows:
        connection.execute(_insert_missing(table, connection.dialect.name), rows)


def change(
    connection: Connection, table: Table, key: Mapping[str, Any], **values: Any
) -> CursorResult[Any]:
    """Change the rows of a key."""
    statement = _update(table, tuple(key), tuple(values))
    return connection.execute(statement, _named("key", key) | _named("new", values))


def swap(
    connection: Connection, table: Table, key: Mapping[str, Any], *, version: int, **values: Any
) -> None:
    """Change the row of a key if it is still of the version that was read, which moves on.

    Raises:
        Stale: it is of another version by now.
    """
    # The version changes in any case: an UPDATE to equal values counts no rows on MySQL.
    key, values = {**key, "version": version}, {**values, "version": version + 1}
    if change(connection, table, key, **values).rowcount != 1:
        raise VersionConflict


def _named(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{kind}_{name}": value for name, value in values.items()}


def _given(kind: str, column: Column[Any]) -> Any:
    return bindparam(f"{kind}_{column.name}", type_=column.type)


def _are_given(table: Table, key: tuple[str, ...]) -> Iterator[ColumnElement[bool]]:
    return (table.c[name] == _given("key", table.c[name]) for name in key)


@cache
def _rows_where(
    table: Table, key: tuple[str, ...], newest_by: str | None, lock: bool
) -> Select[Any]:
    statement = select(table).where(*_are_given(table, key))
    if newest_by is not None:
        statement = statement.order_by(table.c[newest_by].desc()).limit(1)
    return statement.with_for_update() if lock else statement


@cache
def _update(table: Table, key: tuple[str, ...], changed: tuple[str, ...]) -> Update:
    return (
        update(table)
        .where(*_are_given(table, key))
        .values({name: _given("new", table.c[name]) for name in changed})
    )


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


@cache
def _upsert(table: Table, dialect: str, columns: tuple[str, ...]) -> Insert:
    keys = {column.key for column in table.primary_key}
    others = [key for key in columns if key not in keys]
    if dialect == "sqlite":
        statement = sqlite_insert(table)
        return statement.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={key: statement.excluded[key] for key in others},
        )
    mysql_statement = mysql_insert(table)
    return mysql_statement.on_duplicate_key_update(
        {key: mysql_statement.inserted[key] for key in others}
    )


@cache
def _insert_missing(table: Table, dialect: str) -> Insert:
    if dialect == "sqlite":
        return sqlite_insert(table).on_conflict_do_nothing()
    # Not INSERT IGNORE, which would turn every other error into a warning too.
    key = next(iter(table.primary_key)).key
    return mysql_insert(table).on_duplicate_key_update({key: table.c[key]})
