"""Classify the errors of MySQL, MariaDB and SQLite, and pause before a retry."""

import random
import time

from sqlalchemy.exc import DBAPIError

DEADLOCK = 1213
LOCK_WAIT = 1205
RETRIED = frozenset({DEADLOCK, LOCK_WAIT, 1020})
"""Errors after which the transaction is repeated. 1213: deadlock, or on Galera a conflict at
COMMIT. 1205: the lock wait timed out. 1020: the row has changed since it was read."""

DUPLICATE = 1062
SQLITE_DUPLICATE = frozenset({"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"})

DISCONNECTED = frozenset(
    {1047, 1927, 4031, 1053, 1290, 1836, 3024, 2003, 2006, 2013, 2055}
    | {1040, 1203, 1158, 1159, 1160, 1161, 1317, 2014, 2026, 2027}
)
"""Errors of this driver that mean that the server cannot be used. SQLAlchemy itself recognises only
2003, 2006, 2013 and 2055. 1047: the node is not part of its cluster. 1927 and 4031: the connection
was killed or idle for too long. 1053: the server is shutting down. 1290 and 1836: the server is
read-only, for example because another server was promoted. 3024: the pure Python driver timed out.
1040 and 1203: the server has too many connections. 1158 to 1161, 2014, 2026 and 2027: the
connection broke within a packet, an answer or the TLS handshake. 1317: the server stopped the
statement, for example to apply another node's transaction.
https://mariadb.com/kb/en/mariadb-error-code-reference/"""

SQLITE_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
SQLITE_AWAY = ("SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_READONLY")


def error_number(error: DBAPIError) -> int | None:
    """Return MySQL's number of an error; a locked SQLite database counts as a deadlock."""
    if _sqlite_name(error).startswith(SQLITE_BUSY):
        return DEADLOCK
    number = getattr(error.orig, "errno", None)
    return number if isinstance(number, int) else None


def is_away(error: DBAPIError) -> bool:
    """Return True if the error means that the database cannot be reached or used now."""
    return (
        error.connection_invalidated
        or error_number(error) in DISCONNECTED
        or _sqlite_name(error).startswith(SQLITE_AWAY)
    )


def is_duplicate(error: DBAPIError) -> bool:
    """Return True if the error means that a row with the same key exists."""
    return error_number(error) == DUPLICATE or _sqlite_name(error) in SQLITE_DUPLICATE


def wait_after(attempt: int) -> None:
    """Pause before the next attempt, for a random part of a time that doubles with each attempt.

    Transactions that conflicted pause for different times, so they do not conflict again.
    """
    time.sleep(random.uniform(0, min(0.5, 0.005 * 2**attempt)))


def _sqlite_name(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlite_errorname", "")
