"""Set attributes of a new instance that RunInstances cannot set, such as SourceDestCheck.

The launch attempt stores them. SEF sets them before the instance becomes a standby, and again in
later passes until EC2 has accepted them. No promotion waits for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from sef.cloud.bounded import within
from sef.cloud.errors import NOT_FOUND, CloudError, Remedy
from sef.context import Context
from sef.db.tables import launch_attempts, replica_instances
from sef.failover.instances.attempts import MAY_SERVE
from sef.notifications.events import Event, write_once
from sef.terms import NotificationKind

PATIENCE = 2.0
"""Maximum time that a standby waits for its attributes, in seconds; a later pass sets them."""

_UNSET = (
    select(
        launch_attempts.c.client_token,
        launch_attempts.c.attributes,
        replica_instances.c.agent_id,
        replica_instances.c.instance_id,
    )
    .join(replica_instances, replica_instances.c.id == launch_attempts.c.replica_id)
    .where(
        launch_attempts.c.attributes.is_not(None),
        launch_attempts.c.attributes_set_at.is_(None),
        MAY_SERVE,
    )
)
_UNSET_OF_AGENT = _UNSET.where(replica_instances.c.agent_id == bindparam("agent"))


@dataclass(frozen=True, slots=True)
class UnsetAttributes:
    """Attributes of a launched instance that EC2 has not accepted yet."""

    client_token: str
    attributes: dict[str, Any]
    agent_id: str
    instance_id: str


def unset_attributes(
    connection: Connection, agent_id: str | None = None
) -> Sequence[UnsetAttributes]:
    """Return the attributes that are still to be set.

    Args:
        agent_id: return only those of this agent; None: of all agents.
    """
    statement = _UNSET if agent_id is None else _UNSET_OF_AGENT
    rows = connection.execute(statement, {} if agent_id is None else {"agent": agent_id})
    return [UnsetAttributes(**row._mapping) for row in rows]


def set_attributes(ctx: Context, unset: Sequence[UnsetAttributes]) -> None:
    """Set attributes. A call that is refused for good is told once and not repeated."""
    for one in unset:
        within(PATIENCE, lambda one=one: _set(ctx, one), None)  # type: ignore[misc]


def set_remaining(ctx: Context) -> None:
    """Set the attributes that no reconcile pass could set."""
    set_attributes(ctx, ctx.database.read(unset_attributes))


def _set(ctx: Context, unset: UnsetAttributes) -> None:
    error = None
    try:
        ctx.ec2.set_attributes(unset.instance_id, unset.attributes)
    except CloudError as refusal:
        if refusal.remedy is Remedy.WAIT or refusal.code in NOT_FOUND:
            return  # a later pass repeats the call
        error = str(refusal)
    ctx.database.write(record_attributes, unset, error, ctx.clock())


def record_attributes(
    connection: Connection, unset: UnsetAttributes, error: str | None, now: datetime
) -> None:
    """Record that attributes are set, or that EC2 refuses them."""
    connection.execute(
        update(launch_attempts)
        .where(
            launch_attempts.c.client_token == unset.client_token,
            launch_attempts.c.attributes_set_at.is_(None),
        )
        .values(attributes_set_at=now)
    )
    if error is None:
        return
    names = ", ".join(sorted(unset.attributes))
    event = Event(
        "launch_incomplete",
        f"EC2 refuses to set {names} of {unset.instance_id} like its primary's: {error}. Set it by "
        "hand, and grant ec2:ModifyInstanceAttribute for the next standby",
        agent_id=unset.agent_id,
        severity="error",
        notification=NotificationKind.ALERT,
        matter=(names, unset.instance_id),
    )
    write_once(connection, event, now)
