"""Find out what SEF would do about a signal, without recording it."""

from functools import partial
from typing import Any

from sqlalchemy import Connection

from sef.context import Context
from sef.failover.explain.dry_run import dry_run
from sef.failover.incidents.rows import find_incident, read_incident
from sef.failover.signal_answers import answer
from sef.failover.signals import RecordedSignal, record
from sef.terms import Signal


def dry_run_signal(ctx: Context, agent_id: str, signal: Signal) -> dict[str, Any]:
    """Return the answer and the plan of `receive_signal`; change nothing.

    Raises:
        AgentNotFound: the agent is not registered.
    """
    begin = partial(record, signal=signal, now=ctx.clock())
    result = dry_run(ctx, agent_id, begin, _answer)
    # An incident that the dry run has opened was rolled back.
    known = ctx.database.read(find_incident, result.answer["incident_id"])
    return result.answer | {"incident_id": known.id if known else None, **result.course}


def _answer(connection: Connection, received: RecordedSignal) -> dict[str, Any]:
    outcome = answer(connection, received.incident_id, about_standby=received.about_standby)
    incident = read_incident(connection, received.incident_id)
    inputs = incident.inputs or {}
    return {
        "status": "success",
        "dry_run": True,
        "action": outcome["action"],
        "message": outcome["message"],
        "incident_id": incident.id,
        "goal": incident.goal,
        "reason": incident.reason,
        "risk": inputs.get("risk"),
        "threshold": inputs.get("threshold"),
        "mode": inputs.get("mode"),
    }
