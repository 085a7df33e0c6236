"""Begin the cutover of an epoch, and supersede the one before it."""

from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, insert

from sef.agents import Agent
from sef.db.tables import cutovers
from sef.failover.cutover.plan import is_hurried, plan_steps, skipped_steps
from sef.failover.cutover.rows import NO_TIME, end_cutover, insert_steps, open_cutover
from sef.notifications.events import Event, write_events
from sef.terms import CutoverStatus, NotificationKind, StepStatus


def begin_cutover(
    connection: Connection,
    agent: Agent,
    new_instance_id: str,
    pool_id: str | None,
    incident_id: str | None,
    deadline: datetime | None,
    now: datetime,
    *,
    named_by_operator: bool = False,
) -> None:
    """Begin the cutover of a new epoch, if the agent has cutover targets.

    It supersedes an open cutover and moves all targets again. Unless a cutover was open, the old
    primary holds the targets, and its deadline is theirs; otherwise a look at AWS finds the holders
    (`sef.failover.cutover.look`).

    Args:
        agent: the row before the promotion.
        named_by_operator: no promotion, but an operator names the primary: SEF takes no target from
            an instance that was never the agent's primary.
    """
    reason = f"{new_instance_id} was promoted"
    if named_by_operator:
        reason = "an operator named another primary"
    was_open = supersede_cutover(connection, agent.id, reason, now)
    if agent.cutover is None:
        return
    begin_epoch(
        connection,
        agent,
        agent.epoch + 1,
        agent.instance_id,
        new_instance_id,
        pool_id,
        incident_id,
        deadline,
        now,
        are_holders_known=not was_open,
        guarded=named_by_operator,
    )


def begin_epoch(
    connection: Connection,
    agent: Agent,
    epoch: int,
    old_instance_id: str | None,
    new_instance_id: str,
    pool_id: str | None,
    incident_id: str | None,
    deadline: datetime | None,
    now: datetime,
    *,
    are_holders_known: bool = True,
    guarded: bool = False,
) -> None:
    """Insert the cutover of an epoch with its steps; an agent without targets gets none."""
    targets = agent.cutover or {}
    left = None if deadline is None else deadline - now
    known_left = left if are_holders_known else None
    steps = plan_steps(targets, known_left)
    hurried = is_hurried(known_left)
    cutover_id = f"cutover-{uuid4().hex[:16]}"
    connection.execute(
        insert(cutovers).values(
            id=cutover_id,
            agent_id=agent.id,
            epoch=epoch,
            incident_id=incident_id,
            old_instance_id=old_instance_id,
            new_instance_id=new_instance_id,
            pool_id=pool_id,
            deadline=deadline,
            is_hurried=hurried,
            status=CutoverStatus.RUNNING,
            open_agent_id=agent.id,
            due_at=now,
            started_at=now,
        )
    )
    values: dict[str, Any] = {
        "ends_at": deadline if are_holders_known else None,
        "is_hurried": hurried,
        "is_guarded": guarded,
    }
    insert_steps(connection, cutover_id, 0, [(s.kind, s.target) for s in steps], now, **values)
    skipped = [(s.kind, s.target) for s in skipped_steps(targets, known_left)]
    values |= {"status": StepStatus.SKIPPED, "finished_at": now, "error": NO_TIME}
    insert_steps(connection, cutover_id, len(steps), skipped, now, **values)
    time_left = "without a deadline" if left is None else f"with {left.total_seconds():.0f} s left"
    kinds = ", ".join(dict.fromkeys(step.kind for step in steps))
    event = Event(
        "cutover_started",
        f"Cutover from {old_instance_id or 'the unknown primary'} to {new_instance_id} started "
        f"{time_left}: {kinds}",
        agent.id,
        details={"cutover_id": cutover_id, "epoch": epoch},
        incident_id=incident_id,
    )
    write_events(connection, [event], now)


def supersede_cutover(connection: Connection, agent_id: str, reason: str, now: datetime) -> bool:
    """End the open cutover of an agent: it has another primary. Return False if none is open."""
    cutover = open_cutover(connection, agent_id)
    if cutover is None:
        return False
    end_cutover(connection, cutover, CutoverStatus.SUPERSEDED, now)
    event = Event(
        "cutover_superseded",
        f"Cutover to {cutover.new_instance_id} superseded: {reason}",
        agent_id,
        severity="warning",
        details={"cutover_id": cutover.id, "epoch": cutover.epoch},
        incident_id=cutover.incident_id,
        notification=NotificationKind.OUTCOME if cutover.incident_id else None,
        matter=(cutover.id,),
    )
    write_events(connection, [event], now)
    return True
