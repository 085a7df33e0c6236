"""Read the former primaries of an agent, with their ends, and the instances unrelated to it."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, select

from sef.db.tables import agents, cutovers, incidents, replica_instances, retirements
from sef.failover.cutover.urgency import Former
from sef.terms import IncidentKind, ReplicaStatus


def formers_of(connection: Connection, agent_id: str, primary: str | None) -> Sequence[Former]:
    """Return the former primaries of an agent, ended ones included.

    Args:
        primary: the present primary, which is left out.
    """
    ends: dict[str, datetime | None] = dict.fromkeys(_served(connection, agent_id))
    ends.pop(primary or "", None)
    for instance_id, end in _known_ends(connection, agent_id):
        if instance_id in ends:
            known = ends[instance_id]
            ends[instance_id] = end if known is None else min(end, known)
    return [Former(instance_id, end) for instance_id, end in sorted(ends.items())]


def unrelated_to(
    connection: Connection, agent_id: str, instance_ids: Collection[str]
) -> Mapping[str, str | None]:
    """Return those of the instances that never were the primary or a standby of an agent.

    Each has the other agent whose primary or standby it is, or None.
    """
    agent, replica = agents.c, replica_instances.c
    own = _served(connection, agent_id) | set(
        connection.scalars(select(agent.instance_id).where(agent.id == agent_id))
    )
    unknown = set(instance_ids) - own
    if not unknown:
        return {}
    rows = connection.execute(
        select(replica.instance_id, replica.agent_id, replica.live_agent_id).where(
            replica.instance_id.in_(sorted(unknown))
        )
    ).all()
    unknown -= {row.instance_id for row in rows if row.agent_id == agent_id}
    others: dict[str, str | None] = dict.fromkeys(sorted(unknown))
    others |= {
        row.instance_id: row.live_agent_id
        for row in rows
        if row.instance_id in unknown and row.live_agent_id is not None
    }
    primaries = connection.execute(
        select(agent.instance_id, agent.id).where(
            agent.instance_id.in_(sorted(unknown)), agent.id != agent_id
        )
    )
    return others | {row.instance_id: row.id for row in primaries}


def _served(connection: Connection, agent_id: str) -> set[str]:
    """Return the instances that are, or were once, the primary of an agent."""
    cutover, incident = cutovers.c, incidents.c
    replica, retirement = replica_instances.c, retirements.c
    statements = [
        select(cutover.old_instance_id, cutover.new_instance_id).where(
            cutover.agent_id == agent_id
        ),
        select(incident.instance_id, incident.new_instance_id).where(
            incident.agent_id == agent_id, incident.new_instance_id.is_not(None)
        ),
        select(replica.instance_id).where(
            replica.agent_id == agent_id, replica.promoted_at.is_not(None)
        ),
        select(retirement.instance_id).where(retirement.agent_id == agent_id),
    ]
    return {
        instance_id
        for statement in statements
        for row in connection.execute(statement)
        for instance_id in row
        if instance_id is not None
    }


def _known_ends(connection: Connection, agent_id: str) -> Sequence[tuple[str, datetime]]:
    """Return announced ends, and the times at which instances were found or made to end."""
    incident, replica, retirement = incidents.c, replica_instances.c, retirements.c
    announced = connection.execute(
        select(incident.instance_id, incident.kind, incident.deadline, incident.termination_at)
        .where(incident.agent_id == agent_id, incident.instance_id.is_not(None))
        .where(incident.termination_at.is_not(None))
    )
    ends = [
        (row.instance_id, row.termination_at if row.kind == IncidentKind.LOSS else row.deadline)
        for row in announced
    ]
    for statement in (
        select(replica.instance_id, replica.terminated_at).where(
            replica.agent_id == agent_id, replica.status == ReplicaStatus.TERMINATED
        ),
        select(retirement.instance_id, retirement.terminated_at).where(
            retirement.agent_id == agent_id
        ),
    ):
        ends += [(row.instance_id, row.terminated_at) for row in connection.execute(statement)]
    return [(instance_id, end) for instance_id, end in ends if instance_id and end]
