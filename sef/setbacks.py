"""What follows when a standby does not come about, or a pool proves to be a bad one."""

from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.config import Settings
from sef.core.notices import Moment
from sef.core.policy import Outcome
from sef.core.replica import Market, Status
from sef.store import incidents, replicas
from sef.store.events import Event, write_events
from sef.store.fleet import put_off, read_agent
from sef.store.replicas import Replica

RETRY_EMERGENCY = timedelta(seconds=10)
RETRY = timedelta(seconds=60)
RETRY_OPERATOR = timedelta(minutes=5)
"""Until the next standby is tried, after one failed: in need of one, otherwise, and when EC2's
refusal will most likely need a person."""


def give_up(
    connection: Connection, replica: Replica, reason: str, pause: timedelta, now: datetime
) -> str | None:
    """A standby has failed, and the next one is tried after a pause; None: too late."""
    if replicas.read_replica(connection, replica.id) != replica:
        return None
    replicas.move_replica(connection, replica, Status.FAILED, reason, now, severity="error")
    agent = read_agent(connection, replica.agent_id, lock=True)
    put_off(connection, agent, now, pause, reason)
    call_operator(connection, agent.id, reason, now, at_once=pause is RETRY_OPERATOR)
    return f"gave up: {reason}"


def call_operator(
    connection: Connection, agent_id: str, reason: str, now: datetime, *, at_once: bool = False
) -> None:
    """Say that an agent's incident is stuck: at once, or once its deadline is over.

    It is still tried again: what a person mends goes on by itself.
    """
    incident = incidents.open_incident(connection, agent_id)
    if incident is None:
        return
    is_called = incident.status is Outcome.NEEDS_OPERATOR
    is_over = incident.deadline is not None and now >= incident.deadline
    if not is_called and not at_once and not is_over:
        return
    if incident.obstacle != reason:
        incidents.update_incident(
            connection, incident, status=Outcome.NEEDS_OPERATOR, obstacle=reason
        )
    if is_called:
        return
    event = Event(
        "operator_needed",
        f"{incident.subject} cannot be replaced without help: {reason}",
        incident.agent_id,
        "error",
        incident_id=incident.id,
        moment=Moment.OPERATOR,
    )
    write_events(connection, [event], now)


def avoid_pool_of(
    connection: Connection, replica: Replica, why: str, now: datetime, settings: Settings
) -> None:
    """Leave the pool alone in which a replica came to grief."""
    if replica.pool_id and replica.market:
        pause = timedelta(seconds=settings.pool_cooldown)
        replicas.mark_unavailable(connection, replica.pool_id, replica.market, why, now, pause)


def avoid_interrupted_pool(
    connection: Connection, pool_id: str | None, now: datetime, settings: Settings
) -> None:
    """Leave the pool alone in which AWS takes instances: it seldom takes only one."""
    if pool_id is not None:
        pause = timedelta(seconds=settings.interrupted_pool_cooldown)
        replicas.mark_unavailable(connection, pool_id, Market.SPOT, "Interrupted", now, pause)
