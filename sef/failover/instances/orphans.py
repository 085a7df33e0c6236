"""Find and terminate orphans: instances launched by SEF that no database row refers to.

A sweep has these steps:

1. List the instances with this deployment's tags, then read the rows. In this order an instance
   that is launched in between is not in the list.
2. Find the orphans. Leave out the orphans of agents whose primary does not run.
3. Finish the terminations that an earlier sweep decided but did not report.
4. Commit each decision to terminate an orphan, call EC2, and report the termination. If the process
   dies in between, the next sweep reports it.
"""

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
from sef.failover.instances.attempts import call_sizes, open_tokens
from sef.failover.instances.limits import LimitHit, report_limit
from sef.failover.standbys.rows import claimed_instances
from sef.failover.standbys.watch import FORGOTTEN_AFTER
from sef.notifications.events import Event, write_events

MIN_ORPHAN_AGE = timedelta(minutes=5)
"""Minimum age of an orphan. The row of a younger instance may be about to be written."""

TOLD_AGAIN_AFTER = timedelta(days=1)
"""Time after which people are told again of orphans beyond the limit, which run and cost money."""

RETENTION = timedelta(days=1)
"""Time to keep a reported termination.

Longer than EC2 shows an ended instance. An answer that lags may still show it running, and must not
cause a second report.
"""


@dataclass(frozen=True, slots=True)
class OrphanTermination:
    """A decision to terminate an orphan."""

    instance_id: str
    agent_id: str | None
    pool_id: str | None
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class _Orphan:
    """An instance that no row refers to, with the primary of its agent, if there is one."""

    instance: Instance
    primary: str | None


def sweep_orphans(database: Database, ec2: Ec2, settings: Settings, now: datetime) -> int:
    """Terminate the orphans and return the number of reported terminations.

    An orphan whose agent has no running primary is kept. It may be the only instance left of this
    agent, as after the database was restored from a backup. If there are more orphans than one
    pass may terminate, the rows are most likely wrong: all orphans are kept, and SEF reports the
    limit.

    Raises:
        CloudError: EC2 did not return a usable answer, or refused a call. Terminations made before
            the error are reported by this sweep or the next one.
        Unavailable: the database cannot be read; no further instance is terminated.
    """
    deployment = database.write(deployment_name)
    launched = [i for i in ec2.managed_by(deployment) if _is_old_launch(i, now)]
    unfinished = database.read(unreported)
    if not launched and not unfinished:
        return 0
    orphans = database.read(_find_orphans, launched)
    primaries = {orphan.primary for orphan in orphans if orphan.primary is not None}
    current = ec2.instances({*primaries, *(orphan.instance.id for orphan in orphans)})
    # A retirement may have terminated an instance after it was listed. No row refers to this
    # instance any more, but it is not an orphan.
    ended = {instance.id for instance in current.values() if instance.has_ended}
    launched = [instance for instance in launched if instance.id not in ended]
    running = {instance.id for instance in current.values() if instance.is_alive}
    surplus = [
        orphan.instance
        for orphan in orphans
        if orphan.instance.id not in ended and (orphan.primary is None or orphan.primary in running)
    ]
    reported = _finish_earlier(database, ec2, unfinished, launched, surplus, now)
    maximum = settings.max_terminations_per_run
    if maximum and len(surplus) > maximum:
        usage = f"no database row refers to {len(surplus)} of {len(launched)} launched instances"
        hit = LimitHit(
            "max_terminations_per_run", usage, about="orphans", told_again_after=TOLD_AGAIN_AFTER
        )
        consequence = "SEF terminates none of them. If they are orphans, raise the limit"
        database.write(report_limit, hit, consequence, now)
        return reported
    return reported + sum(_terminate(database, ec2, orphan, now) for orphan in surplus)


def record_decision(connection: Connection, termination: OrphanTermination) -> None:
    """Record that an orphan is about to be terminated."""
    insert_missing(connection, orphan_terminations, [asdict(termination)])


def unreported(connection: Connection) -> Sequence[OrphanTermination]:
    """Return the decided terminations without a report."""
    columns = orphan_terminations.c
    rows = connection.execute(
        select(columns.instance_id, columns.agent_id, columns.pool_id, columns.decided_at).where(
            columns.reported_at.is_(None)
        )
    )
    return [OrphanTermination(**row._mapping) for row in rows]


def cancel_termination(connection: Connection, instance_id: str) -> None:
    """Delete the decision to terminate an instance that runs and is no longer to be terminated."""
    columns = orphan_terminations.c
    connection.execute(
        delete(orphan_terminations).where(
            columns.instance_id == instance_id, columns.reported_at.is_(None)
        )
    )


