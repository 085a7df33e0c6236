"""Execute common statements on any table; each statement is built once and cached.

SQLAlchemy takes as long to build a statement as the database to execute it, and a signal needs
dozens.
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
    """Select the rows whose columns have the values of `key`.

    Args:
        newest_by: return only the row with the largest value in this column.
        lock: lock the rows until the end of the transaction.
    """
    statement = _rows_where(table, tuple(key), newest_by, lock)
    return connection.execute(statement, _prefixed("key", key))


def insert_rows(connection: Connection, table: Table, *rows: dict[str, Any]) -> None:
    """Insert rows that all have the same columns."""
    connection.execute(_insert(table), rows[0] if len(rows) == 1 else rows)


def upsert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows that all have the same columns; update a row if its primary key exists."""
    if rows:
        connection.execute(_upsert(table, connection.dialect.name, tuple(rows[0])), rows)


def insert_missing(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert the rows whose key does not exist yet, and leave existing rows unchanged."""
    if rows:
        connection.execute(_insert_missing(table, connection.dialect.name), rows)


def change(
    connection: Connection, table: Table, key: Mapping[str, Any], **values: Any
) -> CursorResult[Any]:
    """Update the rows whose columns have the values of `key`."""
    statement = _update(table, tuple(key), tuple(values))
    return connection.execute(statement, _prefixed("key", key) | _prefixed("set", values))


def swap(
    connection: Connection, table: Table, key: Mapping[str, Any], *, version: int, **values: Any
) -> None:
    """Update a row and increment its version if it still has the version that was read.

    Raises:
        VersionConflict: the row has another version now, or does not exist.
    """
    # The version always changes: on MySQL, an UPDATE to equal values counts no rows.
    key, values = {**key, "version": version}, {**values, "version": version + 1}
    if change(connection, table, key, **values).rowcount != 1:
        raise VersionConflict


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in values.items()}


def _parameter(prefix: str, column: Column[Any]) -> Any:
    return bindparam(f"{prefix}_{column.name}", type_=column.type)


def _conditions(table: Table, key: tuple[str, ...]) -> Iterator[ColumnElement[bool]]:
    return (table.c[name] == _parameter("key", table.c[name]) for name in key)


@cache
def _rows_where(
    table: Table, key: tuple[str, ...], newest_by: str | None, lock: bool
) -> Select[Any]:
    statement = select(table).where(*_conditions(table, key))
    if newest_by is not None:
        statement = statement.order_by(table.c[newest_by].desc()).limit(1)
    return statement.with_for_update() if lock else statement


@cache
def _update(table: Table, key: tuple[str, ...], changed: tuple[str, ...]) -> Update:
    return (
        update(table)
        .where(*_conditions(table, key))
        .values({name: _parameter("set", table.c[name]) for name in changed})
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
    # INSERT IGNORE would turn every other error into a warning as well.
    key = next(iter(table.primary_key)).key
    return mysql_insert(table).on_duplicate_key_update({key: table.c[key]})
