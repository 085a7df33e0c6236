"""Instances that SEF launched and that no row has a use for: forgotten, or thought to be gone."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, Ec2, Instance
from sef.config import Settings
from sef.errors import AgentNotFound
from sef.limits import Reached, tell
from sef.store import fleet, launches, replicas
from sef.store.database import Database
from sef.store.deployment import deployment_name
from sef.store.events import Event, write_events

YOUNG = timedelta(minutes=5)
"""Younger instances are left alone: their row may be about to be written."""


def sweep_orphans(database: Database, cloud: Ec2, settings: Settings, now: datetime) -> int:
    """Terminate the orphans and return how many were terminated.

    The cloud is listed first, then the rows: what is launched in between is in no list. An orphan
    of an agent whose primary does not run may be all that is left of it, as after a database was
    restored from a backup: that one is kept. When there are more orphans than one cycle may
    terminate, it is most likely the rows that are wrong: all are kept, and that is said.

    Raises:
        CloudError: EC2 cannot be read; nothing was terminated.
        Unavailable: the database cannot be read; nothing was terminated.
    """
    name = database.write(deployment_name)
    old = [
        instance
        for instance in cloud.managed_by(name)
        # Without the tag of an attempt it was registered, not launched.
        if ATTEMPT_TAG in instance.tags
        # One of which EC2 does not tell state or age is left for another time.
        and instance.ec2_state is not None
        and not instance.has_ended
        and instance.launched_at is not None
        and now - instance.launched_at > YOUNG
    ]
    if not old:
        return 0
    orphans, primaries = database.read(lambda c: _unclaimed(c, old))
    running = {i.id for i in cloud.instances(set(primaries.values())).values() if i.is_alive}
    superfluous = [
        orphan
        for orphan in orphans
        if orphan.id not in primaries or primaries[orphan.id] in running
    ]
    most = settings.terminations_per_cycle
    if most and len(superfluous) > most:
        said = f"no row has a use for {len(superfluous)} of {len(old)} instances that SEF launched"
        reached = Reached("terminations_per_cycle", said)
        database.write(lambda c: tell(c, reached, "none is terminated", now))
        return 0
    terminated = 0
    for orphan in superfluous:
        if not cloud.terminate(orphan.id):
            continue
        event = _event(orphan)
        database.write(lambda c, event=event: write_events(c, [event], now))  # type: ignore[misc]
        terminated += 1
    return terminated


def _unclaimed(
    connection: Connection, instances: Sequence[Instance]
) -> tuple[list[Instance], dict[str, str]]:
    """The instances that no row claims, and by each the primary of its agent, if it has one."""
    claimed = replicas.claimed_instances(connection, [instance.id for instance in instances])
    pending = launches.open_tokens(connection)
    of_several = launches.sizes(connection, {i.tags[ATTEMPT_TAG] for i in instances})
    orphans = [
        instance
        for instance in instances
        if instance.id not in claimed
        and instance.tags[ATTEMPT_TAG] not in pending
        # It has no agent while nobody took it of a call for several, which is answered. Of any
        # other the answer lacks a tag, or whose it was is in rows that a restored backup lost.
        and (AGENT_TAG in instance.tags or instance.tags[ATTEMPT_TAG] in of_several)
    ]
    primaries = {}
    for orphan in orphans:
        if AGENT_TAG not in orphan.tags:
            continue
        try:
            agent = fleet.read_agent(connection, orphan.tags[AGENT_TAG])
        except AgentNotFound:
            continue
        if agent.instance_id is not None:
            primaries[orphan.id] = agent.instance_id
    return orphans, primaries


def _event(orphan: Instance) -> Event:
    return Event(
        "orphan_terminated",
        f"{orphan.id} was launched by SEF and no row has a use for it: terminated",
        orphan.tags.get(AGENT_TAG),
        "warning",
        {"instance_id": orphan.id, "pool_id": str(orphan.pool) if orphan.pool else None},
    )
