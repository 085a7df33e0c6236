"""RunInstances: what EC2 is asked for, once or again, and writing down what it answers.

Attempts that wait for a token and differ in nothing but whose they are join one call. It is
committed before it is made, and its answer is written in one transaction for all of them, so that
whoever finds one of them can repeat it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from sqlalchemy import Connection

from sef.clock import Clock
from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, REPLICA_TAG, Ec2
from sef.cloud.errors import QUOTA, THROTTLED, CloudError, Response
from sef.cloud.parameters import shared
from sef.config import Settings
from sef.core.replica import Status
from sef.requests import KEPT_FOR_EMERGENCIES, RUN, Requests
from sef.setbacks import RETRY_OPERATOR, give_up
from sef.store import launches, replicas
from sef.store.database import Database
from sef.store.events import Event, write_events
from sef.store.incidents import Incident
from sef.store.launches import Attempt, LaunchCall, Untagged

log = logging.getLogger("sef")

REPEATED_AFTER = timedelta(seconds=1)
"""An attempt that is older has most likely been called before."""

ANSWERED_WITHIN = timedelta(seconds=3)
"""So long a call for several is left to the one who makes it: the others find its answer."""

NOT_GRANTED = "NotGranted"
"""EC2 launched fewer instances than it was asked for: there was no room for this one."""


class CalledMeanwhile(Exception):
    """Another worker makes the call, or has: the token that was taken for it is given back."""


@dataclass(frozen=True, slots=True)
class LaunchCalls:
    database: Database
    cloud: Ec2
    requests: Requests
    settings: Settings
    clock: Clock

    def make(self, attempt: Attempt, incident: Incident | None = None) -> str | None:
        """Make, or repeat, the call of an open attempt and write down EC2's answer.

        None while there is no token for the call, others need it more, or another worker makes it.

        Raises:
            CloudError: what came of it is not known; the call is to be repeated.
        """
        call = self._begin(attempt, incident)
        if call is None:
            return None
        where = f"{attempt.market} in {attempt.pool_id}"
        try:
            found = self._run(call, attempt)
        except CloudError as error:
            if error.code in THROTTLED:
                self.requests.refused(RUN)
            if error.response is Response.WAIT:
                raise
            refusal = error
            self.database.write(lambda c: self._refused(c, call, refusal))
            return f"EC2 refused {where}: {error.code}"
        self.database.write(lambda c: self._launched(c, call, found))
        return f"launched {', '.join(found)}, {where}"

    def tag(self, instances: Sequence[Untagged]) -> None:
        """Give instances the tags of their agents.

        EC2 that does not let it, or does not know one of them yet, holds up nothing: it stays to be
        done.
        """
        for instance in instances:
            tags = {
                AGENT_TAG: instance.agent_id,
                REPLICA_TAG: instance.replica_id,
                ATTEMPT_TAG: instance.client_token,
            }
            try:
                self.cloud.tag(instance.instance_id, tags)
            except CloudError as error:
                log.warning("SEF: %s has no tags of its own yet: %s", instance.instance_id, error)
                continue
            token = instance.client_token
            self.database.write(lambda c, t=token: launches.note_tagged(c, t, self.clock()))  # type: ignore[misc]

    def tag_the_rest(self) -> None:
        """Tag what could not be tagged while its agent was worked on."""
        self.tag(self.database.read(launches.untagged))

    def _begin(self, attempt: Attempt, incident: Incident | None) -> LaunchCall | None:
        """Take a token for the call, once those whose deadline is closer can have one each."""

        def left(connection: Connection) -> int:
            deadline = incident.deadline if incident and incident.is_emergency else None
            kept = 0 if incident and incident.is_emergency else KEPT_FOR_EMERGENCIES
            shape = attempt.shape
            return kept + launches.emergencies_waiting(connection, deadline, other_than=shape)

        def take(connection: Connection) -> LaunchCall | None:
            if not self.requests.take_for_launch(connection, left):
                return None
            now = self.clock()
            others = launches.alike(connection, attempt) if joins else ()
            if others:
                token = f"call-{uuid4().hex}"
                tokens = [attempt.client_token, *others]
                parameters = shared(attempt.parameters, token)
                return launches.join(connection, tokens, token, parameters, now)
            if not launches.note_call(connection, call, now):
                raise CalledMeanwhile
            return call

        # Where calls are not counted, each is made at once, and nobody has to wait for another's.
        joins = attempt.calls == 0 and self.requests.are_counted(RUN)
        call = self.database.read(lambda c: launches.call_of(c, attempt))
        if call.made_at is not None:
            # What lies in the future was written by a clock that is ahead.
            ago = self.clock() - call.made_at
            if timedelta(0) <= ago < ANSWERED_WITHIN:
                return None
        # Most of those who wait need not write to learn that they have to.
        if not self.database.read(lambda c: self.requests.may_have_token(c, left)):
            return None
        try:
            return self.database.write(take)
        except CalledMeanwhile:
            return None

    def _run(self, call: LaunchCall, attempt: Attempt) -> Sequence[str]:
        try:
            found = self.cloud.run_several(call.parameters, call.client_token, call.size)
        except CloudError as error:
            is_repeat = self.clock() - attempt.created_at >= REPEATED_AFTER
            if error.response is Response.WAIT or not (
                is_repeat or error.response is Response.NEW_TOKEN
            ):
                raise
            # The token is spent, or a call before this one may have been done all the same: what
            # it launched, if anything, carries its tag.
            found = [instance.id for instance in self.cloud.launched_by(call.client_token)]
            if not found:
                raise
        # In one order, whoever asks: two workers give the same instances to the same agents.
        return sorted(found)

    def _launched(self, connection: Connection, call: LaunchCall, found: Sequence[str]) -> None:
        now = self.clock()
        members = launches.members(connection, call)
        taken = {member.instance_id for member in members}
        is_answered = all(member.status != "open" for member in members)
        if not is_answered:
            for member, instance_id in zip(members, found, strict=False):
                token = member.client_token
                launches.close_attempt(connection, token, now, instance_id=instance_id)
                taken.add(instance_id)
                replica = replicas.read_replica(connection, member.replica_id)
                # Also of a replica that was released meanwhile: its instance is to be terminated.
                if replica is not None:
                    replicas.change_replica(
                        connection, replica, instance_id=instance_id, launched_at=now
                    )
            told = f"EC2 launched {len(found)} of {call.size} instances."
            lacking = CloudError(NOT_GRANTED, told, Response.NEXT_POOL)
            self._refuse(connection, members[len(found) :], call, lacking)
        # The same call was refused to another worker, whose agents have gone on to other pools.
        reason = f"launched by {call.client_token} after that was refused"
        replica = replicas.read_replica(connection, members[0].replica_id)
        for instance_id in found:
            if instance_id not in taken and replica is not None:
                replicas.retire(
                    connection, replica.agent_id, instance_id, reason, now, replica.incident_id
                )

    def _refused(self, connection: Connection, call: LaunchCall, error: CloudError) -> None:
        members = launches.members(connection, call)
        if any(member.status == "open" for member in members):
            self._refuse(connection, members, call, error)

    def _refuse(
        self,
        connection: Connection,
        members: Sequence[Attempt],
        call: LaunchCall,
        error: CloudError,
    ) -> None:
        now = self.clock()
        needs_operator = error.response is Response.OPERATOR
        for member in members:
            launches.close_attempt(connection, member.client_token, now, error_code=error.code)
            replica = replicas.read_replica(connection, member.replica_id)
            if replica is None:
                continue
            details = {
                "replica_id": replica.id,
                "token": member.client_token,
                "code": error.code,
                "next": error.response,
                "ms": round((now - member.created_at) / timedelta(milliseconds=1)),
            }
            together = f", one of {call.size}" if call.size > 1 else ""
            event = Event(
                "launch_refused",
                f"EC2 refused {member.market} in {member.pool_id}{together}: {error}",
                replica.agent_id,
                "error" if needs_operator else "warning",
                details | ({"one_of": call.size} if call.size > 1 else {}),
                replica.incident_id,
            )
            write_events(connection, [event], now)
            if needs_operator and replica.status is Status.LAUNCHING:
                give_up(connection, replica, f"EC2 refuses: {error.code}", RETRY_OPERATOR, now)
        is_too_many = call.size > 1 and error.code in QUOTA
        if error.response is Response.NEXT_POOL and members and not is_too_many:
            pool_id, market = members[0].pool_id, members[0].market
            pause = timedelta(seconds=self.settings.pool_cooldown)
            replicas.mark_unavailable(connection, pool_id, market, error.code, now, pause)
            launches.drop_uncalled_in_pool(connection, pool_id, market, error.code, now)
