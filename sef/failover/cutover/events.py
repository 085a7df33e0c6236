"""Write the events of a cutover: its steps, its end, and the need for an operator."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from sef.failover.cutover.rows import Cutover, CutoverStep, steps_of
from sef.notifications.events import Event, Severity, write_events, write_once
from sef.notifications.matters import in_kind
from sef.terms import CutoverStatus, NotificationKind, StepKind, StepStatus

TARGET_REMOVED = "the target was removed from the agent"
"""Error of a step that is skipped because an operator has removed its target."""


def describe_nothing_to_do(cutover: Cutover, step: CutoverStep) -> str:
    """Describe the state of a target that needs no change."""
    match step.kind:
        case StepKind.RUNNING:
            return f"{cutover.new_instance_id} is running"
        case StepKind.HEALTHY:
            return f"{cutover.new_instance_id} is healthy"
        case StepKind.DEREGISTER:
            return "no former primary is registered"
        case _:
            return f"{cutover.new_instance_id} already has it"


def describe_cut(step: CutoverStep, now: datetime) -> str | None:
    """Describe the connections that a deadline cuts off; None if the step drains in peace.

    Without a deadline SEF keeps the former primary until its connections have drained
    (`sef.failover.instances.draining`).
    """
    if step.kind is not StepKind.DEREGISTER or step.ends_at is None:
        return None
    left = (step.ends_at - now).total_seconds()
    if left <= 0:
        return "the instance has ended, and its open connections with it"
    return (
        f"the instance ends in {left:.0f} s, whatever the deregistration delay of the group is: "
        "connections that last longer are cut off"
    )


def report_step(
    connection: Connection,
    cutover: Cutover,
    step: CutoverStep,
    message: str,
    now: datetime,
    severity: Severity = "info",
    **details: Any,
) -> None:
    """Write the event of a step that ended or failed."""
    event = Event(
        "cutover_step",
        message,
        cutover.agent_id,
        severity=severity,
        details={
            "cutover_id": cutover.id,
            "kind": step.kind,
            "target": step.target,
            **details,
        },
        incident_id=cutover.incident_id,
    )
    write_events(connection, [event], now)


def report_status(
    connection: Connection, cutover: Cutover, status: CutoverStatus, now: datetime
) -> None:
    """Write the event of a cutover that is done, or that needs an operator for another reason.

    Args:
        cutover: the row before its status changed.
        status: its status now.
    """
    if status is CutoverStatus.DONE:
        write_events(connection, [_completed(connection, cutover, now)], now)
    elif status is CutoverStatus.NEEDS_OPERATOR:
        for event in _operator_needed(connection, cutover):
            write_once(connection, event, now)


def step_name(step: CutoverStep) -> str:
    """Return the kind and the target of a step, such as `volume vol-0abc1234`.

    The URL of a webhook may contain a secret, so it is left out.
    """
    target = step.target
    if isinstance(target, dict):
        if "route_table_id" in target:
            return f"{step.kind} {target['route_table_id']} {target['destination_cidr']}"
        target = target.get("arn") or target.get("id") or target.get("name")
    is_secret = step.kind in (StepKind.WEBHOOK_BEFORE, StepKind.WEBHOOK_AFTER)
    return step.kind if target is None or is_secret else f"{step.kind} {target}"


def _completed(connection: Connection, cutover: Cutover, now: datetime) -> Event:
    seconds = (now - cutover.started_at).total_seconds()
    removed = [
        step_name(step) for step in steps_of(connection, cutover.id) if step.error == TARGET_REMOVED
    ]
    skipped = f"; skipped, since removed from the agent: {', '.join(removed)}" if removed else ""
    # A cutover without an incident was begun by an operator. Its success is notified only if an
    # earlier notification has asked for an operator.
    needed_operator = cutover.status is CutoverStatus.NEEDS_OPERATOR
    kind_without_incident = NotificationKind.ALERT if needed_operator else None
    return Event(
        "cutover_completed",
        f"Cutover from {cutover.old_instance_id or 'the unknown primary'} to "
        f"{cutover.new_instance_id} completed in {seconds:.1f} s{skipped}",
        cutover.agent_id,
        severity="warning" if removed else "info",
        details={"cutover_id": cutover.id, "epoch": cutover.epoch},
        incident_id=cutover.incident_id,
        notification=NotificationKind.OUTCOME if cutover.incident_id else kind_without_incident,
        matter=(cutover.id, cutover.started_at.isoformat()),
    )


def _operator_needed(connection: Connection, cutover: Cutover) -> Sequence[Event]:
    """Return an event for each blocked target; each names all failed steps.

    A target with another error in kind, as after an operator has removed only the first obstacle,
    is another matter. The same error with another request id is the same one, and a later step of
    the target fails only because the first one did.
    """
    failed = [
        step
        for step in steps_of(connection, cutover.id)
        if step.status is StepStatus.FAILED and step.state.is_unfinished
    ]
    described = "; ".join(f"{step_name(step)}: {step.error}" for step in failed)
    first_of = {str(step.target or step.kind): step for step in reversed(failed)}
    causes = sorted(first_of.values(), key=lambda step: step.position)
    return [
        _blocked(cutover, described, (cutover.id, step_name(step), in_kind(str(step.error))))
        for step in causes
    ]


def _blocked(cutover: Cutover, described: str, matter: tuple[object, ...]) -> Event:
    return Event(
        "operator_needed",
        f"Cutover to {cutover.new_instance_id} is blocked and needs an operator; SEF keeps "
        f"retrying: {described}",
        cutover.agent_id,
        severity="error",
        details={"cutover_id": cutover.id},
        incident_id=cutover.incident_id,
        notification=NotificationKind.CUTOVER,
        matter=matter,
    )
