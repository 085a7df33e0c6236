"""Store the volumes and network interfaces that are, or once were, cutover targets.

A row is written in the transaction that names the target, and stays when the target is removed:
until someone says so by name, SEF terminates no instance with which one of them would be deleted.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, or_, select, update

from sef.db.statements import upsert
from sef.db.tables import named_devices
from sef.failover.cutover.targets import Targets

LOOK_EVERY = timedelta(hours=1)
"""Time between two looks at the DeleteOnTermination of a target."""

_row = named_devices.c

_DUE = select(_row.resource_id).where(
    _row.agent_id == bindparam("agent"),
    # A time farther off was written before the clock was set back.
    or_(_row.due_at <= bindparam("now"), _row.due_at > bindparam("latest")),
)


@dataclass(frozen=True, slots=True)
class NamedDevice:
    """A volume or an interface that an agent names, or named until `dropped_at`, as a target."""

    resource_id: str
    agent_id: str
    dropped_at: datetime | None


def volumes_of(targets: Targets | None) -> list[str]:
    """Return the ids of the volumes among the targets."""
    return [volume["id"] for volume in (targets or {}).get("volumes", [])]


def interfaces_of(targets: Targets | None) -> list[str]:
    """Return the id of the network interface among the targets, if there is one."""
    interface = (targets or {}).get("network_interface")
    return [] if interface is None else [interface["id"]]


def name_devices(
    connection: Connection, agent_id: str, targets: Targets | None, now: datetime
) -> None:
    """Record the volumes and interfaces among an agent's targets; those left out are dropped."""
    wanted = {*volumes_of(targets), *interfaces_of(targets)}
    connection.execute(
        update(named_devices)
        .where(_row.agent_id == agent_id, _row.dropped_at.is_(None))
        .where(_row.resource_id.not_in(sorted(wanted)))
        .values(dropped_at=now, due_at=None)
    )
    rows = [
        {
            "resource_id": resource_id,
            "agent_id": agent_id,
            "dropped_at": None,
            "due_at": now,
        }
        for resource_id in sorted(wanted)
    ]
    upsert(connection, named_devices, rows)


def named_among(connection: Connection, resource_ids: Collection[str]) -> Mapping[str, NamedDevice]:
    """Return those of the volumes and interfaces that are or were targets, by id."""
    if not resource_ids:
        return {}
    rows = connection.execute(
        select(_row.resource_id, _row.agent_id, _row.dropped_at).where(
            _row.resource_id.in_(sorted(resource_ids))
        )
    )
    return {row.resource_id: NamedDevice(**row._mapping) for row in rows}


def due_devices(connection: Connection, agent_id: str, now: datetime) -> Sequence[str]:
    """Return the targets of an agent whose DeleteOnTermination is to be looked at now."""
    values = {"agent": agent_id, "now": now, "latest": now + LOOK_EVERY}
    return connection.scalars(_DUE, values).all()


def postpone_look(connection: Connection, agent_id: str, now: datetime, after: timedelta) -> None:
    """Set the time of the next look at an agent's targets."""
    connection.execute(
        update(named_devices)
        .where(_row.agent_id == agent_id, _row.dropped_at.is_(None))
        .values(due_at=now + after)
    )
