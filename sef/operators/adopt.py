"""Adopt instances that SEF launched and no row knows, as an operator says."""

from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent, read_agent
from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG, Instance
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.db.leases import deployment_name
from sef.errors import AgentNotFound, CloudUnavailable, Conflict, Refused
from sef.failover.adoption import Adoption, Role, adopt
from sef.failover.instances.orphan_survey import kept_of_survey, survey
from sef.failover.reconcile import reconcile_agent
from sef.failover.standbys.retirements import change_retirement, order_end, read_retirement
from sef.failover.standbys.rows import live_standby
from sef.notifications.events import Event, write_events
from sef.operators.idempotency import Answer
from sef.parsing import parse_instance_id


def unknown_instances(ctx: Context) -> list[dict[str, Any]]:
    """Return the running instances of this SEF that no row refers to and that no sweep terminates.

    Instances that are too young for a sweep are among them: after a restore, an operator must see
    them at once.

    Raises:
        CloudUnavailable: EC2 did not return a usable answer.
    """
    now = ctx.clock()
    try:
        view = survey(ctx, now)
    except CloudError as error:
        raise CloudUnavailable(str(error)) from error
    kept = kept_of_survey(view, ctx.settings, now, min_age=timedelta(0))
    agents = {orphan.agent_id for orphan in kept if orphan.agent_id is not None}
    standbys = {agent_id: ctx.database.read(live_standby, agent_id) for agent_id in agents}
    return [
        {
            "instance_id": orphan.instance_id,
            "agent_id": orphan.agent_id,
            "pool_id": orphan.pool_id,
            "reason": orphan.reason,
            "advice": orphan.advice,
            "primary": view.primaries.get(orphan.agent_id or ""),
            "primary_state": view.primary_state(orphan.agent_id),
            "has_standby": standbys.get(orphan.agent_id or "") is not None,
        }
        for orphan in kept
    ]


def adopt_instance(ctx: Context, agent_id: str, instance_id: object, role: object = None) -> Answer:
    """Adopt an instance for an agent, continue the agent's work, and return the adoption.

    Args:
        role: primary, standby or surplus. None: primary, if EC2 does not show the primary of the
            rows running. As surplus, SEF also terminates a former primary or a released standby of
            the agent that it keeps running, whatever it holds.

    Raises:
        Refused: the instance id or the role is malformed.
        CloudUnavailable: EC2 did not return a usable answer.
        Conflict: the instance does not run, is not this SEF's, or belongs to another agent; or
            no role was named, and the primary runs.
    """
    named = parse_instance_id({"instance_id": instance_id})
    if named is None:
        raise Refused("invalid_instance_id", "instance_id is required.")
    wanted = _parse_role(role)
    if wanted is Role.SURPLUS:
        adoption = ctx.database.write(_end_retired, agent_id, named, ctx.clock())
        if adoption is not None:
            reconcile_agent(ctx, agent_id)
            return {"status": "success", **asdict(adoption)}
    agent = _find_agent(ctx, agent_id)
    primary = agent.instance_id if agent is not None else None
    try:
        instances = ctx.ec2.instances({named, *([primary] if primary else [])})
    except CloudError as error:
        raise CloudUnavailable(str(error)) from error
    instance = instances.get(named)
    _reject_foreign(ctx, agent_id, named, instance)
    assert instance is not None
    former = instances.get(primary or "")
    if wanted is None and former is not None and former.is_alive and primary != named:
        raise Conflict(
            "primary_runs",
            f"{primary}, the primary of {agent_id}, is {former.ec2_state}. Name the role of "
            f"{named}: primary, standby or surplus.",
        )
    adoption = ctx.database.write(
        adopt, agent_id, instance, wanted or Role.PRIMARY, "an operator adopted it", ctx.clock()
    )
    reconcile_agent(ctx, agent_id)
    return {"status": "success", **asdict(adoption)}


def _end_retired(
    connection: Connection, agent_id: str, instance_id: str, now: datetime
) -> Adoption | None:
    """Order the end of an instance that an agent no longer needs; None if it is no such instance.

    The rules that keep an instance that serves still hold.
    """
    retirement = read_retirement(connection, instance_id, lock=True)
    if retirement is None or retirement.agent_id != agent_id:
        return None
    agent = read_agent(connection, agent_id)
    adoption = Adoption(
        agent_id,
        instance_id,
        Role.SURPLUS,
        agent.instance_id,
        agent.epoch,
        f"an operator named {instance_id} to be terminated, whatever it holds",
    )
    if retirement.terminated_at is not None:
        return replace(adoption, message=f"{instance_id} has ended")  # a repeat
    order_end(connection, agent_id, instance_id, now)
    change_retirement(
        connection, retirement, terminate_after=now, not_before=None, kept_because=None
    )
    event = Event(
        "end_ordered",
        adoption.message,
        agent_id=agent_id,
        severity="warning",
        details={"instance_id": instance_id},
        incident_id=retirement.incident_id,
    )
    write_events(connection, [event], now)
    return adoption


def _parse_role(role: object) -> Role | None:
    if role is None:
        return None
    if not isinstance(role, str) or role not in list(Role):
        raise Refused("invalid_role", f"role must be {', '.join(Role)} or left out.")
    return Role(role)


def _find_agent(ctx: Context, agent_id: str) -> Agent | None:
    try:
        return ctx.database.read(read_agent, agent_id)
    except AgentNotFound:
        return None


def _reject_foreign(
    ctx: Context, agent_id: str, instance_id: str, instance: Instance | None
) -> None:
    """Reject an instance that does not run, or that this SEF did not launch for the agent."""
    if instance is None or not instance.is_alive:
        state = "does not show it" if instance is None else f"reports it {instance.ec2_state}"
        raise Conflict("instance_not_running", f"{instance_id} does not run: EC2 {state}.")
    deployment = ctx.database.write(deployment_name)
    tags = instance.tags
    if tags.get(MANAGED_TAG) != deployment or ATTEMPT_TAG not in tags:
        raise Conflict(
            "instance_of_others",
            f"{instance_id} has no tags of a launch by this SEF, {deployment}. "
            "PUT /api/agents/<id> names any instance as the primary.",
        )
    if tags.get(AGENT_TAG, agent_id) != agent_id:
        raise Conflict(
            "instance_of_other_agent",
            f"{instance_id} was launched for the agent {tags[AGENT_TAG]}.",
        )
