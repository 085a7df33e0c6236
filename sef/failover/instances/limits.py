"""Enforce SEF's own limits on launches and terminations.

A part of each limit on launches is kept for emergencies (`reserve`).

A defect, a wrong row or a loop in a client's script must not launch or terminate instances without
end. SEF reports each limit once for an episode and retries the work that the limit holds back.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock

from sqlalchemy import Connection, and_, func, select, update

from sef.config import Settings, variable
from sef.db.leases import MAX_CLOCK_SKEW
from sef.db.statements import insert_missing, swap
from sef.db.tables import launch_attempts, limit_episodes, replica_instances
from sef.notifications.events import Event, write_events
from sef.terms import NotificationKind, ReplicaStatus, plural

HOUR = timedelta(hours=1)
"""Period of `max_launches_per_hour`."""

EPISODE_GAP = timedelta(minutes=15)
"""Time without a hit after which an episode ends. Longer than any retry delay."""

HIT_RECORDED_EVERY = timedelta(minutes=1)
"""Minimum time between two writes of `hit_at` in one episode."""

MAY_RUN = (
    ReplicaStatus.LAUNCHING,
    ReplicaStatus.READY,
    ReplicaStatus.RELEASING,
    ReplicaStatus.PROMOTED,
)
"""Statuses of a replica in which its instance may run."""


@dataclass(frozen=True, slots=True)
class LimitHit:
    """A limit that forbids a launch or a termination.

    Attributes:
        setting: name of the field of `Settings` that sets the limit.
        usage: the count that reached the limit, as a clause for messages.
        agent_id: the agent of a limit for one agent; None for a limit of the whole fleet.
        about: a word for what the limit holds back, if a setting limits several kinds of work.
        told_again_after: time after which an episode that goes on is told again; None: never.
        kept: number of launches that are kept for emergencies and forbid this launch; 0 if the
            limit itself is reached.
    """

    setting: str
    usage: str
    agent_id: str | None = None
    about: str = ""
    told_again_after: timedelta | None = None
    kept: int = 0

    @property
    def reason(self) -> str:
        """Return the count and the environment variable of the limit, for messages."""
        kept = f", {self.kept} are kept for emergencies" if self.kept else ""
        return f"{self.usage} (limit: {variable(self.setting)}{kept})"


class TerminationBudget:
    """The terminations that one pass may still make, shared by its threads.

    A budget of 0 is unlimited.
    """

    def __init__(self, count: int) -> None:
        self._left = count
        self._is_unlimited = count == 0
        self._lock = Lock()
        self.deferred: set[str] = set()
        """Ids of the instances that wait for the next pass."""

    def take(self, instance_id: str) -> bool:
        """Take one termination from the budget; return False and defer it if none is left."""
        with self._lock:
            if self._is_unlimited:
                return True
            if self._left == 0:
                self.deferred.add(instance_id)
                return False
            self._left -= 1
            return True


def reserve(maximum: int) -> int:
    """Return the part of a limit that is kept for emergencies: a quarter, at least 2.

    At least one launch is left for other reasons.
    """
    return min(max(2, maximum // 4), maximum - 1)


def launch_limit(
    connection: Connection,
    agent_id: str,
    now: datetime,
    settings: Settings,
    *,
    is_emergency: bool,
    is_decision: bool = False,
) -> LimitHit | None:
    """Return the limit that forbids a launch for an agent now, or None.

    Args:
        is_emergency: the agent is losing its primary, or has lost it. Other launches leave the
            `reserve` of each limit.
        is_decision: the caller decides on a launch in this transaction, and changes the agent's
            replica in it. Two launches for one agent then conflict by the replica's version, and
            decisions under the limit of the whole fleet are serialized.
    """
    maximum = settings.max_launches_per_hour
    if maximum:
        launched = _launches_between(connection, agent_id, now - HOUR, now + MAX_CLOCK_SKEW)
        kept = _kept(launched, maximum, is_emergency=is_emergency)
        if kept is not None:
            verb = "was" if launched == 1 else "were"
            usage = f"{plural(launched, 'instance')} {verb} launched for the agent within an hour"
            return LimitHit("max_launches_per_hour", usage, agent_id, _about(kept), kept=kept)
    maximum = settings.max_instances
    if maximum:
        if is_decision:
            _serialize_on(connection, "max_instances")
        live = _live_instances(connection)
        kept = _kept(live, maximum, is_emergency=is_emergency)
        if kept is not None:
            usage = f"the whole fleet has {plural(live, 'live instance')}"
            return LimitHit("max_instances", usage, about=_about(kept), kept=kept)
    return None


def _about(kept: int) -> str:
    """Return the word by which the reserve is reported apart from the limit itself."""
    return "kept" if kept else ""


def _kept(used: int, maximum: int, *, is_emergency: bool) -> int | None:
    """Return the reserve that forbids a launch, 0 if the limit does, or None if it is allowed."""
    if used >= maximum:
        return 0
    kept = reserve(maximum)
    return kept if not is_emergency and used >= maximum - kept else None


def report_limit(
    connection: Connection,
    hit: LimitHit,
    consequence: str,
    now: datetime,
    *,
    incident_id: str | None = None,
) -> None:
    """Write an event about a limit and its consequence, once for an episode."""
    if not _record_hit(connection, hit, now):
        return
    event = Event(
        "limit_reached",
        f"{hit.reason}: {consequence}",
        agent_id=hit.agent_id,
        severity="error",
        details={"limit": variable(hit.setting)},
        incident_id=incident_id if hit.agent_id else None,
        notification=NotificationKind.ALERT,
        matter=(hit.setting, hit.about, now.isoformat()),
    )
    write_events(connection, [event], now)


def _launches_between(
    connection: Connection, agent_id: str, since: datetime, until: datetime
) -> int:
    """Return the number of launches for an agent, including calls whose effect is unknown.

    Refused calls launched nothing and do not count. While the caller holds the agent's live
    replica, no other transaction can add a launch: each new attempt changes that replica.
    """
    attempt, replica = launch_attempts.c, replica_instances.c
    return (
        connection.scalar(
            select(func.count())
            .select_from(launch_attempts)
            .join(replica_instances, replica.id == attempt.replica_id)
            .where(
                replica.agent_id == agent_id,
                attempt.created_at > since,
                attempt.created_at <= until,
                attempt.status != "refused",
            )
        )
        or 0
    )


def _live_instances(connection: Connection) -> int:
    """Return the number of launched instances that may run, by the rows of the whole fleet."""
    attempt, replica = launch_attempts.c, replica_instances.c
    known = (
        select(func.count())
        .select_from(replica_instances)
        .where(replica.status.in_(MAY_RUN), replica.instance_id.is_not(None))
    )
    unknown = select(func.count()).select_from(launch_attempts).where(attempt.status == "open")
    return (connection.scalar(known) or 0) + (connection.scalar(unknown) or 0)


def _serialize_on(connection: Connection, name: str) -> None:
    """Serialize the transactions that decide under a limit of the whole fleet.

    This is an UPDATE, so that on a database cluster the later of two transactions is repeated.
    """
    insert_missing(connection, limit_episodes, [{"name": name, "agent_id": ""}])
    columns = limit_episodes.c
    connection.execute(
        update(limit_episodes)
        .where(columns.name == name, columns.agent_id == "")
        .values(version=columns.version + 1)
    )


def _record_hit(connection: Connection, hit: LimitHit, now: datetime) -> bool:
    """Record that a limit is hit; return True if people are to be told.

    They are told of a hit that starts an episode, and again after `told_again_after`.

    Raises:
        VersionConflict: another worker has recorded a hit since the row was read.
    """
    name = f"{hit.setting}:{hit.about}" if hit.about else hit.setting
    agent_id = hit.agent_id or ""
    key = {"name": name, "agent_id": agent_id}
    insert_missing(connection, limit_episodes, [key])
    columns = limit_episodes.c
    is_key = and_(columns.name == name, columns.agent_id == agent_id)
    row = connection.execute(select(limit_episodes).where(is_key)).one()
    # A later time than the maximum clock skew allows comes from a wrong clock and is ignored.
    is_same_episode = (
        row.hit_at is not None and now - EPISODE_GAP < row.hit_at <= now + MAX_CLOCK_SKEW
    )
    is_told = is_same_episode and not (
        hit.told_again_after is not None
        and row.told_at is not None
        and row.told_at <= now - hit.told_again_after
    )
    if is_told and now - row.hit_at < HIT_RECORDED_EVERY:
        return False
    told_at = row.told_at if is_told else now
    swap(connection, limit_episodes, key, version=row.version, hit_at=now, told_at=told_at)
    return not is_told
