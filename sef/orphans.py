"""Instances that SEF launched and that no row has a use for: forgotten, or thought to be gone."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, Ec2, Instance
from sef.config import Settings
from sef.errors import AgentNotFound
from sef.limits import Reached, tell
from sef.sightings import FORGOTTEN_AFTER
from sef.store import fleet, launches, orphans, replicas
from sef.store.database import Database
from sef.store.deployment import deployment_name
from sef.store.orphans import OrphanTermination

YOUNG = timedelta(minutes=5)
"""Younger instances are left alone: their row may be about to be written."""


def sweep_orphans(database: Database, cloud: Ec2, settings: Settings, now: datetime) -> int:
    """Terminate the orphans and return how many were terminated.

    The cloud is listed first, then the rows: what is launched in between is in no list. An orphan
    of an agent whose primary does not run may be all that is left of it, as after a database was
    restored from a backup: that one is kept. When there are more orphans than one cycle may
    terminate, it is most likely the rows that are wrong: all are kept, and that is said.

    Each termination is committed before its call and told after it, by the next sweep if this one
    dies in between.

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
    left_over = database.read(orphans.untold)
    if not old and not left_over:
        return 0
    unclaimed, primaries = database.read(lambda c: _unclaimed(c, old))
    shown = cloud.instances({*primaries.values(), *(orphan.id for orphan in unclaimed)})
    running = {instance.id for instance in shown.values() if instance.is_alive}
    # One that was retired after it was listed: no row claims it any more, but EC2 has ended it.
    ended = {instance.id for instance in shown.values() if instance.has_ended}
    old = [instance for instance in old if instance.id not in ended]
    unclaimed = [orphan for orphan in unclaimed if orphan.id not in ended]
    superfluous = [
        orphan
        for orphan in unclaimed
        if orphan.id not in primaries or primaries[orphan.id] in running
    ]
    terminated = _end_left_over(database, cloud, left_over, old, superfluous, now)
    most = settings.terminations_per_cycle
    if most and len(superfluous) > most:
        said = f"no row has a use for {len(superfluous)} of {len(old)} instances that SEF launched"
        reached = Reached("terminations_per_cycle", said)
        database.write(lambda c: tell(c, reached, "none is terminated", now))
        return terminated
    for orphan in superfluous:
        pool_id = str(orphan.pool) if orphan.pool else None
        decided = OrphanTermination(orphan.id, orphan.tags.get(AGENT_TAG), pool_id, now)
        if not database.write(lambda c, o=orphan, d=decided: _decide(c, o, d)):  # type: ignore[misc]
            continue
        if cloud.terminate(orphan.id):
            terminated += _tell_of(database, decided, now)
    return terminated


def _end_left_over(
    database: Database,
    cloud: Ec2,
    left_over: Sequence[OrphanTermination],
    running: Collection[Instance],
    superfluous: Collection[Instance],
    now: datetime,
) -> int:
    """What became of the terminations that were decided on before and that nobody told of.

    Those that are superfluous still are terminated again, like all the others.
    """
    kept = {i.id for i in running} - {i.id for i in superfluous}
    for instance_id in kept & {left.instance_id for left in left_over}:
        database.write(lambda c, id=instance_id: orphans.withdraw(c, id))  # type: ignore[misc]
    shown = {i.id for i in running}
    others = [left for left in left_over if left.instance_id not in shown]
    found = cloud.instances([left.instance_id for left in others])
    told = 0
    for left in others:
        instance = found.get(left.instance_id)
        is_forgotten = instance is None and now - left.decided_at > FORGOTTEN_AFTER
        if is_forgotten or (instance is not None and instance.has_ended):
            told += _tell_of(database, left, now)
    return told


def _decide(connection: Connection, orphan: Instance, termination: OrphanTermination) -> bool:
    """Commit to a termination, unless some row has come to have a use for the instance."""
    unclaimed, _ = _unclaimed(connection, [orphan])
    if not unclaimed:
        return False
    orphans.decide(connection, termination)
    return True


def _tell_of(database: Database, termination: OrphanTermination, now: datetime) -> bool:
    return database.write(lambda c: orphans.tell(c, termination, now))


def _unclaimed(
    connection: Connection, instances: Sequence[Instance]
) -> tuple[list[Instance], dict[str, str]]:
    """The instances that no row claims, and by each the primary of its agent, if it has one."""
    # In this order: a launch that is answered meanwhile is open first, and claimed then.
    pending = launches.open_tokens(connection)
    claimed = replicas.claimed_instances(connection, [instance.id for instance in instances])
    of_several = launches.sizes(connection, {i.tags[ATTEMPT_TAG] for i in instances})
    unclaimed = [
        instance
        for instance in instances
        if instance.id not in claimed
        and instance.tags[ATTEMPT_TAG] not in pending
        # It has no agent while nobody took it of a call for several, which is answered. Of any
        # other the answer lacks a tag, or whose it was is in rows that a restored backup lost.
        and (AGENT_TAG in instance.tags or instance.tags[ATTEMPT_TAG] in of_several)
    ]
    primaries = {}
    for orphan in unclaimed:
        if AGENT_TAG not in orphan.tags:
            continue
        try:
            agent = fleet.read_agent(connection, orphan.tags[AGENT_TAG])
        except AgentNotFound:
            continue
        if agent.instance_id is not None:
            primaries[orphan.id] = agent.instance_id
    return unclaimed, primaries
