"""Tell people once of cutover targets that stay behind, and of properties that are not copied."""

from datetime import datetime

from sqlalchemy import Connection

from sef.cloud.likeness import LaunchConfiguration
from sef.failover.ranking import Candidate
from sef.failover.standbys.rows import Replica
from sef.notifications.events import Event, write_once
from sef.notifications.matters import in_kind
from sef.terms import NotificationKind


def tell_of_place(
    connection: Connection,
    replica: Replica,
    configuration: LaunchConfiguration,
    chosen: Candidate,
    now: datetime,
) -> None:
    """Write an event about the drawbacks of a launch that has been decided, if it has any."""
    if chosen.left_behind:
        targets = ", ".join(chosen.left_behind)
        event = Event(
            "targets_left_behind",
            f"no pool where every cutover target can follow has capacity; SEF launches in "
            f"{chosen.pool}, where {targets} cannot follow: add pools to SEF_SPOT_POOLS where all "
            f"can follow, or move what stays behind by hand",
            agent_id=replica.agent_id,
            severity="error",
            incident_id=replica.incident_id,
            notification=NotificationKind.ALERT,
            matter=(targets, str(chosen.pool), replica.incident_id or replica.id),
        )
        write_once(connection, event, now)
    if configuration.gaps:
        gaps = "; ".join(configuration.gaps)
        event = Event(
            "launch_incomplete",
            f"SEF launches standbys like {configuration.described_as}, but not in all: {gaps}. "
            f"Grant the right, or set a launch template",
            agent_id=replica.agent_id,
            severity="warning",
            notification=NotificationKind.ALERT,
            matter=(in_kind(gaps),),
        )
        write_once(connection, event, now)
