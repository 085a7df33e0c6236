"""The transaction that everything is written in."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Table, inspect
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement

from sef import failpoints
from sef.db.engines import (
    LOCK_WAIT_SECONDS,
    Source,
    engine_of,
    error_number,
    is_away,
    one_at_a_time,
)
from sef.db.tables import metadata
from sef.errors import NotHereYet, Unavailable

T = TypeVar("T")
P = ParamSpec("P")

RETRIED = frozenset({1213, 1205, 1020})
"""Deadlock (on Galera also a lost race, at COMMIT), lock wait over, row changed since read."""

LOCK_WAIT = 1205
DUPLICATE = 1062
SQLITE_DUPLICATE = frozenset({"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"})
DUPLICATE_ATTEMPTS = 3

ATTEMPTS = 10
AFTER_COMMIT = "sef_after_commit"
ATTEMPT = "sef_attempt"


_WAIT_FOR_OTHERS = (
    f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS} "
    "/*M!100300 , wsrep_sync_wait = {} */"
)
"""To MySQL the second half is a comment; the first is as it was."""


class SchemaMismatch(Exception):
    """The database has tables of our names that are not ours, or of another version."""


class VersionConflict(Exception):
    """A compare-and-swap found another version than the one read: read again and decide anew."""


class ConnectionLost(Exception):
    """The connection broke while a transaction was being prepared: it had no effect."""


class Database:
    """A database that SEF can use: an Engine, a URL, or an open mysql.connector connection.

    An open connection stays the caller's. SEF takes it for one transaction at a time, under a
    lock; like MySQL's own START TRANSACTION, that first commits what the caller left open on it.
    """

    def __init__(self, source: Source) -> None:
        self._is_ours = isinstance(source, str | URL)
        self.engine = engine_of(source)
        self._exclusive = one_at_a_time(self.engine)

    @property
    def is_mysql(self) -> bool:
        return self.engine.dialect.name != "sqlite"

    def write(
        self,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `work(connection, ...)` in a transaction; return its result once COMMIT has returned.

        The transaction is repeated as a whole, so `work` must have no effect outside of its
        connection. It is repeated

        - when the database asks for that: after a deadlock or an expired lock wait;
        - when `work` lost a race: on a duplicate key, or when it raises VersionConflict;
        - once when the connection turns out to be broken before COMMIT;
        - once when `work` raises NotHereYet: the row may have been committed on another node of a
          cluster a moment ago.

        Raises:
            Unavailable: the database is away or stayed busy; as far as can be known, nothing was
                committed.
        """
        return self._repeat(work, args, kwargs)

    def write_shared(
        self,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a transaction that serves several callers, as `write` does.

        An expired lock wait is an error and is not repeated, so that one contended row cannot
        delay all of the callers.

        Raises:
            Unavailable: as `write`.
            DBAPIError: a lock wait expired.
        """
        return self._repeat(work, args, kwargs, repeats_lock_wait=False)

    def rehearse(
        self,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a transaction as `write` does, roll back whatever it wrote, and return its result.

        Raises:
            Unavailable: the database is away or stayed busy.
        """
        return self._repeat(work, args, kwargs, commit=False)

    def _repeat(
        self,
        work: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        commit: bool = True,
        repeats_lock_wait: bool = True,
    ) -> T:
        reconnected = caught_up = False
        for attempt in range(ATTEMPTS):
            try:
                with self._exclusive, _unavailable_when_away():
                    return self._transaction(work, args, kwargs, attempt, commit=commit)
            except ConnectionLost as lost:
                # Most often a pooled connection that the server closed long ago.
                if reconnected:
                    raise Unavailable from lost
                reconnected = True
            except NotHereYet:
                if caught_up or not self._catch_up():
                    raise
                caught_up = True
            except VersionConflict:
                _wait_after(attempt)
            except DBAPIError as error:
                if not _is_lost_race(error, attempt):
                    raise
                if error_number(error) == LOCK_WAIT and not repeats_lock_wait:
                    raise
                _wait_after(attempt)
        raise Unavailable("The database is too busy; try again.")

    def _transaction(
        self,
        work: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        attempt: int,
        *,
        commit: bool,
    ) -> T:
        with self.engine.connect() as connection:
            connection.info.pop(AFTER_COMMIT, None)
            connection.info[ATTEMPT] = attempt
            try:
                transaction = connection.begin()
                if not self.is_mysql:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                result = work(connection, *args, **kwargs)
                if not commit:
                    transaction.rollback()
                    return result
                if failpoints.reached is not None:
                    failpoints.reached(f"{failpoints.name_of(work)}:before-commit")
            except Exception as error:
                _roll_back(connection)
                if isinstance(error, DBAPIError) and error.connection_invalidated:
                    raise ConnectionLost from error
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                if error_number(error) in RETRIED:
                    raise
                raise Unavailable("The database did not answer the COMMIT; try again.") from error
            if failpoints.reached is not None:
                failpoints.reached(f"{failpoints.name_of(work)}:after-commit")
            for action in connection.info.pop(AFTER_COMMIT, []):
                action()
            return result

    def read(
        self,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `work(connection, ...)`, which only reads; NotHereYet is repeated as by `write`.

        Raises:
            Unavailable: the database is away.
        """
        with self._exclusive, _unavailable_when_away():
            try:
                return self._read(work, *args, **kwargs)
            except DBAPIError as error:
                # Most often a pooled connection that the server closed long ago.
                if not error.connection_invalidated:
                    raise
            except NotHereYet:
                if not self._catch_up():
                    raise
            return self._read(work, *args, **kwargs)

    def _read(
        self,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        with self.engine.connect() as connection:
            return work(connection, *args, **kwargs)

    def _catch_up(self) -> bool:
        """Wait until this node has all that is committed by now on any node of a Galera cluster.

        A node applies what another node has committed a little later.

        Returns:
            False if there cannot be other nodes.

        Raises:
            Unavailable: the database is away, or does not catch up.
        """
        if not self.is_mysql or isinstance(self.engine.pool, StaticPool):
            return False
        with _unavailable_when_away(), self.engine.connect() as connection:
            try:
                connection.exec_driver_sql(_WAIT_FOR_OTHERS.format("1"))
                connection.exec_driver_sql("SELECT 1")
                connection.exec_driver_sql(_WAIT_FOR_OTHERS.format("DEFAULT"))
            except DBAPIError as error:
                connection.invalidate()
                raise Unavailable from error
        return True

    def create_tables(self) -> list[str]:
        """Create the tables that are missing and return their names; nothing is ever dropped.

        Raises:
            SchemaMismatch: a table of one of our names lacks columns that SEF needs.
        """
        with self._exclusive, _unavailable_when_away():
            missing = self._missing_tables()
            for table in missing:
                self._create(table)
            self._check_columns()
            return [table.name for table in missing]

    def _missing_tables(self) -> list[Table]:
        present = set(inspect(self.engine).get_table_names())
        return [table for table in metadata.sorted_tables if table.name not in present]

    def _create(self, table: Table) -> None:
        try:
            self._define(CreateTable(table))
        except DBAPIError:
            # Another process may be creating the same tables, and their indexes, at this moment.
            if not inspect(self.engine).has_table(table.name):
                raise
            return
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            self._define(CreateIndex(index))

    def _define(self, statement: ExecutableDDLElement) -> None:
        for attempt in range(ATTEMPTS):
            try:
                with self.engine.begin() as connection:
                    connection.execute(statement)
                return
            except DBAPIError as error:
                # MySQL 9 lets those who define tables at once deadlock in its dictionary.
                if error_number(error) not in RETRIED or attempt == ATTEMPTS - 1:
                    raise
                _wait_after(attempt)

    def _check_columns(self) -> None:
        inspector = inspect(self.engine)
        for table in metadata.sorted_tables:
            present = {column["name"] for column in inspector.get_columns(table.name)}
            missing = sorted({column.name for column in table.columns} - present)
            if missing:
                where = self.engine.url.render_as_string(hide_password=True)
                raise SchemaMismatch(
                    f"table {table.name} of {where} lacks {', '.join(missing)}; "
                    "give SEF a database of its own"
                )

    def dispose(self) -> None:
        """Close the connections, unless they are the caller's."""
        if self._is_ours:
            self.engine.dispose()


def _wait_after(attempt: int) -> None:
    # Full jitter, so that those who collided do not collide again.
    time.sleep(random.uniform(0, min(0.5, 0.005 * 2**attempt)))


def _roll_back(connection: Connection) -> None:
    try:
        connection.rollback()
    except DBAPIError as error:
        raise ConnectionLost from error


def after_commit(connection: Connection, action: Callable[[], None]) -> None:
    """Have something done once the transaction of `Database.write` is committed, or not at all."""
    connection.info.setdefault(AFTER_COMMIT, []).append(action)


def is_repeated(connection: Connection) -> bool:
    """Whether this transaction of `Database.write` is not the first one for its work."""
    return bool(connection.info[ATTEMPT])


def _is_lost_race(error: DBAPIError, attempt: int) -> bool:
    if error_number(error) in RETRIED:
        return True
    # Somebody else inserted the same key first: with their row read, the work will do without.
    name = getattr(error.orig, "sqlite_errorname", "")
    is_duplicate = error_number(error) == DUPLICATE or name in SQLITE_DUPLICATE
    return is_duplicate and attempt < DUPLICATE_ATTEMPTS


@contextmanager
def _unavailable_when_away() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("All database connections are in use; try again.") from error
    except DBAPIError as error:
        if is_away(error):
            raise Unavailable from error
        raise
