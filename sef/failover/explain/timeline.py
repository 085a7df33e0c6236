"""Read the incidents of an agent, and the timeline of one incident."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from sef.agents import read_agent
from sef.clock import iso, milliseconds
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
from sef.parsing import parse_count


def incident_page(
    connection: Connection, agent_id: str, *, before: str | None, limit: int, now: datetime
) -> list[dict[str, Any]]:
    """Return an agent's incidents, newest first.

    Args:
        before: ID of an incident; return only older ones.
        limit: maximum number of incidents.

    Raises:
        AgentNotFound: the agent is unknown.
        Refused: `invalid_before` or `invalid_limit`.
    """
    read_agent(connection, agent_id)
    size = parse_count(limit, "limit")
    known = None if before is None else find_incident(connection, before)
    if before is not None and (known is None or known.agent_id != agent_id):
        raise Refused("invalid_before", "before must be the id of an incident of the agent.")
    return _fields(connection, incidents_before(connection, agent_id, known, size), now)


def incident_story(connection: Connection, incident_id: str, now: datetime) -> dict[str, Any]:
    """Return an incident with its summary, its time budget and its timeline.

    Raises:
        IncidentNotFound: the incident is unknown.
    """
    incident = find_incident(connection, incident_id)
    if incident is None:
        raise IncidentNotFound(incident_id)
    return {
        "incident": _fields(connection, [incident], now)[0],
        "budget": _budget(incident, now),
        "timeline": [_entry_fields(entry) for entry in in_order(_entries(connection, incident))],
    }


def _fields(
    connection: Connection, incidents: Sequence[Incident], now: datetime
) -> list[dict[str, Any]]:
    pools = pools_of(connection, {i.new_instance_id for i in incidents if i.new_instance_id})
    return [_incident_fields(i, pools.get(i.new_instance_id or ""), now) for i in incidents]


def _incident_fields(incident: Incident, new_pool: str | None, now: datetime) -> dict[str, Any]:
    budget = _budget(incident, now)
    facts = IncidentSummary(
        kind=incident.kind,
        status=incident.status,
        goal=incident.goal,
        reason=incident.reason,
        obstacle=incident.obstacle,
        old=incident.subject,
        new=incident.new_instance_id,
        new_pool=new_pool,
        failover_ms=incident.failover_time_ms,
        seconds_left=budget["seconds_left"] if budget else None,
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
        "summary": summary(facts),
    }


def _budget(incident: Incident, now: datetime) -> dict[str, Any] | None:
    """Return the time that AWS gave for the failover; None if it announced no termination."""
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
        # The event of a refusal is in the timeline already, with EC2's message.
        if row.client_token not in refused:
            yield _launch(row, sizes.get(row.call_token, 1), decided.get(row.client_token, 0))
    yield from _notices(connection, incident)
    standby = read_replica(connection, incident.replica_id or "")
    if standby is not None and standby.incident_id != incident.id:
        yield from _steps_of_earlier_standby(standby)


def _signals(connection: Connection, incident: Incident) -> Iterator[TimelineEntry]:
    columns = spot_interruption_events.c
    rows = connection.execute(
        select(spot_interruption_events)
        .where(columns.incident_id == incident.id)
        .order_by(columns.id)
    )
    for row in rows:
        repeats = ""
        if row.times_received > 1:
            repeats = f", received {row.times_received} times, last at {iso(row.last_received_at)}"
        yield TimelineEntry(
            row.detected_at,
            EntryKind.SIGNAL,
            row.signal_type,
            f"{row.signal_type} for {incident.subject}{repeats}",
            details={
                "signalled_at": iso(row.signalled_at),
                "termination_time": iso(row.termination_time),
                "times_received": row.times_received,
                "last_received_at": iso(row.last_received_at),
            },
            latency_ms=_delivery_ms(row.signalled_at, row.detected_at),
            order=(0, row.id),
        )


def _events(events: Sequence[Row[Any]]) -> Iterator[TimelineEntry]:
    changed_at: dict[str, datetime] = {}
    for event in events:
        details = dict(_details(event))
        for call in details.pop("calls", []):
            error = f": {call['error']}" if call.get("error") else ""
            yield TimelineEntry(
                event.created_at,
                EntryKind.CALL,
                call["operation"],
                f"{call['operation']} of {call['instance_id']}{error}",
                details=call,
                latency_ms=call["ms"],
                order=(1, event.id, 0),
            )
        latency = details.get("latency_ms", details.get("failover_time_ms"))
        if event.event_type.startswith("replica_"):
            replica_id = details.get("replica_id", "")
            if replica_id in changed_at:
                latency = milliseconds(changed_at[replica_id], event.created_at)
            changed_at[replica_id] = event.created_at
        yield TimelineEntry(
            event.created_at,
            KINDS.get(event.event_type, EntryKind.STEP),
            event.event_type,
            event.message.removeprefix("SEF: "),
            details=details,
            latency_ms=latency,
            order=(1, event.id, 1),
        )


def _launch(row: Row[Any], call_size: int, decided_by: int) -> TimelineEntry:
    """Return the entry of a launch attempt.

    Args:
        call_size: attempts that shared the RunInstances call.
        decided_by: ID of the event after which the entry comes.
    """
    shared = f", one of {call_size} in a call" if call_size > 1 else ""
    result = {
        "open": "not answered yet",
        "launched": row.instance_id,
        "refused": row.error_code,
    }
    sentence = f"RunInstances, {row.market} in {row.pool_id}{shared}: {result[row.status]}"
    latency = None if row.answered_at is None else milliseconds(row.created_at, row.answered_at)
    details = {
        "operation": "RunInstances",
        "token": row.client_token,
        "call_token": row.call_token or row.client_token,
        "one_of": call_size,
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
        sentence,
        details=details,
        latency_ms=latency,
        order=(1, decided_by, 2),
    )


def _notices(connection: Connection, incident: Incident) -> Iterator[TimelineEntry]:
    """Yield an entry for each delivery of the incident's notifications."""
    for number, notification in enumerate(outbox.of_incident(connection, incident.id)):
        for delivery in notification["deliveries"]:
            channel, sent_at = delivery["channel"], delivery["sent_at"]
            result = {
                "sent": f"sent to {channel}",
                "pending": f"not sent to {channel} yet",
                "failed": f"could not be sent to {channel}",
            }
            yield TimelineEntry(
                sent_at or notification["created_at"],
                EntryKind.NOTICE,
                notification["kind"],
                f"{result[delivery['status']]}: {notification['title']}",
                details=delivery | {"sent_at": iso(sent_at), "urgency": notification["severity"]},
                latency_ms=(
                    None if sent_at is None else milliseconds(notification["created_at"], sent_at)
                ),
                order=(2, number),
            )


