"""What a look at EC2 is worth: an instance that an answer lacks is not lost for that.

EC2's answers may lag behind, come from a copy that lags, or be incomplete. Only a state that an
instance does not come back from is proof at once. EC2 shows an instance that has ended for about
an hour; one that is not shown at all is lost when look after look, some time apart, misses it.
"""

from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection

from sef.cloud.ec2 import Instance
from sef.store import replicas
from sef.store.replicas import Replica

MISSING_FOR = timedelta(minutes=5)
"""How long EC2 has not to show a standby, or one that launches, until it is given up."""

FORGOTTEN_AFTER = timedelta(hours=1)
"""The same for one that is kept for its operator, as long as EC2 shows what has ended."""


class Sight(StrEnum):
    RUNS = "runs"
    GONE = "gone"
    UNTOLD = "untold"  # EC2 shows it without its state
    MISSING = "missing"


def told(instance: Instance | None) -> Sight:
    """What one answer says."""
    if instance is None:
        return Sight.MISSING
    if instance.is_gone:
        return Sight.GONE
    return Sight.RUNS if instance.is_alive else Sight.UNTOLD


def note(
    connection: Connection,
    replica: Replica,
    sight: Sight,
    now: datetime,
    *,
    every: timedelta,
    patience: timedelta,
) -> Sight:
    """Write down that a replica was looked at; GONE also when it was missed for too long.

    Looks are counted, and not the time, so that one worker with a wrong clock gives nobody up.

    Args:
        every: looks that follow each other faster count as one.
        patience: for how long it may be missed, in looks of that distance.
    """
    if sight is Sight.GONE:
        return sight
    if sight is not Sight.MISSING:
        if replica.misses or is_due(replica, now, every):
            replicas.change_replica(connection, replica, checked_at=now, misses=0)
        return sight
    misses = replica.misses
    if not misses or is_due(replica, now, every):
        misses += 1
        replicas.change_replica(connection, replica, checked_at=now, misses=misses)
    return Sight.GONE if misses * every >= patience else Sight.MISSING


def is_due(replica: Replica, now: datetime, every: timedelta) -> bool:
    """Whether a replica is to be looked at again; also when a wrong clock wrote the last time."""
    return replica.checked_at is None or abs(now - replica.checked_at) >= every
