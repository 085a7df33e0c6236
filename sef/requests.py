"""Calls that EC2 counts are made only while there is a token for them.

A throttled call is refused, and delays those after it. To wait for the token instead is no failure:
the step is left for the next round, which takes the most urgent first.
"""

from dataclasses import dataclass

from sqlalchemy import Connection

from sef.clock import Clock
from sef.config import Settings
from sef.core.buckets import Rate
from sef.store import buckets
from sef.store.buckets import Left
from sef.store.database import Database

RUN = "RunInstances"
TERMINATE = "TerminateInstances"

AMAZONS = {RUN: 2.0, TERMINATE: 5.0}
"""What EC2 gives back each second, unless an account has another quota: see `sef.core.buckets`."""

KEPT_FOR_EMERGENCIES = 2
"""Tokens of RunInstances that standbys and drills leave in the bucket."""


@dataclass(frozen=True, slots=True)
class Requests:
    database: Database
    settings: Settings
    clock: Clock

    def may_terminate(self) -> bool:
        """Take a token for a TerminateInstances call, if there is one."""
        rate = self._rate(TERMINATE)
        if rate is None:
            return True
        now = self.clock()
        return self.database.read(
            lambda c: buckets.has_token(c, TERMINATE, rate, now)
        ) and self.database.write(lambda c: buckets.take_token(c, TERMINATE, rate, now))

    def may_have_token(self, connection: Connection, left: Left) -> bool:
        """Whether it is worth to try `take_for_launch`."""
        rate = self._rate(RUN)
        now = self.clock()
        return rate is None or buckets.has_token(connection, RUN, rate, now, left)

    def take_for_launch(self, connection: Connection, left: Left) -> bool:
        """Take a token for a RunInstances call that leaves so many for others who need it more."""
        rate = self._rate(RUN)
        now = self.clock()
        return rate is None or buckets.take_token(connection, RUN, rate, now, left)

    def are_counted(self, action: str) -> bool:
        """Whether calls of an action may have to wait for a token."""
        return self._rate(action) is not None

    def refused(self, action: str) -> None:
        """EC2 has throttled a call: whatever we have counted, the bucket is empty."""
        if self._rate(action) is not None:
            self.database.write(lambda c: buckets.empty_bucket(c, action, self.clock()))

    def _rate(self, action: str) -> Rate | None:
        """What EC2 takes of an action; None where that is not limited."""
        settings = self.settings
        burst, per_second = {
            RUN: (settings.run_instances_burst, settings.run_instances_rate),
            TERMINATE: (settings.terminate_instances_burst, settings.terminate_instances_rate),
        }[action]
        if per_second is None:
            per_second = 0 if settings.cloud == "simulated" else AMAZONS[action]
        return Rate(burst, per_second) if per_second else None
