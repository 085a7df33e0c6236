"""Register agents and change their fields."""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from sef.agents import (
    Agent,
    insert_agent,
    learn_primary,
    name_pool,
    read_agent,
    set_pool,
    update_agent,
)
from sef.clock import iso
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.errors import AgentNotFound
from sef.failover.cutover.bindings import remember
from sef.failover.cutover.checks import target_warnings
from sef.failover.cutover.claims import claim_targets, claims_of, uncertain_claims
from sef.failover.cutover.keep import keep_on_termination
from sef.failover.cutover.named_devices import name_devices
from sef.failover.cutover.targets import parse_targets
from sef.failover.cutover.upkeep import plan_look
from sef.failover.cutover.wish import follow_changed_targets, follow_named_primary
from sef.failover.incidents.announced import open_announced
from sef.failover.instances.place_warnings import look_at_place
from sef.failover.primaries import change_primary, claim_instance
from sef.failover.standbys.retirements import agent_with_primary, delete_retirement
from sef.failover.standbys.rows import live_standby, replica_of_instance
from sef.notifications.events import Event, write_events
from sef.operators.idempotency import Answer
from sef.operators.named_instance import instance_warnings
from sef.operators.status import agent_fields
from sef.parsing import parse_drill_interval
from sef.terms import NotificationKind, ReplicaStatus

log = logging.getLogger("sef")

NAMED = "an operator named another primary"
"""Reason of a change of primary by an operator."""


def register(ctx: Context, agent_id: str, changes: Mapping[str, Any]) -> Answer:
    """Register an agent or change its fields; `warnings` lists what the operator should check.

    Another `instance_id` starts a new epoch, as a promotion does. SEF does not terminate the former
    primary, even if SEF launched it: an operator who sets the primary also decides when the former
    primary is no longer needed. The first `instance_id` of an agent only names its primary: an open
    incident goes on.

    Without `pool_id`, another instance's pool is taken from SEF's rows or from EC2.

    Raises:
        Refused: a cutover target or the drill interval is malformed.
        Conflict: the instance is a standby, or SEF is terminating it; or a target belongs to
            another agent.
    """
    if changes.get("drill_interval") is not None:
        interval = parse_drill_interval(changes["drill_interval"])
        changes = {**changes, "drill_interval": interval}
    has_new_targets = changes.get("cutover") is not None
    if has_new_targets:
        changes = {**changes, "cutover": parse_targets(changes["cutover"])}
    vpc_id = _vpc_of_private_ip(ctx, agent_id, changes)
    is_new, warnings = ctx.database.write(_write_agent, ctx, agent_id, changes, vpc_id)
    agent = ctx.database.read(read_agent, agent_id)
    if changes.get("instance_id") is not None:
        warnings = [*warnings, *_complete_pool(ctx, agent)]
        warnings = [*warnings, *instance_warnings(ctx, agent_id, changes["instance_id"])]
        agent = ctx.database.read(read_agent, agent_id)
    if has_new_targets or (changes.get("instance_id") is not None and agent.cutover):
        # After COMMIT, so that an error of AWS does not prevent the registration.
        warnings = [*warnings, *remember(ctx, agent)]
        standby = ctx.database.read(live_standby, agent_id)
        standby_id = standby.instance_id if standby is not None else None
        warnings = [*warnings, *target_warnings(ctx, agent, standby_id), *_hooks(ctx, agent)]
    if changes.get("launch_template") is not None:
        warnings = [*warnings, *_template_warnings(ctx, changes["launch_template"])]
    if has_new_targets or changes.get("instance_id") is not None:
        warnings = [*warnings, *keep_on_termination(ctx, agent), *look_at_place(ctx, agent)]
    return {
        "status": "success",
        "message": "registered" if is_new else "changed",
        "warnings": warnings,
        "agent": agent_fields(agent),
    }


def _write_agent(
    connection: Connection,
    ctx: Context,
    agent_id: str,
    changes: Mapping[str, Any],
    vpc_id: str | None,
) -> tuple[bool, list[str]]:
    """Insert or update the agent; return whether it is new, and the warnings."""
    now = ctx.clock()
    named = changes.get("instance_id")
    if "cutover" in changes:
        name_devices(connection, agent_id, changes["cutover"], now)
    try:
        agent = read_agent(connection, agent_id, lock=True)
    except AgentNotFound:
        if named is not None:
            claim_instance(connection, agent_id, named, now)
            delete_retirement(connection, named)
        insert_agent(connection, agent_id, now, **_with_pool(connection, changes))
        open_announced(connection, read_agent(connection, agent_id), now)
        uncertain = _claim(connection, agent_id, changes.get("cutover"), vpc_id, now)
        event = Event("agent_registered", f"{agent_id} is registered", agent_id=agent_id)
        write_events(connection, [event], now)
        return True, [*uncertain, *_warn_of_other_agent(connection, agent_id, named)]
    values = dict(changes)
    warnings = []
    targets = changes.get("cutover", agent.cutover)
    uncertain = _claim(connection, agent_id, targets, vpc_id, now)
    if "instance_id" in changes and named != agent.instance_id:
        del values["instance_id"]
        if named is not None:
            claim_instance(connection, agent_id, named, now)
        if agent.instance_id is None:
            delete_retirement(connection, str(named))
            pool_id = _with_pool(connection, changes).get("pool_id")
            agent = learn_primary(connection, agent, str(named), pool_id, now)
            follow_changed_targets(connection, agent, targets, now)
            update_agent(connection, agent, now, **values)
        else:
            values = {"pool_id": None, **_with_pool(connection, changes)}
            del values["instance_id"]
            following = agent.with_targets(targets)
            follow_named_primary(connection, following, named, values["pool_id"], now)
            warnings = _warn_of_former_primary(connection, ctx, agent)
            change_primary(connection, agent, named, NAMED, now, terminate_after=None, **values)
        open_announced(connection, read_agent(connection, agent_id), now)
    else:
        if changes.get("pool_id") is not None:
            name_pool(connection, agent, changes["pool_id"])
        if targets != agent.cutover:
            follow_changed_targets(connection, agent, targets, now)
        update_agent(connection, agent, now, **values)
    message = f"{agent_id} is changed: {', '.join(sorted(changes)) or 'nothing'}"
    event = Event("agent_changed", message, agent_id=agent_id, details=dict(changes))
    write_events(connection, [event], now)
    return False, [*warnings, *uncertain, *_warn_of_other_agent(connection, agent_id, named)]


