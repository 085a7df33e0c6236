"""Limits against damage: what SEF does not do, however good its reasons look.

A defect, a wrong row or a loop in somebody's scripts must not launch or terminate without end. Each
limit that is hit is said once for an episode, and what it holds back is tried again.
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


@dataclass(frozen=True, slots=True)
class LimitHit:
    """A limit that is hit; `setting` is the field of `Settings` that sets it."""

    setting: str
    found: str
    agent_id: str | None = None

    @property
    def reason(self) -> str:
        """What was found, and which setting forbids to go on."""
        return f"{self.found}, the limit of {variable(self.setting)}"


def launch_limit(
    connection: Connection,
    agent_id: str,
    now: datetime,
    settings: Settings,
    *,
    is_decision: bool = False,
) -> LimitHit | None:
    """The limit that forbids to launch an instance for an agent now, if there is one.

    For a decision the caller has changed, or is about to change, the agent's replica: two launches
    of one agent cannot both be under the limit. Those of the whole fleet take turns for it.
    """
    most = settings.max_launches_per_hour
    if most:
        until = now + MAX_CLOCK_SKEW
        launched = launches_between(connection, agent_id, now - HOUR, until)
        if launched >= most:
            were = "was" if launched == 1 else "were"
            said = f"{plural(launched, 'instance')} {were} launched for it within an hour"
            return LimitHit("max_launches_per_hour", said, agent_id)
    most = settings.max_instances
    if most:
        if is_decision:
            serialize_on(connection, "max_instances")
        live = live_instances(connection)
        if live >= most:
            said = f"SEF has {plural(live, 'instance')} running in all"
            return LimitHit("max_instances", said)
    return None


def report_limit(
    connection: Connection,
    reached: LimitHit,
    consequence: str,
    now: datetime,
    *,
    incident_id: str | None = None,
) -> None:
    """Say, once for an episode, that a limit is hit and what follows from that."""
    if not start_episode(connection, reached.setting, reached.agent_id or "", now):
        return
    name = variable(reached.setting)
    event = Event(
        "limit_reached",
        f"{reached.reason}: {consequence}",
        reached.agent_id,
        "error",
        {"limit": name},
        incident_id if reached.agent_id else None,
        notification=NotificationKind.ALERT,
    )
    write_events(connection, [event], now)


class TerminationBudget:
    """The terminations that a cycle has left, shared by its threads; of 0 there is no end."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._is_endless = count == 0
        self._lock = Lock()
        self.deferred: set[str] = set()
        """The instances that have to wait for the next cycle."""

    def take(self, instance_id: str) -> bool:
        with self._lock:
            if self._is_endless:
                return True
            if self._left == 0:
                self.deferred.add(instance_id)
                return False
            self._left -= 1
            return True


QUIET = timedelta(minutes=15)
"""An episode is over when its limit was not hit for so long: longer than any back-off."""

NOTED_EVERY = timedelta(minutes=1)
MAY_RUN = (
    ReplicaStatus.LAUNCHING,
    ReplicaStatus.READY,
    ReplicaStatus.RELEASING,
    ReplicaStatus.PROMOTED,
)


def launches_between(
    connection: Connection, agent_id: str, since: datetime, until: datetime
) -> int:
    """How many instances were launched for an agent, counting calls whose effect is not known.

    Refused calls launched nothing. No other transaction can be adding one for the agent when the
    caller has its replica: attempts change the replica, and an agent has one live replica.
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


def live_instances(connection: Connection) -> int:
    """How many instances of all that SEF launched may run, as far as the rows know."""
    attempt, replica = launch_attempts.c, replica_instances.c
    known = (
        select(func.count())
        .select_from(replica_instances)
        .where(replica.status.in_(MAY_RUN), replica.instance_id.is_not(None))
    )
    unknown = select(func.count()).select_from(launch_attempts).where(attempt.status == "open")
    return (connection.scalar(known) or 0) + (connection.scalar(unknown) or 0)


def serialize_on(connection: Connection, name: str) -> None:
    """Wait for all others who decide under a limit of the whole fleet, and let them wait.

    It is an update, so that on a cluster the later one of two is repeated.
    """
    insert_missing(connection, limit_episodes, [{"name": name, "agent_id": ""}])
    columns = limit_episodes.c
    connection.execute(
        update(limit_episodes)
        .where(columns.name == name, columns.agent_id == "")
        .values(version=columns.version + 1)
    )


def start_episode(connection: Connection, name: str, agent_id: str, now: datetime) -> bool:
    """Note that a limit is hit; True if that is news, and to be said, and not a repeat.

    Args:
        agent_id: empty for a limit of the whole fleet.
    """
    insert_missing(connection, limit_episodes, [{"name": name, "agent_id": agent_id}])
    columns = limit_episodes.c
    of_it = and_(columns.name == name, columns.agent_id == agent_id)
    row = connection.execute(select(columns.hit_at, columns.version).where(of_it)).one()
    # What lies in the future was written by a clock that is ahead.
    goes_on = row.hit_at is not None and now - QUIET < row.hit_at <= now + MAX_CLOCK_SKEW
    if goes_on and now - row.hit_at < NOTED_EVERY:
        return False
    key = {"name": name, "agent_id": agent_id}
    swap(connection, limit_episodes, key, version=row.version, hit_at=now)
    return not goes_on
