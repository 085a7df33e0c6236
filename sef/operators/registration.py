"""Agents registered or changed by operators."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent, insert_agent, read_agent, update_agent
from sef.context import Context
from sef.errors import AgentNotFound, Conflict
from sef.failover.cutover.checks import target_warnings
from sef.failover.cutover.rows import supersede_cutover
from sef.failover.cutover.targets import parse_targets
from sef.failover.standbys.rows import live_standby, replica_of_instance
from sef.notifications.events import Event, write_events
from sef.operators.idempotency import Answer
from sef.operators.status import agent_fields
from sef.terms import NotificationKind, ReplicaStatus


def register(ctx: Context, agent_id: str, changes: Mapping[str, Any]) -> Answer:
    """Register an agent or change one; `warnings` says what the operator should look at.

    Another instance starts another epoch, as a promotion does. The former primary, if SEF launched
    it, is left to its operator: whoever names the primary by hand knows best when the other
    instance is not needed any more.

    Raises:
        Refused: a cutover target cannot be read.
        Conflict: the instance is the agent's standby.
    """
    names_targets = changes.get("cutover") is not None
    if names_targets:
        changes = {**changes, "cutover": parse_targets(changes["cutover"])}
    is_new, warnings = ctx.database.write(_write, ctx, agent_id, changes)
    agent = ctx.database.read(read_agent, agent_id)
    if names_targets:
        # After COMMIT: an error of AWS prevents no registration.
        warnings = [*warnings, *target_warnings(ctx, agent)]
    return {
        "status": "success",
        "message": "registered" if is_new else "changed",
        "warnings": warnings,
        "agent": agent_fields(agent),
    }


def _write(
    connection: Connection, ctx: Context, agent_id: str, changes: Mapping[str, Any]
) -> tuple[bool, list[str]]:
    """Return True for a new agent, and the warnings."""
    now = ctx.clock()
    try:
        agent = read_agent(connection, agent_id, lock=True)
    except AgentNotFound:
        insert_agent(connection, agent_id, now, **changes)
        event = Event("agent_registered", f"{agent_id} is registered", agent_id)
        write_events(connection, [event], now)
        return True, []
    values = dict(changes)
    warnings = []
    if changes.get("instance_id", agent.instance_id) != agent.instance_id:
        _refuse_standby(connection, agent_id, changes["instance_id"])
        values["epoch"] = agent.epoch + 1
        supersede_cutover(connection, agent_id, "an operator named another primary", now)
        warnings = _warn_of_former_primary(connection, ctx, agent)
    update_agent(connection, agent, now, **values)
    message = f"{agent_id} is changed: {', '.join(sorted(changes)) or 'nothing'}"
    event = Event("agent_changed", message, agent_id, details=dict(changes))
    write_events(connection, [event], now)
    return False, warnings


def _refuse_standby(connection: Connection, agent_id: str, instance_id: str | None) -> None:
    standby = live_standby(connection, agent_id)
    if standby is not None and instance_id is not None and standby.instance_id == instance_id:
        raise Conflict(
            "instance_is_standby",
            f"{instance_id} is the standby of {agent_id}, which manual-switch makes the primary.",
        )


def _warn_of_former_primary(connection: Connection, ctx: Context, agent: Agent) -> list[str]:
    """Warn that the former primary keeps running, if SEF launched it."""
    instance_id = agent.instance_id
    launched = replica_of_instance(connection, instance_id) if instance_id else None
    if launched is None or launched.status is not ReplicaStatus.PROMOTED:
        return []
    message = (
        f"{instance_id}, which SEF launched, is not the primary any more and runs on until you "
        f"end it: aws ec2 terminate-instances --instance-ids {instance_id}"
    )
    event = Event(
        "primary_left",
        message,
        agent.id,
        "warning",
        details={"instance_id": instance_id},
        notification=NotificationKind.ALERT,
    )
    write_events(connection, [event], ctx.clock())
    return [message]
