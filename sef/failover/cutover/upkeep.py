"""Look now and then where the targets of an agent are, although no promotion asks for it.

A target strays without SEF: the old primary takes its address back when it boots, someone moves it
by hand, or a volume is detached. A look compares each target with the primary. What it finds is
confirmed by a second look a minute later, since a move by hand takes a moment. Then people are told
once, and SEF moves the target back if `SEF_RESTORE_TARGETS` allows it and nobody else has it.

`target_looks` stores the time of the next look and what the last one saw. A look is claimed before
its calls to AWS: if they fail, or the worker dies, it is made again a few minutes later. No look is
made in an emergency or while a cutover is open: then the targets move.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete

from sef.agents import Agent, read_agent
from sef.clock import iso
from sef.cloud.attachments import Impossible
from sef.cloud.errors import CloudError, Remedy
from sef.context import Context
from sef.db.statements import insert_rows, rows_where, swap
from sef.db.tables import target_looks
from sef.failover.cutover.bindings import remember
from sef.failover.cutover.carriers import holder_name
from sef.failover.cutover.claims import complete_vpc
from sef.failover.cutover.formers import unrelated_to
from sef.failover.cutover.holders import holders_of_target
from sef.failover.cutover.plan import wanted_steps
from sef.failover.cutover.rows import open_cutover
from sef.failover.cutover.straying import Seen, Stray, compare
from sef.failover.cutover.targets import Targets
from sef.failover.cutover.traffic_memory import remember_traffic
from sef.failover.cutover.where import place_of
from sef.failover.cutover.wish import restore_targets
from sef.notifications.events import Event, write_events
from sef.notifications.failures import report_failure
from sef.terms import LONGEST_SPAN, NotificationKind, StepKind

FIRST_LOOK_AFTER = timedelta(minutes=5)
"""Time from a registration to the first look, so that the operator can attach what is named."""

RETRY_AFTER = timedelta(minutes=5)
"""Time to the next look after one that was not made, or that AWS did not answer."""

CONFIRM_AFTER = timedelta(minutes=1)
"""Time to the look that confirms that a target is elsewhere."""

NEVER_AGAIN_BEFORE = timedelta(days=1)
"""Time to the next question whether to look, while the settings say never."""

LONGEST_WAIT = timedelta(seconds=LONGEST_SPAN) * 1.2
"""Longest time to a look. A later time was written by a wrong clock."""

LOOKED_AT = (
    StepKind.ELASTIC_IP,
    StepKind.PRIVATE_IP,
    StepKind.NETWORK_INTERFACE,
    StepKind.VOLUME,
    StepKind.REGISTER,
    StepKind.ROUTE,
    StepKind.DNS,
)
"""The step of each target that has a holder."""

DUTIES: Sequence[Callable[[Context, Agent], object]] = (remember, remember_traffic)
"""Further work on the targets of an agent that each look does; an error ends only the duty."""


@dataclass(frozen=True, slots=True)
class _Look:
    """A look that this worker has claimed."""

    agent: Agent
    version: int


def plan_look(
    connection: Connection, agent_id: str, targets: Targets | None, now: datetime
) -> None:
    """Plan the first look at targets that an operator has set; without targets, plan none."""
    row = rows_where(connection, target_looks, {"agent_id": agent_id}).one_or_none()
    due_at = now + FIRST_LOOK_AFTER
    if not targets:
        connection.execute(delete(target_looks).where(target_looks.c.agent_id == agent_id))
    elif row is None:
        insert_rows(connection, target_looks, {"agent_id": agent_id, "due_at": due_at})
    else:
        due_at = min(due_at, row.due_at)
        swap(connection, target_looks, {"agent_id": agent_id}, version=row.version, due_at=due_at)


def look_at_targets(ctx: Context, agent_id: str) -> str | None:
    """Look where the targets are if it is time; return a sentence, or None without a look.

    Errors of AWS postpone the look; they are not raised.
    """
    if not ctx.database.read(_is_due, agent_id, ctx.clock()):
        return None
    look = ctx.database.write(_claim, ctx, agent_id)
    if look is None:
        return None
    try:
        vpc_id, seen = _see(ctx, look.agent)
    except CloudError as error:
        return f"could not look at the targets: {error}"
    for duty in DUTIES:
        try:
            duty(ctx, look.agent)
        except Exception as error:
            report_failure(ctx, agent_id, duty.__name__, error)
    if seen is None:
        return "did not look at the targets: EC2 does not show the primary"
    return ctx.database.write(_record, ctx, look, vpc_id, seen)


def whereabouts(connection: Connection, agent_id: str) -> dict[str, Any] | None:
    """Return what the last look saw, as answers show it; None for an agent without targets."""
    row = rows_where(connection, target_looks, {"agent_id": agent_id}).one_or_none()
    if row is None:
        return None
    return {
        "looked_at": iso(row.looked_at),
        "next_look_at": iso(row.due_at),
        "elsewhere": [
            {
                "target": name,
                "holders": stray.holders,
                "problem": stray.problem,
                "since": stray.since,
            }
            for name, stray in sorted(_strays(row.elsewhere).items())
        ],
    }


def _is_due(connection: Connection, agent_id: str, now: datetime) -> bool:
    row = rows_where(connection, target_looks, {"agent_id": agent_id}).one_or_none()
    return row is not None and not now < row.due_at <= now + LONGEST_WAIT


def _claim(connection: Connection, ctx: Context, agent_id: str) -> _Look | None:
    """Claim the look; None if it is not due any more, or if it has to wait."""
    now = ctx.clock()
    agent = read_agent(connection, agent_id)
    row = rows_where(connection, target_looks, {"agent_id": agent_id}).one_or_none()
    if row is None or not _is_due(connection, agent_id, now):
        return None
    is_wanted = ctx.settings.target_check_interval_seconds > 0
    due_at = now + (RETRY_AFTER if is_wanted else NEVER_AGAIN_BEFORE)
    swap(connection, target_looks, {"agent_id": agent_id}, version=row.version, due_at=due_at)
    has_to_wait = agent.instance_id is None or open_cutover(connection, agent_id) is not None
    if not is_wanted or has_to_wait or not agent.cutover:
        return None
    return _Look(agent, row.version + 1)


def _see(ctx: Context, agent: Agent) -> tuple[str | None, dict[str, Seen] | None]:
    """Ask AWS for the holders of each target; None if EC2 does not show the primary.

    Also return the VPC of the primary.

    Raises:
        CloudError: AWS throttles the calls, or does not return a usable answer.
    """
    primary = str(agent.instance_id)
    place = ctx.attachments.instance_facts([primary]).get(primary)
    if place is None:
        return None, None
    seen: dict[str, Seen] = {}
    for kind, target in wanted_steps(agent.cutover):
        name = holder_name(kind, target)
        if kind not in LOOKED_AT or name is None:
            continue
        try:
            seen[name] = Seen(frozenset(_holders(ctx, kind, target, primary, place.addresses)))
        except Impossible as error:
            seen[name] = Seen(problem=str(error))
        except CloudError as error:
            if error.remedy is Remedy.WAIT:
                raise
            seen[name] = Seen(problem=str(error))
    return place.vpc_id, seen


def _holders(
    ctx: Context, kind: StepKind, target: Any, primary: str, addresses: frozenset[str]
) -> set[str]:
    if kind is StepKind.REGISTER:
        return ctx.traffic.holders_of_group(target["arn"])
    if kind is StepKind.DNS:
        values = ctx.traffic.addresses_of_record(target["zone_id"], target["name"], target["type"])
        if addresses & values:
            return {primary}
    return holders_of_target(ctx, kind, target, primary)


def _record(
    connection: Connection,
    ctx: Context,
    look: _Look,
    vpc_id: str | None,
    seen: Mapping[str, Seen],
) -> str | None:
    """Record a look, unless the agent has changed since: then the next look decides."""
    now = ctx.clock()
    agent = read_agent(connection, look.agent.id, lock=True)
    row = rows_where(connection, target_looks, {"agent_id": agent.id}).one_or_none()
    is_same = (agent.epoch, agent.instance_id, agent.cutover) == (
        look.agent.epoch,
        look.agent.instance_id,
        look.agent.cutover,
    )
    if row is None or row.version != look.version or not is_same:
        return None
    if open_cutover(connection, agent.id) is not None:
        return None
    primary = str(agent.instance_id)
    outcome = compare(_strays(row.elsewhere), seen, primary, now)
    interval = ctx.settings.target_check_interval_seconds * random.uniform(0.9, 1.1)
    wait = CONFIRM_AFTER if outcome.is_unconfirmed else timedelta(seconds=interval)
    swap(
        connection,
        target_looks,
        {"agent_id": agent.id},
        version=row.version,
        due_at=now + wait,
        looked_at=now,
        elsewhere={name: asdict(stray) for name, stray in outcome.elsewhere.items()} or None,
    )
    complete_vpc(connection, agent, vpc_id, now)
    restored = [
        name
        for name, stray in outcome.told.items()
        if _tell(connection, ctx, agent, name, stray, now)
    ]
    for name in outcome.returned:
        message = f"{name} is at the primary {primary} again"
        write_events(connection, [Event("target_returned", message, agent.id)], now)
    if restored:
        restore_targets(connection, agent, restored, now)
    elsewhere = ", ".join(sorted(outcome.elsewhere)) or "none"
    return f"looked at the targets; elsewhere: {elsewhere}"


def _tell(
    connection: Connection, ctx: Context, agent: Agent, name: str, stray: Stray, now: datetime
) -> bool:
    """Write the event of a target that is elsewhere; return True if SEF moves it back."""
    primary = str(agent.instance_id)
    holders = stray.holders or []
    unrelated = unrelated_to(connection, agent.id, holders)
    is_restored = False
    if stray.problem is not None:
        place = f"SEF cannot see where {name} is: {stray.problem}"
        then = "SEF goes on without it; correct the target, or grant the permission to describe it"
    else:
        place = place_of(name, holders, primary, unrelated)
        is_restored = ctx.settings.restore_targets and not unrelated
        then = "SEF leaves it there until the next promotion: move it back by hand, or set "
        then += "SEF_RESTORE_TARGETS"
        if is_restored:
            then = "SEF moves it back"
        elif unrelated and not name.startswith("target-group "):
            then = f"SEF leaves it there, also at a promotion: move it to {primary} by hand, or "
            then += "remove the target"
    event = Event(
        "target_strayed",
        f"{place}. {then}",
        agent.id,
        severity="warning",
        details={"target": name, "holders": stray.holders, "is_moved_back": is_restored},
        notification=NotificationKind.ALERT,
        matter=(name, *holders, stray.since),
    )
    write_events(connection, [event], now)
    return is_restored


def _strays(column: Mapping[str, Any] | None) -> dict[str, Stray]:
    return {name: Stray(**values) for name, values in (column or {}).items()}
