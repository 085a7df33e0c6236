"""Instances that SEF launched and that no row has a use for: forgotten, or thought to be gone."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, update

from sef.agents import read_agent
from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, Ec2, Instance
from sef.config import Settings
from sef.db.database import Database
from sef.db.leases import deployment_name
from sef.db.statements import insert_missing
from sef.db.tables import orphan_terminations
from sef.errors import AgentNotFound
from sef.failover.instances import attempts
from sef.failover.instances.limits import LimitHit, report_limit
from sef.failover.standbys.rows import claimed_instances
from sef.failover.standbys.watch import FORGOTTEN_AFTER
from sef.notifications.events import Event, write_events

MIN_ORPHAN_AGE = timedelta(minutes=5)
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
        and now - instance.launched_at > MIN_ORPHAN_AGE
    ]
    left_over = database.read(unreported)
    if not old and not left_over:
        return 0
    unclaimed, primaries = database.read(_unclaimed, old)
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
    terminated = _finish_earlier(database, cloud, left_over, old, superfluous, now)
    most = settings.max_terminations_per_run
    if most and len(superfluous) > most:
        said = f"no row has a use for {len(superfluous)} of {len(old)} instances that SEF launched"
        reached = LimitHit("max_terminations_per_run", said)
        database.write(report_limit, reached, "none is terminated", now)
        return terminated
    for orphan in superfluous:
        pool_id = str(orphan.pool) if orphan.pool else None
        decided = OrphanTermination(orphan.id, orphan.tags.get(AGENT_TAG), pool_id, now)
        if not database.write(_decide, orphan, decided):
            continue
        if cloud.terminate(orphan.id):
            terminated += _report(database, decided, now)
    return terminated


@dataclass(frozen=True, slots=True)
class OrphanTermination:
    instance_id: str
    agent_id: str | None
    pool_id: str | None
    decided_at: datetime


def _finish_earlier(
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
        database.write(cancel_termination, instance_id)
    shown = {i.id for i in running}
    others = [left for left in left_over if left.instance_id not in shown]
    found = cloud.instances([left.instance_id for left in others])
    told = 0
    for left in others:
        instance = found.get(left.instance_id)
        is_forgotten = instance is None and now - left.decided_at > FORGOTTEN_AFTER
        if is_forgotten or (instance is not None and instance.has_ended):
            told += _report(database, left, now)
    return told


def _decide(connection: Connection, orphan: Instance, termination: OrphanTermination) -> bool:
    """Commit to a termination, unless some row has come to have a use for the instance."""
    unclaimed, _ = _unclaimed(connection, [orphan])
    if not unclaimed:
        return False
    record_decision(connection, termination)
    return True


def _report(database: Database, termination: OrphanTermination, now: datetime) -> bool:
    return database.write(report_termination, termination, now)


def _unclaimed(
    connection: Connection, instances: Sequence[Instance]
) -> tuple[list[Instance], dict[str, str]]:
    """The instances that no row claims, and by each the primary of its agent, if it has one."""
    # In this order: a launch that is answered meanwhile is open first, and claimed then.
    pending = attempts.open_tokens(connection)
    claimed = claimed_instances(connection, [instance.id for instance in instances])
    of_several = attempts.call_sizes(connection, {i.tags[ATTEMPT_TAG] for i in instances})
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
            agent = read_agent(connection, orphan.tags[AGENT_TAG])
        except AgentNotFound:
            continue
        if agent.instance_id is not None:
            primaries[orphan.id] = agent.instance_id
    return unclaimed, primaries


RETENTION = timedelta(days=1)
"""How long a termination is remembered that was told: longer than EC2 shows what has ended, and
an answer that lags may still show it running."""


def record_decision(connection: Connection, termination: OrphanTermination) -> None:
    """Write down that an orphan is about to be terminated."""
    insert_missing(connection, orphan_terminations, [asdict(termination)])


def unreported(connection: Connection) -> Sequence[OrphanTermination]:
    """Those decided on of which nobody has said yet that they were made."""
    columns = orphan_terminations.c
    rows = connection.execute(
        select(columns.instance_id, columns.agent_id, columns.pool_id, columns.decided_at).where(
            columns.reported_at.is_(None)
        )
    )
    return [OrphanTermination(**row._mapping) for row in rows]


def cancel_termination(connection: Connection, instance_id: str) -> None:
    """Forget a decision: the instance runs, and there is a use for it by now."""
    columns = orphan_terminations.c
    connection.execute(
        delete(orphan_terminations).where(
            columns.instance_id == instance_id, columns.reported_at.is_(None)
        )
    )


def report_termination(
    connection: Connection, termination: OrphanTermination, now: datetime
) -> bool:
    """Write the event of a termination that was made; False if it was written before."""
    record_decision(connection, termination)  # unless another worker has withdrawn it meanwhile
    columns = orphan_terminations.c
    instance_id = termination.instance_id
    is_news = connection.execute(
        update(orphan_terminations)
        .where(columns.instance_id == instance_id, columns.reported_at.is_(None))
        .values(reported_at=now)
    ).rowcount
    if not is_news:
        return False
    event = Event(
        "orphan_terminated",
        f"{instance_id} was launched by SEF and no row has a use for it: terminated",
        termination.agent_id,
        "warning",
        {"instance_id": instance_id, "pool_id": termination.pool_id},
    )
    write_events(connection, [event], now)
    connection.execute(delete(orphan_terminations).where(columns.reported_at < now - RETENTION))
    return True
