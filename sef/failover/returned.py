"""Release the incident of a lost primary that runs again, such as after a stop in the console."""

from collections.abc import Sequence

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.failover.incidents.closing import close_incident
from sef.failover.incidents.rows import Incident, open_incident, open_incidents_of
from sef.failover.incidents.signal_rows import has_notice
from sef.terms import IncidentKind, IncidentStatus

INSTANCES_PER_CALL = 200
"""Maximum instances in the filter of one DescribeInstances."""


def release_returned(ctx: Context) -> None:
    """Release the incidents of lost primaries that EC2 shows running again."""
    lost = ctx.database.read(_open_losses)
    for start in range(0, len(lost), INSTANCES_PER_CALL):
        part = lost[start : start + INSTANCES_PER_CALL]
        instances = ctx.ec2.instances([loss.instance_id for loss in part if loss.instance_id])
        for loss in part:
            instance = instances.get(loss.instance_id or "")
            if instance is not None and instance.is_alive:
                ctx.database.write(_release, ctx, loss)


def release_if_returned(ctx: Context, incident: Incident | None) -> str | None:
    """Release the incident of a loss if EC2 shows the lost primary running again.

    Called before a promotion: the primary may have been started since the loss was detected. If EC2
    does not answer, its last answer stands, and the promotion goes on.

    Returns:
        A sentence if the incident is released, else None.
    """
    if incident is None or incident.kind is not IncidentKind.LOSS or incident.instance_id is None:
        return None
    found = ctx.describe.submit(incident.instance_id)
    if found is None or isinstance(found, CloudError) or not found.is_alive:
        return None
    if not ctx.database.write(_release, ctx, incident):
        return None
    return f"{incident.instance_id} runs again"


def _open_losses(connection: Connection) -> Sequence[Incident]:
    return [loss for loss in open_incidents_of(connection, IncidentKind.LOSS) if loss.instance_id]


def _release(connection: Connection, ctx: Context, seen: Incident) -> bool:
    """Release the incident of a loss; return False if it is closed, or AWS has given notice."""
    read_agent(connection, seen.agent_id, lock=True)
    incident = open_incident(connection, seen.agent_id)
    if incident is None or incident.id != seen.id or has_notice(connection, incident):
        return False
    reason = f"EC2 shows that {incident.instance_id} runs again"
    close_incident(connection, incident, IncidentStatus.RELEASED, reason, ctx.clock())
    return True