def report_termination(
    connection: Connection, termination: OrphanTermination, now: datetime
) -> bool:
    """Write the event of a termination; return False if it was written before."""
    record_decision(connection, termination)  # another sweep may have cancelled the decision
    columns = orphan_terminations.c
    is_first = connection.execute(
        update(orphan_terminations)
        .where(columns.instance_id == termination.instance_id, columns.reported_at.is_(None))
        .values(reported_at=now)
    ).rowcount
    if not is_first:
        return False
    event = Event(
        "orphan_terminated",
        f"terminated orphan {termination.instance_id}: no database row refers to it",
        agent_id=termination.agent_id,
        severity="warning",
        details={"instance_id": termination.instance_id, "pool_id": termination.pool_id},
    )
    write_events(connection, [event], now)
    connection.execute(delete(orphan_terminations).where(columns.reported_at < now - RETENTION))
    return True


def _is_old_launch(instance: Instance, now: datetime) -> bool:
    """Return True if SEF launched the instance, and it is old enough to be an orphan.

    An instance without the tag of an attempt was registered, not launched. An instance without a
    state or an age in EC2's answer is left to a later sweep.
    """
    return (
        ATTEMPT_TAG in instance.tags
        and instance.ec2_state is not None
        and not instance.has_ended
        and instance.launched_at is not None
        and now - instance.launched_at > MIN_ORPHAN_AGE
    )


def _find_orphans(connection: Connection, instances: Sequence[Instance]) -> list[_Orphan]:
    """Return the instances that no row refers to."""
    # Read the open attempts first. If the answer to a launch is recorded between the two reads, the
    # instance is in both results; in the other order it would be in neither.
    pending = open_tokens(connection)
    claimed = claimed_instances(connection, [instance.id for instance in instances])
    batched = call_sizes(connection, {instance.tags[ATTEMPT_TAG] for instance in instances})
    return [
        _Orphan(instance, _primary(connection, instance))
        for instance in instances
        if instance.id not in claimed
        and instance.tags[ATTEMPT_TAG] not in pending
        # An instance without an agent's tag is an orphan if a known batched call launched it: the
        # call is answered, and no attempt has taken the instance. Otherwise EC2's answer may lack
        # the tag, or a restored backup has lost the call's row.
        and (AGENT_TAG in instance.tags or instance.tags[ATTEMPT_TAG] in batched)
    ]


def _primary(connection: Connection, instance: Instance) -> str | None:
    """Return the primary of the agent in the tags of an instance, if there is one."""
    if AGENT_TAG not in instance.tags:
        return None
    try:
        return read_agent(connection, instance.tags[AGENT_TAG]).instance_id
    except AgentNotFound:
        return None


def _finish_earlier(
    database: Database,
    ec2: Ec2,
    unfinished: Sequence[OrphanTermination],
    launched: Collection[Instance],
    surplus: Collection[Instance],
    now: datetime,
) -> int:
    """Finish the terminations that an earlier sweep decided but did not report.

    Report the instances that have ended, or that EC2 does not show any more. Cancel the decision if
    the instance runs and is no longer surplus. Surplus instances are terminated again later in this
    sweep. Return the number of reports.
    """
    listed = {instance.id for instance in launched}
    kept = listed - {instance.id for instance in surplus}
    for instance_id in kept & {termination.instance_id for termination in unfinished}:
        database.write(cancel_termination, instance_id)
    unlisted = [t for t in unfinished if t.instance_id not in listed]
    instances = ec2.instances([termination.instance_id for termination in unlisted])
    reported = 0
    for termination in unlisted:
        instance = instances.get(termination.instance_id)
        is_forgotten = instance is None and now - termination.decided_at > FORGOTTEN_AFTER
        if is_forgotten or (instance is not None and instance.has_ended):
            reported += database.write(report_termination, termination, now)
    return reported


def _terminate(database: Database, ec2: Ec2, orphan: Instance, now: datetime) -> bool:
    """Terminate an orphan; return True if this sweep reported it."""
    termination = OrphanTermination(
        orphan.id,
        agent_id=orphan.tags.get(AGENT_TAG),
        pool_id=str(orphan.pool) if orphan.pool else None,
        decided_at=now,
    )
    return (
        database.write(_decide, orphan, termination)
        and ec2.terminate(orphan.id)
        and database.write(report_termination, termination, now)
    )


def _decide(connection: Connection, orphan: Instance, termination: OrphanTermination) -> bool:
    """Commit to a termination, unless a row refers to the instance by now."""
    if not _find_orphans(connection, [orphan]):
        return False
    record_decision(connection, termination)
    return True
