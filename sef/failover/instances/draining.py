"""Find out if traffic may still reach a former primary after its targets have moved.

A deregistered target keeps its connections for the deregistration delay of its group, and a record
stays in caches for its TTL. A deadline leaves no time for either; this module is asked only before
SEF itself terminates an instance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from sef.agents import Agent
from sef.clock import iso
from sef.cloud.errors import CloudError, Remedy
from sef.cloud.instance_ends import DEFAULT_DELAY
from sef.context import Context
from sef.db.tables import cutover_steps, cutovers
from sef.failover.cutover.carriers import holder_name
from sef.terms import StepKind, StepStatus

LONGEST_DELAY = timedelta(seconds=3600)
"""Maximum deregistration delay that AWS accepts."""


@dataclass(frozen=True, slots=True)
class _Moved:
    """A target that was moved away from the former primaries."""

    kind: StepKind
    target: Any
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Traffic:
    """The reason why traffic may still reach a former primary.

    Attributes:
        until: the time at which that ends; None: AWS has to be asked again.
    """

    reason: str
    until: datetime | None = None


def remaining_traffic(ctx: Context, agent: Agent, instance_id: str) -> Traffic | None:
    """Return the reason why traffic may still reach a former primary; None without a reason.

    If AWS refuses to show the targets of a group, the deregistration delay counts, or its default.

    Raises:
        CloudError: AWS did not return a usable answer.
    """
    now = ctx.clock()
    moved = ctx.database.read(_moved_since, agent.id, now - LONGEST_DELAY)
    for one in moved:
        if one.kind is StepKind.DNS:
            traffic = _cached(ctx, one, now)
        else:
            traffic = _draining(ctx, one, instance_id, now)
        if traffic is not None:
            return traffic
    return None


def deregistered_groups(connection: Connection, agent: Agent) -> set[str]:
    """Return the target groups, by holder name, that the former primaries have left.

    Those that the cutover to the present primary has deregistered them from.
    """
    step = cutover_steps.c
    rows = connection.execute(
        select(step.target)
        .join(cutovers, cutovers.c.id == step.cutover_id)
        .where(
            cutovers.c.agent_id == agent.id,
            cutovers.c.epoch == agent.epoch,
            step.kind == StepKind.DEREGISTER,
            step.status == StepStatus.DONE,
        )
    )
    return {str(holder_name(StepKind.DEREGISTER, row.target)) for row in rows}


def _moved_since(connection: Connection, agent_id: str, since: datetime) -> Sequence[_Moved]:
    """Return the groups and records that were moved for an agent, each with its last move."""
    step = cutover_steps.c
    rows = connection.execute(
        select(step.kind, step.target, step.finished_at)
        .join(cutovers, cutovers.c.id == step.cutover_id)
        .where(
            cutovers.c.agent_id == agent_id,
            step.kind.in_([StepKind.DEREGISTER, StepKind.DNS]),
            step.status == StepStatus.DONE,
            step.finished_at >= since,
        )
        .order_by(step.finished_at)
    )
    last = {
        str(row.target): _Moved(StepKind(row.kind), row.target, row.finished_at) for row in rows
    }
    return list(last.values())


def _draining(ctx: Context, moved: _Moved, instance_id: str, now: datetime) -> Traffic | None:
    arn = moved.target["arn"]
    name = arn.split("/")[-2]
    try:
        if instance_id not in ctx.ends.draining(arn):
            return None
    except CloudError as error:
        if error.remedy is not Remedy.OPERATOR:
            raise
        until = moved.finished_at + _delay(ctx, arn)
        if not moved.finished_at <= now < until:
            return None
        return Traffic(
            f"its connections may drain in target group {name} until {iso(until)}", until
        )
    return Traffic(f"its connections drain in target group {name}")


def _delay(ctx: Context, arn: str) -> timedelta:
    try:
        return ctx.ends.deregistration_delay(arn)
    except CloudError as error:
        if error.remedy is not Remedy.OPERATOR:
            raise
        return DEFAULT_DELAY


def _cached(ctx: Context, moved: _Moved, now: datetime) -> Traffic | None:
    """Return the reason while caches may hold the old value of a record."""
    target = moved.target
    if target.get("ttl") is not None:
        ttl = timedelta(seconds=target["ttl"])
    else:
        try:
            ttl = ctx.ends.record_ttl(target["zone_id"], target["name"], target["type"])
        except CloudError as error:
            if error.remedy is not Remedy.OPERATOR:
                raise
            return None
    until = moved.finished_at + ttl
    if not moved.finished_at <= now < until:
        return None
    return Traffic(f"caches may hold its address for {target['name']} until {iso(until)}", until)
