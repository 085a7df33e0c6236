"""Store the signals of incidents, and tell new signals from repeats."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, or_, select

from sef.clock import milliseconds
from sef.db.database import VersionConflict
from sef.db.statements import change, insert_rows, rows_where
from sef.db.tables import incidents, spot_interruption_events
from sef.failover.incidents.rows import Incident, newest_incident
from sef.terms import NOTICE, IncidentKind, Signal, SignalType

SAME_END = timedelta(seconds=5)
"""Maximum difference of two announced ends of one instance."""

RENEWED_AFTER = timedelta(minutes=15)
"""Time by which a recommendation must be later than the last known one to be a new one.

An agent that polls and sends its own time would renew its recommendation with each poll.
"""


@dataclass(frozen=True, slots=True)
class SignalUpdate:
    """The change that a signal made to the signals of its incident."""

    is_first: bool
    """True if the incident had no signal of this type before."""
    is_news: bool
    """True if it announces something; False for a repeat of an earlier signal of this type."""


def record_signal(
    connection: Connection, incident: Incident, signal: Signal, now: datetime
) -> SignalUpdate:
    """Record a signal of an incident: one row for each type, which counts the repeats.

    `detected_at` remains the arrival of the first signal: the failover time counts from there.

    Raises:
        VersionConflict: another worker has recorded a repeat meanwhile.
    """
    key = {"incident_id": incident.id, "signal_type": signal.type}
    known = rows_where(connection, spot_interruption_events, key).one_or_none()
    values: dict[str, Any] = {"last_received_at": now}
    if signal.terminates_at is not None:
        values["termination_time"] = signal.terminates_at
    if known is None:
        row = {
            **key,
            "agent_id": incident.agent_id,
            "instance_id": incident.instance_id,
            "pool_id": incident.pool_id,
            "detected_at": now,
            "signalled_at": signal.signalled_at,
            **values,
        }
        insert_rows(connection, spot_interruption_events, row)
        return SignalUpdate(is_first=True, is_news=True)
    changed = change(
        connection,
        spot_interruption_events,
        {"id": known.id, "times_received": known.times_received},
        times_received=known.times_received + 1,
        signalled_at=max(known.signalled_at, signal.signalled_at),
        **values,
    )
    if changed.rowcount != 1:
        raise VersionConflict
    is_news = signal.is_dated and not _repeats(signal, known.signalled_at)
    return SignalUpdate(is_first=False, is_news=is_news)


def signal_was_received(
    connection: Connection, incident: Incident, signal: Signal, now: datetime, memory: timedelta
) -> bool:
    """Return True if a signal repeats one of this incident.

    Args:
        memory: time after the last repeat during which a recommendation without a time is another
            repeat. After it, AWS is taken to have recommended anew.
    """
    columns = spot_interruption_events.c
    known = connection.execute(
        select(columns.signalled_at, columns.last_received_at).where(
            columns.incident_id == incident.id, columns.signal_type == signal.type
        )
    ).one_or_none()
    if known is None:
        return False
    if not signal.is_dated and signal.type is SignalType.REBALANCE:
        return bool(now - known.last_received_at < memory)
    return _repeats(signal, known.signalled_at)


def _repeats(signal: Signal, latest: datetime) -> bool:
    """Return True if a signal with a time repeats one of its type, whose latest time is given."""
    renewed_after = RENEWED_AFTER if signal.type is SignalType.REBALANCE else timedelta(0)
    return signal.signalled_at <= latest or signal.signalled_at - latest < renewed_after


def has_notice(connection: Connection, incident: Incident) -> bool:
    """Return True if AWS has announced the termination of the incident's instance."""
    key = {"incident_id": incident.id, "signal_type": SignalType.TERMINATION}
    return rows_where(connection, spot_interruption_events, key).first() is not None


def announced_end(connection: Connection, incident: Incident) -> datetime | None:
    """Return the end that a termination notice of the incident has announced, if any."""
    key = {"incident_id": incident.id, "signal_type": SignalType.TERMINATION}
    notice = rows_where(connection, spot_interruption_events, key).one_or_none()
    return None if notice is None else notice.termination_time


def end_of_notice(connection: Connection, incident: Incident) -> datetime | None:
    """Return the end of the incident's instance that AWS has announced; None without a notice.

    The deadline of a loss is the time at which SEF found it, so the notice itself counts there.
    """
    if incident.kind is not IncidentKind.LOSS:
        return incident.deadline
    key = {"incident_id": incident.id, "signal_type": SignalType.TERMINATION}
    notice = rows_where(connection, spot_interruption_events, key).one_or_none()
    if notice is None:
        return None
    return end_after(notice.termination_time, notice.detected_at)


def end_after(announced: datetime | None, arrived_at: datetime) -> datetime:
    """Return the end that a notice announces: two minutes after it, if it names no later time."""
    if announced is not None and announced > arrived_at:
        return announced
    return arrived_at + NOTICE


def incident_of_signal(connection: Connection, agent_id: str, signal: Signal) -> Incident | None:
    """Return the incident that has a signal of the same type and the same time by AWS.

    A signal that announces another end is another signal.
    """
    columns = spot_interruption_events.c
    recorded = select(columns.incident_id).where(
        columns.agent_id == agent_id,
        columns.signal_type == signal.type,
        columns.signalled_at == signal.signalled_at,
    )
    end = signal.terminates_at
    if end is not None:
        is_same = columns.termination_time.between(end - SAME_END, end + SAME_END)
        recorded = recorded.where(or_(columns.termination_time.is_(None), is_same))
    return newest_incident(connection, incidents.c.id.in_(recorded))


def complete_failover(
    connection: Connection,
    incident: Incident,
    signal_type: SignalType,
    replica_id: str | None,
    now: datetime,
) -> int:
    """Mark the signal that caused a promotion; return the milliseconds since its arrival.

    A planned switchover has no signal: its time counts from the opening of the incident.
    """
    key = {"incident_id": incident.id, "signal_type": signal_type}
    cause = rows_where(connection, spot_interruption_events, key).one_or_none()
    if cause is None:
        return milliseconds(incident.opened_at, now)
    failover_time_ms = milliseconds(cause.detected_at, now)
    change(
        connection,
        spot_interruption_events,
        {"id": cause.id},
        failover_completed=True,
        failover_time_ms=failover_time_ms,
        replica_id=replica_id,
    )
    return failover_time_ms
