"""Launch a second standby, the relief, beside one that is slow or has a recommendation itself.

The relief takes the place of the standby when it runs, and when the standby ends first. Until then
the standby stays: if it becomes ready first, it is used.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.config import Settings
from sef.context import Context
from sef.failover.incidents.rows import Incident, open_incident, update_incident
from sef.failover.instances.attempts import Attempt
from sef.failover.instances.limits import launch_limit, report_limit
from sef.failover.standbys.backoff import (
    RETRY,
    RETRY_EMERGENCY,
    cool_down_pool_of,
    escalate,
    is_relief_postponed,
)
from sef.failover.standbys.rows import (
    Replica,
    change_replica,
    create_replica,
    live_standby,
    move_replica,
    read_replica,
    relief_of,
)
from sef.terms import ReplicaStatus, ReplicaType

SLOW_AFTER = timedelta(seconds=25)
"""Time after which a launch counts as slow in an emergency.

EC2 seldom shows an instance as pending for more than 40 s, and a launch is given up only after
twice this time, when its relief is slow too.
"""

GROWTH = 2
"""After the deadline, a launch is slow after the time since the deadline, divided by this."""


def slow_after(deadline: datetime | None, now: datetime, launch_timeout: timedelta) -> timedelta:
    """Return the time from the call of a launch after which it counts as slow in an emergency.

    It grows after the deadline, so that launches which hang do not use up the limits.

    Args:
        deadline: the announced end of the primary, or the time at which its loss was found.
        launch_timeout: the maximum.
    """
    overdue = now - deadline if deadline is not None else timedelta()
    return min(max(SLOW_AFTER, overdue / GROWTH), launch_timeout)


def is_slow(
    attempts: Sequence[Attempt], incident: Incident | None, now: datetime, settings: Settings
) -> bool:
    """Return True if a launch takes too long in an emergency.

    Either EC2 has not answered its call, or the instance does not run. A launch that waits for a
    request token or for a limit is not slow: another would wait for the same.

    Args:
        attempts: the attempts of the launching replica.
    """
    if incident is None or not incident.is_emergency or not attempts:
        return False
    called_at = attempts[-1].called_at
    if called_at is None or attempts[-1].status == "refused":
        return False
    timeout = timedelta(seconds=settings.launch_timeout_seconds)
    return now - called_at >= slow_after(incident.deadline, now, timeout)


def relieve(connection: Connection, ctx: Context, slow: Replica) -> str | None:
    """Act on a slow launch in an emergency, and return a sentence about it.

    The standby gets a relief in another pool. A relief takes the place of the slow standby, which
    is released. None if that was done already, if it is postponed, or if another worker has changed
    the replica.
    """
    agent = read_agent(connection, slow.agent_id, lock=True)
    incident = open_incident(connection, agent.id)
    now = ctx.clock()
    # A check that did not find the instance has changed the row since.
    current = read_replica(connection, slow.id)
    if current is None or incident is None or not incident.is_emergency:
        return None
    if current.status is not slow.status or current.instance_id != slow.instance_id:
        return None
    slow = current
    if slow.relief_agent_id is not None:
        standby = live_standby(connection, agent.id)
        if standby is None or standby.status is not ReplicaStatus.LAUNCHING:
            return None
        reason = "it does not run, and neither does the launch after it"
        move_replica(connection, standby, ReplicaStatus.RELEASING, reason, now, severity="warning")
        return reason
    if relief_of(connection, agent.id) is not None or is_relief_postponed(slow, now):
        return None
    cool_down_pool_of(connection, slow, "TooSlow", now, ctx.settings)
    name = slow.instance_id or "the launch before"
    reason = f"{name} does not run in time and the primary is being lost"
    return create_relief(connection, ctx, slow, ReplicaType.TERMINATION, reason, incident, now)


def create_relief(
    connection: Connection,
    ctx: Context,
    standby: Replica,
    replica_type: ReplicaType,
    reason: str,
    incident: Incident | None,
    now: datetime,
) -> str:
    """Create the relief of a standby, or postpone it at a limit; return a sentence.

    The caller has locked the agent. Either way the standby's row changes, so that two workers
    cannot plan a launch of the standby and one of its relief at the same time.
    """
    is_emergency = incident is not None and incident.is_emergency
    limit = launch_limit(
        connection, standby.agent_id, now, ctx.settings, is_emergency=is_emergency, is_decision=True
    )
    if limit is not None:
        consequence = "SEF launches no instance now and retries"
        incident_id = incident.id if incident else None
        report_limit(connection, limit, consequence, now, incident_id=incident_id)
        pause = RETRY_EMERGENCY if is_emergency else RETRY
        change_replica(connection, standby, relief_not_before=now + pause)
        if is_emergency:
            escalate(connection, standby.agent_id, limit.reason, now, at_once=True)
        return f"launch postponed: {limit.reason}"
    change_replica(connection, standby, relief_not_before=now)
    incident_id = incident.id if incident else None
    replica_id = create_replica(
        connection, standby.agent_id, replica_type, reason, incident_id, now, is_relief=True
    )
    if incident is not None and incident.kind.is_planned:
        update_incident(connection, incident, replica_id=replica_id)
    return f"launching another standby: {reason}"


def take_over(connection: Connection, relief: Replica, now: datetime) -> Replica:
    """Make a relief that runs the agent's standby, release the other, and return the relief.

    Raises:
        VersionConflict: the standby has changed since it was read.
    """
    standby = live_standby(connection, relief.agent_id)
    assert standby is not None, "a relief becomes the standby when its standby ends"
    reason = f"{relief.instance_id} takes its place"
    move_replica(connection, standby, ReplicaStatus.RELEASING, reason, now, severity="warning")
    taken = read_replica(connection, relief.id)
    assert taken is not None
    return taken
