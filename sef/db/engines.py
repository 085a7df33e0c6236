"""Build the SQLAlchemy engine for SQLite, for MySQL and MariaDB, or for an open connection."""

import random
import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import mysql.connector
from mysql.connector.abstracts import MySQLConnectionAbstract
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from sef.db.connections import CONNECT_SECONDS, READ_SECONDS, Hosts, connect_to
from sef.db.errors import DISCONNECTED
from sef.db.url import hosts_of
from sef.errors import ConnectionInUse, Unavailable

DatabaseSource = Engine | str | URL | MySQLConnectionAbstract
"""A database that is passed to SEF."""

LOCK_WAIT_SECONDS = 3
"""Maximum wait for a lock, in seconds. The server's default of 50 s for each attempt is too large a
part of the two minutes of a termination notice."""
IDLE_SECONDS = 10
"""Seconds after which MariaDB rolls back a transaction that executes no statement. Without it, a
frozen process would keep its row locks, such as that of a job's lease, and block all others."""
ISOLATION = "READ COMMITTED"
"""Each statement reads the newest committed rows. Code reads rows after it has waited for a lock;
a snapshot from before the wait would be out of date."""


def engine_of(source: DatabaseSource) -> Engine:
    """Return the engine through which SEF uses a database.

    Raises:
        TypeError: the source is of another type.
    """
    if isinstance(source, Engine):
        is_sqlite = source.dialect.name == "sqlite"
        engine = source if is_sqlite else source.execution_options(isolation_level=ISOLATION)
    elif isinstance(source, str | URL):
        url = make_url(source)
        engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _mysql(url)
    elif isinstance(source, MySQLConnectionAbstract):
        engine = _open_connection(source)
    else:
        raise TypeError(
            "SmartEmergencyFallback takes a SQLAlchemy Engine, a database URL or an open "
            f"mysql.connector connection, not {type(source).__name__}"
        )
    event.listen(engine, "handle_error", _recognize)
    return engine


def one_at_a_time(engine: Engine) -> AbstractContextManager[Any]:
    """Return a lock if all threads share one connection, else a context that does nothing."""
    return threading.RLock() if isinstance(engine.pool, StaticPool) else nullcontext()


def _sqlite(url: URL) -> Engine:
    options: dict[str, Any] = {"connect_args": {"timeout": LOCK_WAIT_SECONDS}}
    if url.database in (None, "", ":memory:"):
        # All threads share one connection; a second one would open another, empty database.
        options["poolclass"] = StaticPool
        options["connect_args"]["check_same_thread"] = False
    else:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, **options)

    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # The driver's own BEGIN would come at the first write only, and would not be IMMEDIATE:
    # `Database.write` begins its transactions itself.
    connection.isolation_level = None
    cursor = connection.cursor()
    _enable_write_ahead_log(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged row survives a power cut
    cursor.close()


def _enable_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Switch the database file to the write-ahead log; a file that has it stays unchanged.

    If several connections switch a new file at the same time, each holds a lock that another
    needs, and SQLite returns "locked" immediately, whatever the time-out. So the call is retried.
    """
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.001, 0.02))


def _mysql(url: URL) -> Engine:
    hosts = hosts_of(url)
    connect_seconds, read_seconds = (CONNECT_SECONDS, READ_SECONDS) if hosts else (5, 30)
    defaults = _collation(url) | {
        "connection_timeout": connect_seconds,
        "read_timeout": read_seconds,
        "write_timeout": read_seconds,
    }
    engine = create_engine(
        url.difference_update_query(["host"]),
        isolation_level=ISOLATION,
        pool_size=20,
        max_overflow=20,
        pool_timeout=5,
        pool_pre_ping=False,
        # Closing a Connection rolls back an open transaction; the pool need not do it again.
        pool_reset_on_return=None,
        connect_args=defaults | _overrides(url, defaults),
    )
    preferred = Hosts(hosts) if hosts else None

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, positional: Any, arguments: dict[str, Any]) -> Any:
        return preferred.connect(connect_to, arguments) if preferred else connect_to(**arguments)

    event.listen(engine, "connect", _prepare_mysql)
    return engine


def _prepare_mysql(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # MySQL reads the second half as a comment.
    cursor.execute(
        f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS} "
        f"/*M!100300 , idle_transaction_timeout = {IDLE_SECONDS} */"
    )
    cursor.close()


def _overrides(url: URL, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that the URL sets itself; the driver needs numbers as int."""
    query = {name: str(value) for name, value in url.query.items() if name in defaults}
    return {name: int(value) if value.isdigit() else value for name, value in query.items()}


def _collation(url: URL) -> dict[str, Any]:
    # MariaDB does not know the driver's default collation.
    return {} if "collation" in url.query else {"charset": "utf8mb4", "collation": "utf8mb4_bin"}


def _open_connection(source: MySQLConnectionAbstract) -> Engine:
    if source.in_transaction:
        source.commit()  # SQLAlchemy begins by rolling back
    engine = create_engine(
        "mysql+mysqlconnector://",
        creator=lambda: source,
        poolclass=StaticPool,
        pool_reset_on_return=None,
    )

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        if source.unread_result:
            raise ConnectionInUse
        try:
            if not source.is_connected():
                source.reconnect()
            if source.in_transaction:
                source.commit()
            source.start_transaction(isolation_level=ISOLATION)
        except mysql.connector.Error as error:
            raise Unavailable from error

    return engine


def _recognize(context: ExceptionContext) -> DBAPIError | None:
    """Complete what SQLAlchemy knows about this driver's errors."""
    error = context.original_exception
    number = getattr(error, "errno", None)
    if number in DISCONNECTED:
        context.is_disconnect = True
    if context.sqlalchemy_exception is None and isinstance(number, int):
        # At COMMIT and ROLLBACK, the C extension raises errors that are not of the DB-API, and
        # SQLAlchemy does not wrap them.
        return DBAPIError(None, None, error, connection_invalidated=context.is_disconnect)
    return None
