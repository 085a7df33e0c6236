"""The timeline of an incident, from the rows that its steps have left."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select

from sef.agents import read_agent
from sef.clock import iso
from sef.db.tables import launch_attempts, spot_interruption_events, system_events
from sef.errors import IncidentNotFound, Refused
from sef.failover.incidents.rows import Incident, find_incident, incidents_before
from sef.failover.incidents.summary import (
    KINDS,
    EntryKind,
    IncidentSummary,
    TimelineEntry,
    in_order,
    summary,
)
from sef.failover.instances import attempts
from sef.failover.standbys.rows import Replica, pools_of, read_replica
from sef.notifications import outbox


def incident_page(
    connection: Connection, agent_id: str, *, before: str | None, limit: int, now: datetime
) -> list[dict[str, Any]]:
    """An agent's incidents, newest first, from before the incident `before` on.

    Raises:
        Refused: `invalid_before`.
    """
    read_agent(connection, agent_id)
    known = None if before is None else find_incident(connection, before)
    if before is not None and (known is None or known.agent_id != agent_id):
        raise Refused("invalid_before", "before must be the id of an incident of the agent.")
    return _fields(connection, incidents_before(connection, agent_id, known, limit), now)


def incident_story(connection: Connection, incident_id: str, now: datetime) -> dict[str, Any]:
    """One incident: what it is, its sentence, its budget of time, and what happened, in order.

    Raises:
        IncidentNotFound: there is none of this id.
    """
    incident = find_incident(connection, incident_id)
    if incident is None:
        raise IncidentNotFound(incident_id)
    return {
        "incident": _fields(connection, [incident], now)[0],
        "budget": _budget(incident, now),
        "timeline": [_shown(entry) for entry in in_order(_entries(connection, incident))],
    }


def _fields(
    connection: Connection, found: Sequence[Incident], now: datetime
) -> list[dict[str, Any]]:
    pools = pools_of(connection, {i.new_instance_id for i in found if i.new_instance_id})
    return [_incident_fields(i, pools.get(i.new_instance_id or ""), now) for i in found]


def _incident_fields(incident: Incident, new_pool: str | None, now: datetime) -> dict[str, Any]:
    budget = _budget(incident, now)
    course = IncidentSummary(
        incident.kind,
        incident.status,
        incident.goal,
        incident.reason,
        incident.obstacle,
        incident.subject,
        incident.new_instance_id,
        new_pool,
        incident.failover_time_ms,
        budget["seconds_left"] if budget else None,
    )
    return {
        "id": incident.id,
        "agent_id": incident.agent_id,
        "kind": incident.kind,
        "status": incident.status,
        "goal": incident.goal,
        "reason": incident.reason,
        "obstacle": incident.obstacle,
        "risk_score": incident.risk_score,
        "instance_id": incident.instance_id,
        "pool_id": incident.pool_id,
        "replica_id": incident.replica_id,
        "new_instance_id": incident.new_instance_id,
        "new_pool_id": new_pool,
        "failover_time_ms": incident.failover_time_ms,
        "opened_at": iso(incident.opened_at),
        "deadline": iso(incident.deadline),
        "closed_at": iso(incident.closed_at),
        "summary": summary(course),
    }


def _budget(incident: Incident, now: datetime) -> dict[str, Any] | None:
    """The time that AWS gave; None where it announced no end."""
    if incident.deadline is None or not incident.kind.is_announced:
        return None
    promoted_at = incident.closed_at if incident.new_instance_id else None
    left = incident.deadline - (promoted_at or now)
    return {
        "announced_at": iso(incident.termination_at),
        "deadline": iso(incident.deadline),
        "promoted_at": iso(promoted_at),
        "seconds_left": round(left.total_seconds(), 3),
    }


def _entries(connection: Connection, incident: Incident) -> Iterator[TimelineEntry]:
    yield from _signals(connection, incident)
    events = connection.execute(
        select(system_events)
        .where(system_events.c.incident_id == incident.id)
        .order_by(system_events.c.id)
    ).all()
    yield from _events(events)
    launched = connection.execute(
        select(launch_attempts).where(
            launch_attempts.c.replica_id.in_(_launched_in(events) | {incident.replica_id or ""})
        )
    ).all()
    sizes = attempts.call_sizes(connection, {row.call_token for row in launched if row.call_token})
    decided = {_details(e).get("token"): e.id for e in events if e.event_type == "launch_decided"}
    refused = {_details(e).get("token") for e in events if e.event_type == "launch_refused"}
    for row in launched:
        # A refusal is told by its event, which has EC2's words.
        if row.client_token not in refused:
            yield _launch(row, sizes.get(row.call_token, 1), decided.get(row.client_token, 0))
    yield from _notices(connection, incident)
    served = read_replica(connection, incident.replica_id or "")
    if served is not None and served.incident_id != incident.id:
        yield from _came_before(served)


def _signals(connection: Connection, incident: Incident) -> Iterator[TimelineEntry]:
    columns = spot_interruption_events.c
    rows = connection.execute(
        select(spot_interruption_events)
        .where(columns.incident_id == incident.id)
        .order_by(columns.id)
    )
    for row in rows:
        often = ""
        if row.times_received > 1:
            often = f", received {row.times_received} times, last at {iso(row.last_received_at)}"
        yield TimelineEntry(
            row.detected_at,
            EntryKind.SIGNAL,
            row.signal_type,
            f"{row.signal_type} for {incident.subject}{often}",
            {
                "signalled_at": iso(row.signalled_at),
                "termination_time": iso(row.termination_time),
                "times_received": row.times_received,
                "last_received_at": iso(row.last_received_at),
            },
            _on_its_way(row.signalled_at, row.detected_at),
            (0, row.id),
        )


def _events(events: Sequence[Row[Any]]) -> Iterator[TimelineEntry]:
    since: dict[str, datetime] = {}
    for event in events:
        details = dict(_details(event))
        for call in details.pop("calls", []):
            failed = f": {call['error']}" if call.get("error") else ""
            yield TimelineEntry(
                event.created_at,
                EntryKind.CALL,
                call["operation"],
                f"{call['operation']} of {call['instance_id']}{failed}",
                call,
                call["ms"],
                (1, event.id, 0),
            )
        latency = details.get("latency_ms", details.get("failover_time_ms"))
        if event.event_type.startswith("replica_"):
            replica_id = details.get("replica_id", "")
            if replica_id in since:
                latency = _milliseconds(event.created_at - since[replica_id])
            since[replica_id] = event.created_at
        yield TimelineEntry(
            event.created_at,
            KINDS.get(event.event_type, EntryKind.STEP),
            event.event_type,
            event.message.removeprefix("SEF: "),
            details,
            latency,
            (1, event.id, 1),
        )


def _launch(row: Row[Any], size: int, after: int) -> TimelineEntry:
    where = f"{row.market} in {row.pool_id}"
    if size > 1:
        where += f", one of {size} in a call"
    said = {
        "open": f"RunInstances, {where}: not answered yet",
        "launched": f"RunInstances, {where}: {row.instance_id}",
        "refused": f"RunInstances, {where}: {row.error_code}",
    }
    latency = None if row.answered_at is None else _milliseconds(row.answered_at - row.created_at)
    details = {
        "operation": "RunInstances",
        "token": row.client_token,
        "call_token": row.call_token or row.client_token,
        "one_of": size,
        "pool_id": row.pool_id,
        "market": row.market,
        "instance_id": row.instance_id,
        "error": row.error_code,
        "answered_at": iso(row.answered_at),
    }
    return TimelineEntry(
        row.created_at,
        EntryKind.CALL,
        "RunInstances",
        said[row.status],
        details,
        latency,
        (1, after, 2),
    )


def _notices(connection: Connection, incident: Incident) -> Iterator[TimelineEntry]:
    """Who was told, on each channel that the settings named then."""
    for number, note in enumerate(outbox.of_incident(connection, incident.id)):
        for delivery in note["deliveries"]:
            channel, sent_at = delivery["channel"], delivery["sent_at"]
            said = {
                "sent": f"{channel} was told: {note['title']}",
                "pending": f"{channel} is to be told: {note['title']}",
                "failed": f"{channel} could not be told: {note['title']}",
            }
            yield TimelineEntry(
                sent_at or note["created_at"],
                EntryKind.NOTICE,
                note["kind"],
                said[delivery["status"]],
                delivery | {"sent_at": iso(sent_at), "urgency": note["severity"]},
                None if sent_at is None else _milliseconds(sent_at - note["created_at"]),
                (2, number),
            )


def _came_before(replica: Replica) -> Iterator[TimelineEntry]:
    """The steps of a standby that was launched for something else and served this incident."""
    details = {"replica_id": replica.id, "replica_type": replica.replica_type}
    steps = [
        ("replica_ready", replica.ready_at, f"{replica.instance_id} stands by: {replica.reason}"),
        ("replica_promoted", replica.promoted_at, f"{replica.instance_id} is promoted"),
    ]
    for name, at, said in steps:
        if at is not None:
            yield TimelineEntry(at, EntryKind.STEP, name, said, details, order=(0, 0))


def _launched_in(events: Sequence[Row[Any]]) -> set[str]:
    """The replicas that were launched for it; of others it only tells the end."""
    return {_details(e)["replica_id"] for e in events if e.event_type == "replica_launching"}


def _details(event: Row[Any]) -> dict[str, Any]:
    return event.details or {}


def _milliseconds(span: timedelta) -> int:
    return round(span / timedelta(milliseconds=1))


def _on_its_way(signalled_at: datetime | None, detected_at: datetime) -> int | None:
    """Unknown when AWS's clock is ahead of ours."""
    if signalled_at is None or signalled_at > detected_at:
        return None
    return _milliseconds(detected_at - signalled_at)


def _shown(entry: TimelineEntry) -> dict[str, Any]:
    return {
        "at": iso(entry.at),
        "kind": entry.kind,
        "type": entry.type,
        "sentence": entry.sentence,
        "latency_ms": entry.latency_ms,
        "details": entry.details,
    }
