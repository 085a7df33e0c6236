"""Report exceptions that ended one step of the periodic work, once for each episode.

One agent's exception ends one step of this agent: the caller goes on with the others, and the next
pass retries. A pass may run each two seconds, so that repeats of one failure are neither logged nor
told again.
"""

import logging
from datetime import datetime, timedelta
from threading import Lock
from typing import Protocol
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, and_, delete, select

from sef.clock import Clock
from sef.db.database import Database
from sef.db.leases import MAX_CLOCK_SKEW
from sef.db.statements import insert_missing, swap
from sef.db.tables import step_failures
from sef.errors import SefError, Unavailable
from sef.notifications.events import Event, write_events
from sef.terms import NotificationKind

log = logging.getLogger("sef")

EPISODE_GAP = timedelta(hours=1)
"""Time without the failure after which its episode ends. Longer than the usual retry delays."""

SEEN_RECORDED_EVERY = timedelta(minutes=1)
"""Minimum time between two writes of `seen_at` in one episode."""

FORGOTTEN_AFTER = timedelta(days=30)
"""Time without the failure after which its row is deleted."""

_FIRST_LINE = 200
"""Maximum length of an exception's text in a message."""

_logged: WeakKeyDictionary[Database, dict[tuple[str, str, str], datetime]] = WeakKeyDictionary()
_lock = Lock()


class HasDatabase(Protocol):
    """The part of a `Context` that a report needs."""

    @property
    def database(self) -> Database:
        """The database that holds the history."""

    @property
    def clock(self) -> Clock:
        """The clock of the control loop."""


def report_failure(ctx: HasDatabase, agent_id: str | None, step: str, error: BaseException) -> None:
    """Log an exception that ended a step, and notify people, once for an episode.

    The failures of one agent, step and type of exception are one matter. Its episode ends after
    `EPISODE_GAP` without the failure. If the database is away, SEF only logs the failure. This
    function raises nothing itself, so that the caller can go on with the other agents.

    Args:
        agent_id: None for a step that concerns no single agent.
        step: name of the step, such as `reconcile`; at most 64 characters.
    """
    report_failure_at(ctx.database, agent_id, step, error, ctx.clock())


def report_failure_at(
    database: Database, agent_id: str | None, step: str, error: BaseException, now: datetime
) -> None:
    """Report a failure as `report_failure` does, where there is no `Context`."""
    agent = f" for agent {agent_id}" if agent_id else ""
    if isinstance(error, Unavailable):
        if _is_first_in_process(database, agent_id, step, error, now):
            log.warning("SEF: %s%s did not run, SEF retries: %s", step, agent, error)
        return
    try:
        is_new = database.write(_record, agent_id, step, error, now)
    except Exception as unrecorded:
        is_new = _is_first_in_process(database, agent_id, step, error, now)
        if is_new:
            log.warning("SEF: the failure below is only logged: %s", _first_line(unrecorded))
    if is_new:
        log.error("SEF: %s%s failed; SEF retries", step, agent, exc_info=error)


def _record(
    connection: Connection, agent_id: str | None, step: str, error: BaseException, now: datetime
) -> bool:
    """Record a failure, and write the event of a new episode; return True if it is new.

    Raises:
        VersionConflict: another worker has recorded the failure since the row was read.
    """
    columns = step_failures.c
    key = {"agent_id": agent_id or "", "step": step, "error": _kind(error)}
    insert_missing(connection, step_failures, [key])
    is_key = and_(*(columns[name] == value for name, value in key.items()))
    row = connection.execute(select(columns.seen_at, columns.version).where(is_key)).one()
    # A later time than the maximum clock skew allows comes from a wrong clock and is ignored.
    is_known = row.seen_at is not None and now - EPISODE_GAP < row.seen_at <= now + MAX_CLOCK_SKEW
    if is_known and now - row.seen_at < SEEN_RECORDED_EVERY:
        return False
    swap(connection, step_failures, key, version=row.version, seen_at=now)
    if is_known:
        return False
    # An answer of EC2 says itself what is wrong; any other exception is a defect.
    advice = (
        ""
        if isinstance(error, SefError)
        else ". The log has the traceback; please report it as a defect of SEF"
    )
    event = Event(
        "internal_error",
        f"{step} failed with {_kind(error)}: {_first_line(error)}. SEF goes on with all other work "
        f"and retries this step{advice}",
        agent_id=agent_id,
        severity="error",
        details={"step": step, "error": _kind(error)},
        notification=NotificationKind.ALERT,
        matter=(step, _kind(error), now.isoformat()),
    )
    write_events(connection, [event], now)
    connection.execute(delete(step_failures).where(columns.seen_at < now - FORGOTTEN_AFTER))
    return True


def _is_first_in_process(
    database: Database, agent_id: str | None, step: str, error: BaseException, now: datetime
) -> bool:
    """Return True for the first failure of an episode that this process has seen."""
    key = (agent_id or "", step, _kind(error))
    with _lock:
        seen = _logged.setdefault(database, {})
        last = seen.get(key)
        seen[key] = now
    return last is None or not now - EPISODE_GAP < last <= now + MAX_CLOCK_SKEW


def _kind(error: BaseException) -> str:
    return type(error).__name__[:100]


def _first_line(error: BaseException) -> str:
    """Return the first line of an exception's text: further lines may hold SQL and its values."""
    return (str(error).splitlines() or ["no text"])[0][:_FIRST_LINE]
