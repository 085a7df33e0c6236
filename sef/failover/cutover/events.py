from datetime import datetime

from sqlalchemy import Connection

from sef.failover.cutover.rows import Cutover, CutoverStep, steps_of
from sef.notifications.events import Event, write_events
from sef.terms import CutoverStatus, NotificationKind, StepKind, StepStatus

NO_LONGER_WANTED = "the agent has no such target any more"


def found_done(cutover: Cutover, step: CutoverStep) -> str:
    """What a look says that finds nothing left to do."""
    match step.kind:
        case StepKind.RUNNING:
            return f"{cutover.new_instance_id} runs"
        case StepKind.HEALTHY:
            return f"{cutover.new_instance_id} is healthy"
        case StepKind.DEREGISTER:
            return "no former primary is registered"
        case _:
            return f"{cutover.new_instance_id} has it"


def report_status(
    connection: Connection, cutover: Cutover, status: CutoverStatus, now: datetime
) -> None:
    new = cutover.new_instance_id
    if status is CutoverStatus.DONE:
        took = (now - cutover.started_at).total_seconds()
        given_up = [
            step_name(step)
            for step in steps_of(connection, cutover.id)
            if step.error == NO_LONGER_WANTED
        ]
        without = f", without what was given up: {', '.join(given_up)}" if given_up else ""
        was_told = cutover.status is CutoverStatus.NEEDS_OPERATOR
        # What an operator has begun, with no incident, ends without a message if all went well.
        alone = NotificationKind.ALERT if was_told else None
        event = Event(
            "cutover_completed",
            f"{new} has taken over from {cutover.old_instance_id} in {took:.1f} s{without}",
            cutover.agent_id,
            "warning" if given_up else "info",
            details={"cutover_id": cutover.id, "epoch": cutover.epoch},
            incident_id=cutover.incident_id,
            notification=NotificationKind.OUTCOME if cutover.incident_id else alone,
        )
    elif status is CutoverStatus.NEEDS_OPERATOR:
        failed = [
            f"{step_name(s)}: {s.error}"
            for s in steps_of(connection, cutover.id)
            if s.status is StepStatus.FAILED and s.state.is_unfinished
        ]
        event = Event(
            "operator_needed",
            f"the cutover to {new} does not get on without help: {'; '.join(failed)}",
            cutover.agent_id,
            "error",
            {"cutover_id": cutover.id},
            cutover.incident_id,
            notification=NotificationKind.CUTOVER,
        )
    else:
        return
    write_events(connection, [event], now)


def step_name(step: CutoverStep) -> str:
    """Such as `volume vol-0abc1234`."""
    target = step.target
    if isinstance(target, dict):
        target = target.get("arn") or target.get("id") or target.get("name")
    is_secret = step.kind in (StepKind.WEBHOOK_BEFORE, StepKind.WEBHOOK_AFTER)
    return step.kind if target is None or is_secret else f"{step.kind} {target}"
