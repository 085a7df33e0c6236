"""The engine of each kind of database: how SEF connects, and what it sets on a connection."""

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
from sef.db.url import hosts_of
from sef.errors import ConnectionInUse, Unavailable

Source = Engine | str | URL | MySQLConnectionAbstract
"""What SEF takes for a database."""

DISCONNECTED = frozenset({1047, 1927, 4031, 1053, 1290, 1836, 3024, 2003, 2006, 2013, 2055})
"""The server is away, as this driver reports it; SQLAlchemy knows the last four by itself.
1047: the node is not part of its cluster. 1927 and 4031: the connection was killed or idle for
too long. 1053: shutdown in progress. 1290 and 1836: the server became read-only, as one does that
another has taken over from. 3024: the pure Python driver's time-out."""

LOCK_WAIT_SECONDS = 3
IDLE_SECONDS = 10
"""After which MariaDB ends a transaction that nobody goes on with: that of a process which is
frozen, whose rows all others would wait for, the lease of a job among them."""
ISOLATION = "READ COMMITTED"
"""Each statement sees what is committed: rows are read after a lock that may have been waited for,
and a snapshot taken before it would show them as they were."""


def engine_of(source: Source) -> Engine:
    """The engine through which SEF uses a database.

    Raises:
        TypeError: it is none.
    """
    if isinstance(source, Engine):
        is_sqlite = source.dialect.name == "sqlite"
        engine = source if is_sqlite else source.execution_options(isolation_level=ISOLATION)
    elif isinstance(source, str | URL):
        url = make_url(source)
        engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _mysql(url)
    elif isinstance(source, MySQLConnectionAbstract):
        engine = _of_connection(source)
    else:
        raise TypeError(
            "SmartEmergencyFallback takes a SQLAlchemy Engine, a database URL or an open "
            f"mysql.connector connection, not {type(source).__name__}"
        )
    event.listen(engine, "handle_error", _recognise)
    return engine


def one_at_a_time(engine: Engine) -> AbstractContextManager[Any]:
    """A lock where all threads share the one connection that there is."""
    return threading.RLock() if isinstance(engine.pool, StaticPool) else nullcontext()


def _sqlite(url: URL) -> Engine:
    options: dict[str, Any] = {"connect_args": {"timeout": LOCK_WAIT_SECONDS}}
    if url.database in (None, "", ":memory:"):
        # One connection, or every thread would see a database of its own.
        options["poolclass"] = StaticPool
        options["connect_args"]["check_same_thread"] = False
    else:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, **options)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        # pysqlite's own BEGIN would come late and not be IMMEDIATE; `write` says its own.
        connection.isolation_level = None
        cursor = connection.cursor()
        _write_ahead(cursor)
        cursor.execute("PRAGMA synchronous=FULL")  # what is acknowledged survives a power cut
        cursor.close()

    return engine


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Have SQLite use its write-ahead log, which a file keeps to once it was said.

    Where several are the first to say so, each holds what the other wants, and SQLite answers
    "locked" at once, whatever its time-out.
    """
    until = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
            if not is_busy or time.monotonic() > until:
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
        # A Connection that is closed rolls back what it left open; after a COMMIT that is nothing.
        pool_reset_on_return=None,
        connect_args=defaults | _given(url, defaults),
    )
    one_of = Hosts(hosts) if hosts else None

    @event.listens_for(engine, "do_connect")
    def open_one(dialect: Any, record: Any, positional: Any, arguments: dict[str, Any]) -> Any:
        return one_of.connect(connect_to, arguments) if one_of else connect_to(**arguments)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        # The server's own default, 50 s for each try, is a good part of the two minutes. To MySQL
        # the rest is a comment.
        cursor = connection.cursor()
        cursor.execute(
            f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS} "
            f"/*M!100300 , idle_transaction_timeout = {IDLE_SECONDS} */"
        )
        cursor.close()

    return engine


def _given(url: URL, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What the URL itself says of them; the driver wants numbers that are numbers."""
    query = {name: str(value) for name, value in url.query.items() if name in defaults}
    return {name: int(value) if value.isdigit() else value for name, value in query.items()}


def _collation(url: URL) -> dict[str, Any]:
    # The driver's own default is one that MariaDB does not know.
    return {} if "collation" in url.query else {"charset": "utf8mb4", "collation": "utf8mb4_bin"}


def _of_connection(source: MySQLConnectionAbstract) -> Engine:
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


def _recognise(context: ExceptionContext) -> DBAPIError | None:
    """Have SQLAlchemy see what it does not know of this driver's errors."""
    error = context.original_exception
    number = getattr(error, "errno", None)
    if number in DISCONNECTED:
        context.is_disconnect = True
    if context.sqlalchemy_exception is None and isinstance(number, int):
        # The C extension raises errors of its own at COMMIT and ROLLBACK, which are passed on.
        return DBAPIError(None, None, error, connection_invalidated=context.is_disconnect)
    return None


def error_number(error: DBAPIError) -> int | None:
    """MySQL's number of an error; a locked SQLite counts as a deadlock."""
    if getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return 1213
    number = getattr(error.orig, "errno", None)
    return number if isinstance(number, int) else None


def is_away(error: DBAPIError) -> bool:
    """Whether an error says that the database cannot be reached or used now."""
    name = getattr(error.orig, "sqlite_errorname", "")
    return (
        error.connection_invalidated
        or error_number(error) in DISCONNECTED
        or name.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_READONLY"))
    )
