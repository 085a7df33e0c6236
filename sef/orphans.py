"""Instances that carry this SEF's tag and that no row knows of: launched, and then forgotten."""

from datetime import datetime, timedelta

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, Ec2, Instance
from sef.store import replicas
from sef.store.database import Database
from sef.store.deployment import deployment_name
from sef.store.events import Event, write_events

YOUNG = timedelta(minutes=5)
"""Younger instances are left alone: their row may be about to be written."""


def sweep_orphans(database: Database, cloud: Ec2, now: datetime) -> int:
    """Terminate the orphans and return how many there were.

    The cloud is listed first, then the rows: what is launched in between is in no list.

    Raises:
        CloudError: EC2 cannot be read; nothing was terminated.
        Unavailable: the database cannot be read; nothing was terminated.
    """
    name = database.write(deployment_name)
    old = [
        instance
        for instance in cloud.managed_by(name)
        if not instance.is_gone and now - instance.launched_at > YOUNG
    ]
    if not old:
        return 0
    known, pending = database.read(
        lambda c: (
            replicas.known_instances(c, [instance.id for instance in old]),
            replicas.open_tokens(c),
        )
    )
    orphans = [
        instance
        for instance in old
        if instance.id not in known and instance.tags.get(ATTEMPT_TAG) not in pending
    ]
    for orphan in orphans:
        cloud.terminate(orphan.id)
        event = _event(orphan)
        database.write(lambda c, event=event: write_events(c, [event], now))  # type: ignore[misc]
    return len(orphans)


def _event(orphan: Instance) -> Event:
    return Event(
        "orphan_terminated",
        f"{orphan.id} was launched by SEF and is known to no row: terminated",
        orphan.tags.get(AGENT_TAG),
        "warning",
        {"instance_id": orphan.id, "pool_id": str(orphan.pool)},
    )
