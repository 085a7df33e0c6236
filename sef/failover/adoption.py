"""Adopt an instance that SEF launched and that the rows do not know, or no longer take for it.

After a restore the rows are older than the world. An operator adopts an instance by a command or a
call. SEF adopts one by itself in a single case: EC2 reports the primary of the rows gone, and
exactly one running instance with this deployment's and this agent's tags reports, or is signalled,
as the agent's.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, delete

from sef.agents import Agent, insert_agent, read_agent
from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG, REPLICA_TAG, Instance
from sef.config import Settings
from sef.db.statements import insert_rows
from sef.db.tables import kept_orphans, replica_instances
from sef.errors import AgentNotFound, Conflict
from sef.failover.cutover.begin import begin_cutover
from sef.failover.primaries import change_primary
from sef.failover.standbys.retirements import order_end
from sef.failover.standbys.rows import (
    Replica,
    change_replica,
    live_standby,
    read_replica,
    replica_of_instance,
)
from sef.notifications.events import Event, write_events
from sef.terms import NotificationKind, ReplicaStatus, ReplicaType

log = logging.getLogger("sef")

MIN_HEARD_WITHIN = timedelta(minutes=10)
"""Minimum time for which a report or a signal shows that an instance is in use."""


class Role(StrEnum):
    """The use of an adopted instance."""

    PRIMARY = "primary"  # it becomes the primary; SEF leaves the former one running
    STANDBY = "standby"  # it becomes the standby, if the agent has none
    SURPLUS = "surplus"  # SEF terminates it, whatever it holds


_STATUS = {
    Role.PRIMARY: ReplicaStatus.PROMOTED,
    Role.STANDBY: ReplicaStatus.READY,
    Role.SURPLUS: ReplicaStatus.RELEASING,
}
_OUTCOME = {
    Role.PRIMARY: "it is the primary now",
    Role.STANDBY: "it is the standby now",
    Role.SURPLUS: "SEF terminates it",
}


@dataclass(frozen=True, slots=True)
class Adoption:
    """The result of an adoption."""

    agent_id: str
    instance_id: str
    role: Role
    former_primary: str | None
    epoch: int
    message: str


def heard_within(settings: Settings) -> timedelta:
    """Return the time for which a report or a signal shows that an instance is in use."""
    return max(timedelta(seconds=settings.silence_threshold_seconds), MIN_HEARD_WITHIN)


def adopt(
    connection: Connection,
    agent_id: str,
    instance: Instance,
    role: Role,
    reason: str,
    now: datetime,
    *,
    instead_of: str | None = None,
) -> Adoption:
    """Record an instance as launched by SEF for the agent, in this role, and write the event.

    A repeat changes nothing. An unknown agent is registered. A new primary starts a new epoch and a
    cutover to it.

    Args:
        reason: the cause, as a clause.
        instead_of: the primary that the caller has found gone. None: any.

    Raises:
        Conflict: the agent has another primary than `instead_of`; it has a standby; or the
            instance belongs to another agent, or is this agent's standby.
        VersionConflict: the rows have changed since they were read.
    """
    agent = _agent(connection, agent_id, now)
    if instead_of is not None and agent.instance_id != instead_of:
        raise Conflict("primary_changed", f"{agent_id} has another primary by now. Look again.")
    known = replica_of_instance(connection, instance.id)
    _reject_taken(connection, agent, instance, known, role)
    is_primary = agent.instance_id == instance.id
    epoch = agent.epoch + (role is Role.PRIMARY and not is_primary)
    message = f"adopted {instance.id} for {agent_id}: {reason}; {_OUTCOME[role]}"
    adoption = Adoption(agent_id, instance.id, role, agent.instance_id, epoch, message)
    if is_primary and known is not None:
        return adoption  # a repeat
    _write_replica(connection, agent, instance, known, role, reason, now)
    if role is Role.SURPLUS:
        order_end(connection, agent_id, instance.id, now)
    if epoch != agent.epoch:
        _make_primary(connection, agent, instance, now)
    connection.execute(delete(kept_orphans).where(kept_orphans.c.instance_id == instance.id))
    event = Event(
        "instance_adopted",
        message,
        agent_id=agent_id,
        severity="warning",
        details={
            "instance_id": instance.id,
            "role": role,
            "former_primary": agent.instance_id,
            "epoch": epoch,
        },
        notification=NotificationKind.ALERT,
    )
    write_events(connection, [event], now)
    return adoption


def has_tags(instance: Instance, deployment: str, agent_id: str) -> bool:
    """Return True if the tags say that this deployment launched the instance for the agent."""
    tags = instance.tags
    return (
        tags.get(MANAGED_TAG) == deployment
        and tags.get(AGENT_TAG) == agent_id
        and ATTEMPT_TAG in tags
    )


def command(agent_id: str, instance_id: str, role: Role) -> str:
    """Return the command that adopts an instance."""
    return f"python backend.py adopt --agent {agent_id} --instance {instance_id} --as {role} --yes"


def _agent(connection: Connection, agent_id: str, now: datetime) -> Agent:
    try:
        return read_agent(connection, agent_id, lock=True)
    except AgentNotFound:
        insert_agent(connection, agent_id, now)
        return read_agent(connection, agent_id, lock=True)


def _reject_taken(
    connection: Connection, agent: Agent, instance: Instance, known: Replica | None, role: Role
) -> None:
    if known is not None and known.agent_id != agent.id:
        raise Conflict(
            "instance_of_other_agent", f"{instance.id} belongs to the agent {known.agent_id}."
        )
    if known is not None and (known.live_agent_id or known.relief_agent_id):
        raise Conflict(
            "instance_is_standby",
            f"{instance.id} is the standby of {agent.id}. Use manual-switch to promote it.",
        )
    if role is not Role.PRIMARY and agent.instance_id == instance.id:
        raise Conflict("instance_is_primary", f"{instance.id} is the primary of {agent.id}.")
    if role is Role.STANDBY and live_standby(connection, agent.id) is not None:
        raise Conflict("has_standby", f"{agent.id} has a standby already.")


def _write_replica(
    connection: Connection,
    agent: Agent,
    instance: Instance,
    known: Replica | None,
    role: Role,
    reason: str,
    now: datetime,
) -> None:
    """Write the replica row of the instance, as its launch would have."""
    status = _STATUS[role]
    values: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "live_agent_id": agent.id if role is Role.STANDBY else None,
        "ready_at": now,
        "promoted_at": now if role is Role.PRIMARY else None,
        "terminated_at": None,
    }
    if known is not None:
        # A row that ended although its instance runs is wrong, so this is no transition.
        if known.status is not status:
            change_replica(connection, known, **values)
        return
    replica_id = instance.tags.get(REPLICA_TAG, "")
    if not replica_id or read_replica(connection, replica_id) is not None:
        replica_id = f"replica-{uuid4().hex[:16]}"
    is_manual = agent.manual_replica_enabled
    row = {
        "id": replica_id,
        "agent_id": agent.id,
        "instance_id": instance.id,
        "replica_type": ReplicaType.MANUAL if is_manual else ReplicaType.TERMINATION,
        "pool_id": str(instance.pool) if instance.pool else None,
        "market": instance.market,
        "created_at": instance.launched_at or now,
        "launched_at": instance.launched_at or now,
        **values,
    }
    insert_rows(connection, replica_instances, row)


def _make_primary(connection: Connection, agent: Agent, instance: Instance, now: datetime) -> None:
    pool_id = str(instance.pool) if instance.pool else None
    change_primary(
        connection,
        agent,
        instance.id,
        f"{instance.id} was adopted",
        now,
        terminate_after=None,
        pool_id=pool_id,
        not_before=None,
        probation_until=None,
    )
    begin_cutover(connection, agent, instance.id, pool_id, None, None, now)
