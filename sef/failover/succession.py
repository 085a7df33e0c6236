"""Let SEF itself adopt the instance that serves, in the one case that leaves no doubt.

EC2 reports the primary of the rows gone, and exactly one running instance with this deployment's
and this agent's tags reports, or is signalled, as the agent's. After a restore, or after an
operator has named an instance that is gone, SEF would otherwise replace an instance that serves.
"""

import logging
from datetime import datetime

from sqlalchemy import Connection

from sef.agents import Agent, read_agent
from sef.cloud.ec2 import Instance
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.db.leases import deployment_name
from sef.errors import Conflict
from sef.failover.adoption import Role, adopt, command, has_tags, heard_within
from sef.failover.incidents.rows import latest_incident
from sef.failover.standbys.rows import replica_of_instance, standby_with_instance
from sef.heard import reporting_since
from sef.notifications.events import Event, write_events
from sef.terms import NotificationKind, ReplicaStatus, Signal

log = logging.getLogger("sef")


def adopt_successor(ctx: Context, agent: Agent, now: datetime) -> bool:
    """Make the one instance that reports as the agent's its primary, if the primary is gone.

    Return True if the agent has another primary by that.

    Raises:
        CloudError: EC2 cannot be read. SEF adopts nothing.
    """
    since = now - heard_within(ctx.settings)
    heard = ctx.database.read(reporting_since, agent.id, since)
    return _adopt_one_of(ctx, agent, heard, "it reports as the agent's instance", now)


def learn_from_signal(ctx: Context, agent_id: str, signal: Signal, now: datetime) -> None:
    """Adopt the instance of a signal if the primary in the rows is gone; else tell the operator.

    Only a signal for an instance that is neither the primary nor the standby asks EC2.

    Raises:
        AgentNotFound: the agent is not registered.
    """
    signalled = signal.instance_id
    if signalled is None:
        return
    agent = ctx.database.read(_agent_to_teach, agent_id, signalled)
    if agent is None:
        return
    reason = f"AWS sent a {signal.type} for it"
    try:
        if not _adopt_one_of(ctx, agent, {signalled}, reason, now, is_signalled=True):
            instance = ctx.ec2.instances([signalled]).get(signalled)
            deployment = ctx.database.write(deployment_name)
            if instance is not None and has_tags(instance, deployment, agent_id):
                ctx.database.write(_tell_of_signal, agent, signal, now)
    except CloudError as error:
        log.warning("SEF: EC2 was not asked about the signalled %s: %s", signalled, error)


def _adopt_one_of(
    ctx: Context,
    agent: Agent,
    candidates: set[str],
    reason: str,
    now: datetime,
    *,
    is_signalled: bool = False,
) -> bool:
    primary = agent.instance_id
    candidates = candidates - {primary}
    if primary is None or not candidates:
        return False
    instances = ctx.ec2.instances({primary, *candidates})
    old = instances.get(primary)
    if old is None or not old.is_gone:
        return False
    deployment = ctx.database.write(deployment_name)
    running = [
        instance
        for id_, instance in instances.items()
        if id_ in candidates and instance.is_alive and has_tags(instance, deployment, agent.id)
    ]
    successors = ctx.database.read(_successors, agent.id, running, is_signalled)
    if len(successors) != 1:
        return False
    reason = f"{primary}, the primary in the rows, is {old.ec2_state}, and {reason}"
    try:
        ctx.database.write(
            adopt, agent.id, successors[0], Role.PRIMARY, reason, now, instead_of=primary
        )
    except Conflict as conflict:
        log.info("SEF: %s is not adopted: %s", successors[0].id, conflict.message)
        return False
    return True


def _successors(
    connection: Connection, agent_id: str, running: list[Instance], is_signalled: bool
) -> list[Instance]:
    """Return the instances that no row knows, or that were this agent's primary before."""
    return [
        instance
        for instance in running
        if _may_succeed(connection, agent_id, instance.id, is_signalled)
    ]


def _may_succeed(
    connection: Connection, agent_id: str, instance_id: str, is_signalled: bool
) -> bool:
    """Return True if SEF may adopt the instance as the primary by itself.

    An instance that AWS is taking is adopted only by its own signal, which is acted on at once.
    """
    incident = latest_incident(connection, agent_id, instance_id)
    if incident is not None and incident.termination_at is not None and not is_signalled:
        return False
    replica = replica_of_instance(connection, instance_id)
    return replica is None or (
        replica.agent_id == agent_id and replica.status is ReplicaStatus.PROMOTED
    )


def _agent_to_teach(connection: Connection, agent_id: str, signalled: str) -> Agent | None:
    """Return the agent if the signal may be about an unknown primary of it."""
    agent = read_agent(connection, agent_id)
    if agent.instance_id in (None, signalled):
        return None
    if standby_with_instance(connection, agent_id, signalled) is not None:
        return None
    incident = latest_incident(connection, agent_id, signalled)
    was_replaced = incident is not None and incident.new_instance_id is not None
    return None if was_replaced else agent


def _tell_of_signal(connection: Connection, agent: Agent, signal: Signal, now: datetime) -> None:
    """Tell once of a signal for an instance with the agent's tags that no row knows."""
    instance_id = str(signal.instance_id)
    if (
        replica_of_instance(connection, instance_id) is not None
        or latest_incident(connection, agent.id, instance_id) is not None
    ):
        return
    event = Event(
        "unknown_instance_signalled",
        f"AWS sent a {signal.type} for {instance_id}, which has the tags of {agent.id} and which "
        f"no row knows. SEF takes {agent.instance_id} for the primary and launches nothing. If "
        f"{instance_id} serves, run: {command(agent.id, instance_id, Role.PRIMARY)}",
        agent_id=agent.id,
        severity="error",
        details={"instance_id": instance_id, "primary": agent.instance_id},
        notification=NotificationKind.ALERT,
    )
    write_events(connection, [event], now)