def _steps_of_earlier_standby(replica: Replica) -> Iterator[TimelineEntry]:
    """Yield the steps of a standby that was launched earlier and promoted in this incident."""
    instance = replica.instance_id
    details = {"replica_id": replica.id, "replica_type": replica.replica_type}
    steps = [
        ("replica_ready", replica.ready_at, f"standby {instance} is ready: {replica.reason}"),
        ("replica_promoted", replica.promoted_at, f"{instance} is promoted"),
    ]
    for event_type, at, sentence in steps:
        if at is not None:
            yield TimelineEntry(at, EntryKind.STEP, event_type, sentence, details, order=(0, 0))


def _launched_in(events: Sequence[Row[Any]]) -> set[str]:
    """Return the replicas that were launched in the incident.

    The incident may also have events of replicas that it only ended.
    """
    return {_details(e)["replica_id"] for e in events if e.event_type == "replica_launching"}


def _details(event: Row[Any]) -> dict[str, Any]:
    return event.details or {}


def _delivery_ms(signalled_at: datetime | None, detected_at: datetime) -> int | None:
    """Return the milliseconds from AWS to SEF; None if AWS's clock is ahead of SEF's."""
    if signalled_at is None or signalled_at > detected_at:
        return None
    return milliseconds(signalled_at, detected_at)


def _entry_fields(entry: TimelineEntry) -> dict[str, Any]:
    return {
        "at": iso(entry.at),
        "kind": entry.kind,
        "type": entry.type,
        "sentence": entry.sentence,
        "latency_ms": entry.latency_ms,
        "details": entry.details,
    }
