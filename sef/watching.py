"""Looking after instances that are there: the standby, and former primaries that still run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy import Connection

from sef.clock import Clock
from sef.cloud.ec2 import FILTER_VALUES, Ec2, Instance
from sef.cloud.errors import CloudError, Response
from sef.cloud.timing import Calls
from sef.config import Settings
from sef.core.replica import Status
from sef.setbacks import avoid_pool_of
from sef.shared_call import SharedCall
from sef.sightings import FORGOTTEN_AFTER, MISSING_FOR, Sight, is_due, note, told
from sef.store import incidents, replicas
from sef.store.database import Database
from sef.store.events import Severity
from sef.store.replicas import Replica

LOOKS_WAITING = 10_000
PATIENCE = 1.0
"""Seconds that a look waits for another one's call, which may hang, to be over."""

Looks = SharedCall[str, "Instance | CloudError | None"]


def looks_at(cloud: Ec2) -> Looks:
    """Looks at one instance each, of which those that come together share a call: a storm of
    notices would take EC2 one call for each otherwise, and EC2 counts them."""

    def look(ids: Sequence[str]) -> Sequence[Instance | CloudError | None]:
        try:
            found = cloud.instances(set(ids))
        except CloudError as error:
            return [error] * len(ids)
        return [found.get(instance_id) for instance_id in ids]

    return SharedCall(look, limit=LOOKS_WAITING, at_once=FILTER_VALUES, patience=PATIENCE)


@dataclass(frozen=True, slots=True)
class Watch:
    database: Database
    cloud: Ec2
    looks: Looks
    settings: Settings
    clock: Clock

    @property
    def interval(self) -> timedelta:
        return timedelta(seconds=self.settings.standby_check_interval)

    def is_due(self, replica: Replica) -> bool:
        """Whether a replica is to be looked at again."""
        return is_due(replica, self.clock(), self.interval)

    def see_standby(self, standby: Replica) -> None:
        """Make sure that a ready standby still runs; one that does not has failed.

        Raises:
            CloudError: EC2 cannot say.
        """
        instance = self._shown(standby)
        if told(instance) is Sight.RUNS and not standby.misses:
            return  # what follows is written down, so this need not be
        if self._judge(standby, instance) in (Sight.UNTOLD, Sight.MISSING):
            raise does_not_tell(standby)

    def check_standby(self, standby: Replica) -> Sight:
        """Look whether a ready standby still runs; one that does not has failed."""
        return self._judge(standby, self._shown(standby))

    def _shown(self, standby: Replica) -> Instance | None:
        assert standby.instance_id is not None
        shown = self.looks.submit(standby.instance_id)
        if isinstance(shown, CloudError):
            raise shown.again() from shown
        return shown

    def _judge(self, standby: Replica, instance: Instance | None) -> Sight:
        sight = self.look(standby, told(instance), MISSING_FOR)
        if sight is Sight.GONE:
            said = f"its instance is {instance.ec2_state if instance else 'not shown by EC2'}"
            self.move(standby, Status.FAILED, said)
        return sight

    def check_former(self, former: Sequence[Replica]) -> str:
        known = self.cloud.instances([r.instance_id for r in former if r.instance_id])
        for replica in former:
            instance = known.get(replica.instance_id or "")
            # One that was stopped is its operator's still.
            is_kept = instance is not None and not instance.has_ended
            sight = Sight.RUNS if is_kept else told(instance)
            if self.look(replica, sight, FORGOTTEN_AFTER) is Sight.GONE:
                said = f"EC2 reports it {instance.ec2_state if instance else 'no more'}"
                self.move(replica, Status.TERMINATED, said)
        return "looked after former primaries"

    def look(self, replica: Replica, sight: Sight, patience: timedelta) -> Sight:
        def write(connection: Connection) -> Sight:
            current = replicas.read_replica(connection, replica.id)
            if current is None or current.status is not replica.status:
                return sight  # somebody else has taken it further since
            now = self.clock()
            return note(connection, current, sight, now, every=self.interval, patience=patience)

        return self.database.write(write)

    def move(self, seen: Replica, status: Status, reason: str, calls: Calls | None = None) -> None:
        def write(connection: Connection) -> None:
            self.move_in(connection, seen, status, reason, calls)

        self.database.write(write)

    def move_in(
        self,
        connection: Connection,
        seen: Replica,
        status: Status,
        reason: str,
        calls: Calls | None = None,
    ) -> None:
        """Move a replica that was looked at, unless it has moved since."""
        severity: Severity = "warning" if status is Status.FAILED else "info"
        replica = replicas.read_replica(connection, seen.id)
        if (
            replica is not None
            and replica.status is seen.status
            and replica.instance_id == seen.instance_id
        ):
            now = self.clock()
            if status is Status.FAILED:
                avoid_pool_of(connection, replica, "Vanished", now, self.settings)
            if replica.status is Status.PROMOTED and replica.instance_id is not None:
                # What it was launched for is long over: its end belongs to what it was lost by.
                lost_by = incidents.latest_incident(
                    connection, replica.agent_id, replica.instance_id
                )
                replica = replace(replica, incident_id=lost_by.id if lost_by else None)
            replicas.move_replica(
                connection, replica, status, reason, now, severity=severity, calls=calls or ()
            )


def does_not_tell(standby: Replica) -> CloudError:
    said = f"EC2 does not tell whether {standby.instance_id} runs"
    return CloudError("IncompleteAnswer", said, Response.WAIT)