def _hooks(ctx: Context, agent: Agent) -> list[str]:
    """Return a warning for each webhook that SEF would not call."""
    webhooks = (agent.cutover or {}).get("webhooks", {})
    problems = {when: ctx.http.problem_of(url) for when, url in webhooks.items()}
    return [f"cutover.webhooks.{when}: {text}" for when, text in problems.items() if text]


def _template_warnings(ctx: Context, template: str) -> list[str]:
    """Return a warning if standbys cannot be launched from a template."""
    fallback = "SEF can launch no standby from it; create it, or name another one"
    try:
        configuration = ctx.ec2.like_template(template)
    except CloudError as error:
        return [f"launch_template: {error}. {fallback}."]
    if configuration.instance_type is None and not ctx.settings.pool_list:
        return [
            f"launch_template: {template} has no instance type and SEF_SPOT_POOLS is empty, so SEF "
            "knows no pool unless EC2 shows the primary; add a type, or set SEF_SPOT_POOLS."
        ]
    return []


def _vpc_of_private_ip(ctx: Context, agent_id: str, changes: Mapping[str, Any]) -> str | None:
    """Return the VPC in which the agent's private address is; None if EC2 does not show it.

    Called before the transaction that claims the address, which makes no calls.
    """
    try:
        known: Agent | None = ctx.database.read(read_agent, agent_id)
    except AgentNotFound:
        known = None
    targets = changes.get("cutover", known.cutover if known else None)
    instance_id = changes.get("instance_id", known.instance_id if known else None)
    if instance_id is None or "private_ip" not in (targets or {}):
        return None
    try:
        return ctx.attachments.vpc_of(instance_id)
    except CloudError as error:
        log.warning("SEF: the VPC of %s is unknown: %s", instance_id, error)
        return None


def _claim(
    connection: Connection,
    agent_id: str,
    targets: Mapping[str, Any] | None,
    vpc_id: str | None,
    now: datetime,
) -> list[str]:
    """Claim the agent's targets and plan a look at them; return warnings of overlapping claims."""
    claims = claims_of(targets, vpc_id)
    claim_targets(connection, agent_id, claims, now)
    plan_look(connection, agent_id, targets, now)
    return uncertain_claims(connection, agent_id, claims)


def _warn_of_other_agent(
    connection: Connection, agent_id: str, instance_id: str | None
) -> list[str]:
    """Return a warning if the named instance is the primary of another agent."""
    if instance_id is None:
        return []
    other = agent_with_primary(connection, instance_id, other_than=agent_id)
    if other is None:
        return []
    return [
        f"{instance_id} is the primary of {other} too. Each of the two agents moves its targets to "
        f"it and replaces it. Name another instance for one of them."
    ]


def _with_pool(connection: Connection, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes with the pool of the named instance, if SEF launched the instance."""
    named = changes.get("instance_id")
    replica = replica_of_instance(connection, named) if named is not None else None
    if replica is None or "pool_id" in changes:
        return dict(changes)
    return {**changes, "pool_id": replica.pool_id}


def _complete_pool(ctx: Context, agent: Agent) -> list[str]:
    """Take an unknown pool of the primary from EC2; return a warning if EC2 does not answer.

    Called after COMMIT, so that an error of AWS does not prevent the registration.
    """
    if agent.pool_id is not None:
        return []
    instance_id = str(agent.instance_id)
    found = ctx.describe.submit(instance_id)
    if isinstance(found, CloudError):
        return [f"EC2 did not answer, so the pool of {instance_id} is unknown: {found}"]
    if found is not None and found.pool is not None:
        ctx.database.write(_set_unknown_pool, ctx, agent, str(found.pool))
    return []


def _set_unknown_pool(connection: Connection, ctx: Context, named: Agent, pool_id: str) -> None:
    agent = read_agent(connection, named.id, lock=True)
    if agent.instance_id == named.instance_id and agent.pool_id is None:
        set_pool(connection, agent, pool_id, ctx.clock())


def _warn_of_former_primary(connection: Connection, ctx: Context, agent: Agent) -> list[str]:
    """Return and record a warning that the former primary keeps running, if SEF launched it."""
    instance_id = agent.instance_id
    launched = replica_of_instance(connection, instance_id) if instance_id else None
    if launched is None or launched.status is not ReplicaStatus.PROMOTED:
        return []
    if agent_with_primary(connection, str(instance_id), other_than=agent.id) is not None:
        return []  # it serves another agent
    message = (
        f"{instance_id}, launched by SEF, is no longer the primary and keeps running until you "
        f"terminate it: aws ec2 terminate-instances --instance-ids {instance_id}"
    )
    event = Event(
        "primary_left",
        message,
        agent_id=agent.id,
        severity="warning",
        details={"instance_id": instance_id},
        notification=NotificationKind.ALERT,
        matter=(instance_id, iso(agent.primary_since)),
    )
    write_events(connection, [event], ctx.clock())
    return [message]
