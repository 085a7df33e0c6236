"""Let a cutover follow the targets that its agent has now.

The wish: each target of an agent belongs to its present primary. The rows of `cutover_steps` are
the history of what was done for it, and the progress. A target that is added or corrected gets a
step in the cutover of the present epoch. The steps of a target that is removed are skipped. A
cutover that was done is open again while such a step is left.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent
from sef.failover.cutover.begin import begin_cutover, begin_epoch, supersede_cutover
from sef.failover.cutover.carriers import holder_name
from sef.failover.cutover.events import TARGET_REMOVED, report_status, report_step, step_name
from sef.failover.cutover.formers import formers_of
from sef.failover.cutover.plan import wanted_steps
from sef.failover.cutover.rows import (
    Cutover,
    CutoverStep,
    change_cutover,
    change_step,
    cutover_of_epoch,
    insert_steps,
    latency_of,
    open_cutover,
    refresh_cutover_status,
    steps_of,
)
from sef.failover.cutover.targets import Targets
from sef.notifications.events import Event, write_events
from sef.terms import CutoverStatus, StepKind, StepStatus

WEBHOOKS = (StepKind.WEBHOOK_BEFORE, StepKind.WEBHOOK_AFTER)

Wanted = tuple[StepKind, Any]
"""The kind and the target of a step."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The steps in which the rows of a cutover differ from the wish.

    Attributes:
        missing: steps without a row.
        again: steps of targets that were put back; they are made again.
        unwanted: unfinished steps of targets that were removed. A target that SEF has taken from
            its holder first arrives, or goes back; it would be with nobody.
    """

    missing: Sequence[Wanted] = ()
    again: Sequence[CutoverStep] = ()
    unwanted: Sequence[CutoverStep] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.again or self.unwanted)


def difference(
    steps: Sequence[CutoverStep],
    targets: Targets | None,
    before: Targets | None = None,
    *,
    is_open: bool = True,
) -> Difference:
    """Compare the steps of a cutover with the present targets of its agent.

    Args:
        before: the targets before a change; a step that they did not ask for is made again, even if
            it was done. None: the targets have not changed.
        is_open: False if the cutover is over; then a webhook alone does not open it again.
    """
    wanted = wanted_steps(targets)
    asked = wanted if before is None else wanted_steps(before)
    known = [(step.kind, step.target) for step in steps]
    again = [
        step
        for step in steps
        if (step.kind, step.target) in wanted
        and (
            (step.status is StepStatus.SKIPPED and step.error == TARGET_REMOVED)
            or (step.status is StepStatus.DONE and (step.kind, step.target) not in asked)
        )
    ]
    unwanted = [
        step
        for step in steps
        if step.state.is_unfinished
        and (step.kind, step.target) not in wanted
        and (step.taken_from is None or step.status is StepStatus.FAILED)
    ]
    missing = [one for one in wanted if one not in known]
    over = {
        step.kind
        for step in steps
        if step.kind in WEBHOOKS and step not in unwanted and step.error != TARGET_REMOVED
    }
    moves = any(kind not in WEBHOOKS for kind, _ in missing) or any(
        step.kind not in WEBHOOKS for step in again
    )
    if not is_open and not moves:
        return Difference()
    return Difference(
        [one for one in missing if one[0] not in over],
        [step for step in again if step.kind not in over],
        unwanted,
    )


def follow_named_primary(
    connection: Connection,
    agent: Agent,
    instance_id: str | None,
    pool_id: str | None,
    now: datetime,
) -> None:
    """Let the targets follow a primary that an operator names; None supersedes an open cutover.

    The first instance of an agent takes nothing: there is no former primary to take it from.

    Args:
        agent: the row before the epoch rises, but with its new targets.
    """
    has_former = agent.instance_id is not None or formers_of(connection, agent.id, instance_id)
    if instance_id is None or agent.cutover is None or not has_former:
        supersede_cutover(connection, agent.id, "an operator named another primary", now)
        return
    begin_cutover(connection, agent, instance_id, pool_id, None, None, now, named_by_operator=True)


def follow_changed_targets(
    connection: Connection, agent: Agent, targets: Targets | None, now: datetime
) -> None:
    """Let the cutover of the present epoch follow targets that an operator changes.

    An agent without a former primary needs no cutover.

    Args:
        agent: the row before the change.
    """
    cutover = cutover_of_epoch(connection, agent.id, agent.epoch)
    if cutover is not None and cutover.status is not CutoverStatus.SUPERSEDED:
        follow_wish(connection, cutover, targets, now, before=agent.cutover or {})
        return
    if cutover is not None or agent.instance_id is None or not targets:
        return
    formers = formers_of(connection, agent.id, agent.instance_id)
    if formers:
        agent = agent.with_targets(targets)
        begin_epoch(
            connection,
            agent,
            agent.epoch,
            None,
            agent.instance_id or "",
            agent.pool_id,
            None,
            None,
            now,
            guarded=True,
        )


def restore_targets(
    connection: Connection, agent: Agent, names: Collection[str], now: datetime
) -> None:
    """Make the steps of targets again that have strayed from the primary; they are guarded.

    Args:
        agent: the agent, locked, without an open cutover.
        names: the names of the targets (`holder_name`).
    """
    cutover = cutover_of_epoch(connection, agent.id, agent.epoch)
    if cutover is not None and cutover.status is not CutoverStatus.SUPERSEDED:
        before = _without(agent.cutover or {}, names)
        follow_wish(connection, cutover, agent.cutover, now, before=before)
    elif cutover is None:
        new = agent.instance_id or ""
        begin_epoch(
            connection, agent, agent.epoch, None, new, agent.pool_id, None, None, now, guarded=True
        )


def _without(targets: Targets, names: Collection[str]) -> Targets:
    """Return the targets without those of these names."""
    kinds = {
        "elastic_ip": StepKind.ELASTIC_IP,
        "private_ip": StepKind.PRIVATE_IP,
        "network_interface": StepKind.NETWORK_INTERFACE,
        "volumes": StepKind.VOLUME,
        "target_groups": StepKind.REGISTER,
        "dns": StepKind.DNS,
    }
    left: dict[str, Any] = {}
    for field, value in targets.items():
        kind = kinds.get(field)
        if kind is None:
            left[field] = value
        elif isinstance(value, list):
            kept = [one for one in value if holder_name(kind, one) not in names]
            left |= {field: kept} if kept else {}
        elif holder_name(kind, value) not in names:
            left[field] = value
    return left


def follow_wish(
    connection: Connection,
    cutover: Cutover,
    targets: Targets | None,
    now: datetime,
    *,
    before: Targets | None = None,
) -> bool:
    """Insert, renew and skip steps so that they are those of the wish; return False if they were.

    The caller has locked the agent.

    Args:
        before: the targets before a change; see `difference`.
    """
    steps = steps_of(connection, cutover.id)
    changes = difference(steps, targets, before, is_open=cutover.is_open)
    if not changes:
        return False
    if not cutover.is_open:
        cutover = reopen(connection, cutover, now)
    for step in changes.unwanted:
        _skip(connection, cutover, step, now)
    for step in changes.again:
        change_step(
            connection,
            step,
            status=StepStatus.PENDING,
            not_before=now,
            started_at=None,
            finished_at=None,
            latency_ms=None,
            ends_at=None,
            is_hurried=False,
            is_guarded=True,
            is_waiting=False,
            taken_from=None,
            error=None,
        )
    first = max((step.position for step in steps), default=-1) + 1
    insert_steps(connection, cutover.id, first, changes.missing, now, is_guarded=True)
    _report(connection, cutover, changes, now)
    status = refresh_cutover_status(connection, cutover, now, looked_at=None)
    if status is not cutover.status:
        report_status(connection, cutover, status, now)
    return True


def reopen(connection: Connection, cutover: Cutover, now: datetime) -> Cutover:
    """Open a cutover again that was done; return it."""
    change_cutover(
        connection,
        cutover,
        status=CutoverStatus.RUNNING,
        deadline=None,
        is_hurried=False,
        started_at=now,
        finished_at=None,
        traffic_moved_at=None,
    )
    reopened = open_cutover(connection, cutover.agent_id)
    assert reopened is not None
    return reopened


def _skip(connection: Connection, cutover: Cutover, step: CutoverStep, now: datetime) -> None:
    latency_ms = latency_of(step.started_at, now)
    change_step(
        connection,
        step,
        status=StepStatus.SKIPPED,
        finished_at=now,
        latency_ms=latency_ms,
        error=TARGET_REMOVED,
    )
    message = f"{step_name(step)} is skipped: {TARGET_REMOVED}"
    report_step(connection, cutover, step, message, now, latency_ms=latency_ms)


def _report(connection: Connection, cutover: Cutover, changes: Difference, now: datetime) -> None:
    steps = [*changes.missing, *((step.kind, step.target) for step in changes.again)]
    if not steps:
        return  # each skipped step has an event of its own
    kinds = ", ".join(dict.fromkeys(kind for kind, _ in steps))
    event = Event(
        "cutover_changed",
        f"Cutover to {cutover.new_instance_id} follows the changed targets: {kinds}",
        cutover.agent_id,
        details={"cutover_id": cutover.id, "epoch": cutover.epoch},
        incident_id=cutover.incident_id,
    )
    write_events(connection, [event], now)
