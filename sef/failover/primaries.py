"""Change the primary of an agent: the one place in which an agent gets another primary.

The former primary gets a retirement, and the new one loses the retirement that it may have: it is
needed again. Both are in the transaction that changes the agent, so that no pass sees an instance
that is neither.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent, instance_role, update_agent
from sef.errors import Conflict
from sef.failover.standbys.retirements import (
    agent_with_primary,
    delete_retirement,
    plan_retirement,
    read_retirement,
)
from sef.failover.standbys.rows import (
    Replica,
    change_replica,
    move_replica,
    replica_of_instance,
)
from sef.identity import Door, may_become_primary
from sef.terms import ReplicaStatus


def change_primary(
    connection: Connection,
    agent: Agent,
    instance_id: str | None,
    reason: str,
    now: datetime,
    *,
    terminate_after: datetime | None,
    incident_id: str | None = None,
    **values: Any,
) -> None:
    """Give an agent another primary, or none, with the next epoch.

    Args:
        agent: the agent, read in this transaction.
        reason: the reason why the agent no longer needs the former primary.
        terminate_after: the time from which SEF may terminate the former primary. None: AWS or the
            operator terminates it.
        values: further columns of the agent to change.

    Raises:
        VersionConflict: the agent has changed since it was read.
    """
    update_agent(connection, agent, now, **values, instance_id=instance_id, epoch=agent.epoch + 1)
    if instance_id is not None:
        delete_retirement(connection, instance_id)
    if agent.instance_id is not None:
        launched = replica_of_instance(connection, agent.instance_id)
        plan_retirement(
            connection,
            agent.id,
            agent.instance_id,
            reason,
            now,
            terminate_after=terminate_after,
            pool_id=launched.pool_id if launched else agent.pool_id,
            market=launched.market if launched else None,
            incident_id=incident_id,
        )


def claim_instance(connection: Connection, agent_id: str, instance_id: str, now: datetime) -> None:
    """Check that an operator may name an instance as the primary, and end its other uses.

    A standby that is being released and a former primary that drains become a primary again, of
    their own agent or of another one.

    Raises:
        Conflict: the instance is a standby, or SEF has committed to terminate it.
    """
    replica = replica_of_instance(connection, instance_id)
    if not may_become_primary(Door.OPERATOR, instance_role(connection, agent_id, instance_id)):
        owner = replica.agent_id if replica else agent_id
        raise Conflict(
            "instance_is_standby",
            f"{instance_id} is the standby of {owner}. "
            + ("Use manual-switch to promote it." if owner == agent_id else "Name another one."),
        )
    retirement = read_retirement(connection, instance_id, lock=True)
    is_ending = retirement is not None and retirement.call_at is not None
    if replica is not None and replica.status is ReplicaStatus.RELEASING:
        is_ending = is_ending or replica.call_at is not None
    if is_ending and not (retirement is not None and retirement.terminated_at is not None):
        raise Conflict(
            "instance_is_ending",
            f"SEF is terminating {instance_id}. Name another instance as the primary.",
        )
    # The row of another agent's primary stays with that agent.
    is_primary = agent_with_primary(connection, instance_id, other_than=agent_id) is not None
    if replica is not None and not is_primary:
        _transfer(connection, replica, agent_id, now)


def _transfer(connection: Connection, replica: Replica, agent_id: str, now: datetime) -> None:
    """Make a replica that may run a promoted replica of the agent that names it."""
    if replica.status not in (ReplicaStatus.PROMOTED, ReplicaStatus.RELEASING):
        return
    if replica.agent_id != agent_id:
        change_replica(connection, replica, agent_id=agent_id)
        moved = replica_of_instance(connection, str(replica.instance_id))
        assert moved is not None
        replica = moved
    if replica.status is ReplicaStatus.RELEASING:
        reason = "an operator named it as the primary before it was terminated"
        move_replica(connection, replica, ReplicaStatus.PROMOTED, reason, now, severity="warning")
