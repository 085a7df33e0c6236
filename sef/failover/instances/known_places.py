"""Store how the primary of an agent was launched, and where its targets are bound to be.

EC2 shows an ended instance without its network, and after an hour not at all. A volume whose answer
is late still has its zone. The row keeps what was last seen while the primary lived.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.cloud.likeness import LaunchConfiguration
from sef.db.statements import rows_where, upsert
from sef.db.tables import primary_places
from sef.failover.cutover.place import Constraint
from sef.failover.standbys.rows import replica_of_instance


@dataclass(frozen=True, slots=True)
class KnownPlace:
    """The last look at the primary of an agent.

    Attributes:
        configuration: None: nothing that fits the present primary was seen.
        constraints: the constraints of targets, by target.
    """

    configuration: LaunchConfiguration | None = None
    constraints: Mapping[str, Constraint] = field(default_factory=dict)


def read_known_place(connection: Connection, agent_id: str, instance_id: str | None) -> KnownPlace:
    """Return what was seen of the primary, or of a former primary that it was launched like."""
    row = rows_where(connection, primary_places, {"agent_id": agent_id}).one_or_none()
    if row is None:
        return KnownPlace()
    constraints = [Constraint.from_json(value) for value in row.constraints]
    fits = row.instance_id == instance_id or (
        # SEF launched it like the instance that was seen.
        instance_id is not None and replica_of_instance(connection, instance_id) is not None
    )
    return KnownPlace(
        LaunchConfiguration.from_json(row.configuration) if fits and row.configuration else None,
        {constraint.target: constraint for constraint in constraints},
    )


def remember_place(
    connection: Connection,
    agent_id: str,
    instance_id: str,
    configuration: LaunchConfiguration,
    constraints: Sequence[Constraint],
    now: datetime,
) -> bool:
    """Store what was seen of a primary; return False if it is stored, or no longer the primary.

    Two workers write the same, unless the instance has changed between their looks; then the next
    look of either corrects the row.
    """
    if read_agent(connection, agent_id).instance_id != instance_id:
        return False
    values = {
        "instance_id": instance_id,
        "configuration": _plain(configuration.to_json()),
        "constraints": [constraint.to_json() for constraint in constraints],
    }
    row = rows_where(connection, primary_places, {"agent_id": agent_id}).one_or_none()
    if row is not None and values == {name: row._mapping[name] for name in values}:
        return False
    upsert(connection, primary_places, [{"agent_id": agent_id, "seen_at": now, **values}])
    return True


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back: lists instead of tuples."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
