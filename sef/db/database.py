"""Run transactions: commit, retry, and turn failures of the database into Unavailable."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import StaticPool

from sef import failpoints
from sef.db.create import SchemaMismatch as SchemaMismatch
from sef.db.create import create_missing
from sef.db.engines import LOCK_WAIT_SECONDS, DatabaseSource, engine_of, one_at_a_time
from sef.db.errors import LOCK_WAIT, RETRIED, error_number, is_away, is_duplicate, wait_after
from sef.errors import NotHereYet, Unavailable

T = TypeVar("T")
P = ParamSpec("P")

ATTEMPTS = 10
"""Maximum attempts of a transaction."""
DUPLICATE_ATTEMPTS = 3
"""Maximum repetitions of a transaction after a duplicate key; then the key is an error."""

AFTER_COMMIT = "sef_after_commit"
ATTEMPT = "sef_attempt"
"""Keys of `Connection.info`: the actions after COMMIT, and the number of the attempt."""

_WAIT_FOR_OTHERS = (
    f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS} "
    "/*M!100300 , wsrep_sync_wait = {} */"
)
"""MySQL reads the second half as a comment; the first half sets what the session has already."""


class VersionConflict(Exception):
    """A compare-and-swap found a version other than the one that was read.

    `Database.write` repeats the transaction, which then reads and decides again.
    """


class ConnectionLost(Exception):
    """The connection broke before COMMIT, so the transaction had no effect."""


class Database:
    """A database, given as an Engine, a URL or an open mysql.connector connection.

    An open connection still belongs to the caller. SEF uses it for one transaction at a time,
    under a lock. As MySQL's own START TRANSACTION does, each of these transactions first commits
    the transaction that the caller has open on the connection.
    """

    def __init__(self, source: DatabaseSource) -> None:
        self._is_ours = isinstance(source, str | URL)
        self.engine = engine_of(source)
        self._exclusive = one_at_a_time(self.engine)

    @property
    def is_mysql(self) -> bool:
        """True for MySQL and MariaDB, False for SQLite."""
        return self.engine.dialect.name != "sqlite"

    def write(
        self,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `work(connection, ...)` in a transaction and return its result after COMMIT.

        A retry repeats the whole transaction, so `work` must have no effect outside of its
        connection. The transaction is repeated

        - after a deadlock or a lock wait that timed out;
        - after a conflict: a duplicate key, or a VersionConflict that `work` raised;
        - once, if the connection broke before COMMIT;
        - once, if `work` raises NotHereYet: another node of a cluster may have committed the row
          a moment ago.

        Raises:
            Unavailable: the database is away or still busy after the last attempt. Nothing was
                committed, unless the answer to COMMIT was lost.
        """
        return self._repeat(work, args, kwargs)

    def write_shared(
        self,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a transaction that serves several callers, as `write` does.

        A lock wait that times out is not retried, so that one contended row cannot delay all of
        the callers.

        Raises:
            Unavailable: the database is away or still busy after the last attempt.
            DBAPIError: a lock wait timed out.
        """
        return self._repeat(work, args, kwargs, repeats_lock_wait=False)

    def rehearse(
        self,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a transaction as `write` does, roll it back, and return the result of `work`.

        Raises:
            Unavailable: the database is away or still busy after the last attempt.
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
        duplicates = 0
        for attempt in range(ATTEMPTS):
            try:
                with self._exclusive, _unavailable_when_away():
                    return self._transaction(work, args, kwargs, attempt, commit=commit)
            except ConnectionLost as lost:
                # Usually the server has closed an idle connection of the pool.
                if reconnected:
                    raise Unavailable from lost
                reconnected = True
            except NotHereYet:
                if caught_up or not self._catch_up():
                    raise
                caught_up = True
            except VersionConflict:
                wait_after(attempt)
            except DBAPIError as error:
                # Counted apart: a duplicate key after three deadlocks is still a lost race.
                duplicates += is_duplicate(error)
                if not _is_lost_race(error, duplicates, repeats_lock_wait=repeats_lock_wait):
                    raise
                wait_after(attempt)
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
        """Run `work(connection, ...)`, which only reads.

        The read is repeated once if the connection was broken, or if `work` raises NotHereYet.

        Raises:
            Unavailable: the database is away.
        """
        with self._exclusive, _unavailable_when_away():
            try:
                return self._read(work, *args, **kwargs)
            except DBAPIError as error:
                # Usually the server has closed an idle connection of the pool.
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
        """Wait until this node has applied all commits of the other nodes of a Galera cluster.

        A node applies a commit of another node with a small delay.

        Returns:
            False if the database cannot be a cluster.

        Raises:
            Unavailable: the database is away, or does not catch up in time.
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
        """Create the missing tables and return their names; existing tables are not changed.

        Raises:
            SchemaMismatch: a table with the name of one of SEF's tables lacks columns.
            Unavailable: the database is away.
        """
        with self._exclusive, _unavailable_when_away():
            return create_missing(self.engine)

    def dispose(self) -> None:
        """Close the connections, unless they belong to the caller."""
        if self._is_ours:
            self.engine.dispose()


def _roll_back(connection: Connection) -> None:
    try:
        connection.rollback()
    except DBAPIError as error:
        raise ConnectionLost from error


def after_commit(connection: Connection, action: Callable[[], None]) -> None:
    """Register an action that `Database.write` calls after the COMMIT of this transaction.

    If the transaction rolls back, its actions are dropped.
    """
    connection.info.setdefault(AFTER_COMMIT, []).append(action)


def is_repeated(connection: Connection) -> bool:
    """Return True if `Database.write` has run this transaction before and is repeating it."""
    return bool(connection.info[ATTEMPT])


def _is_lost_race(error: DBAPIError, duplicates: int, *, repeats_lock_wait: bool) -> bool:
    if error_number(error) == LOCK_WAIT:
        return repeats_lock_wait
    # Another transaction inserted the same key first. The next attempt reads that row.
    is_race_for_key = is_duplicate(error) and duplicates <= DUPLICATE_ATTEMPTS
    return error_number(error) in RETRIED or is_race_for_key


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
