"""Ending instances that are not wanted any more: released standbys and former primaries."""

from dataclasses import dataclass, replace

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.clock import Clock
from sef.cloud.ec2 import AGENT_TAG, MANAGED_TAG, Calls, Ec2, timed
from sef.cloud.errors import THROTTLED, CloudError, Remedy
from sef.db.database import Database
from sef.db.leases import deployment_name
from sef.failover.instances import attempts
from sef.failover.instances.limits import TerminationBudget
from sef.failover.instances.rate_limit import TERMINATE, RateLimiter
from sef.failover.instances.run_instances import LaunchCalls
from sef.failover.standbys.retirements import Retirement, finish_retirement, postpone_retirement
from sef.failover.standbys.rows import Replica, move_replica, replica_of_instance
from sef.failover.standbys.watch import MISSING_FOR, HealthChecks, Observed
from sef.notifications.events import Event, Severity, write_events
from sef.terms import ReplicaStatus

NOT_SHOWN = "EC2 does not show it"


@dataclass(frozen=True, slots=True)
class Retiring:
    """Both steps return what was done, or None while it may not be done yet."""

    database: Database
    cloud: Ec2
    launch_calls: LaunchCalls
    watch: HealthChecks
    requests: RateLimiter
    clock: Clock

    def release(self, replica: Replica, allowance: TerminationBudget) -> str | None:
        tries = self.database.read(lambda c: attempts.attempts_of(c, replica.id))
        if tries and tries[-1].status == "open":
            attempt = tries[-1]
            now = self.clock()
            if self.database.write(
                lambda c: attempts.cancel_unsent(c, attempt.client_token, "Released", now)
            ):
                return "what was not wanted any more was not launched"
            # Whether it launched anything is unknown. Repeating the call is the one sure way to
            # learn the instance's id: a look-up by tag can miss what EC2 has just launched.
            return self.launch_calls.make(attempt)
        instance_id = replica.instance_id
        calls: Calls = []
        if instance_id is not None:
            if not (allowance.take(instance_id) and self.requests.may_terminate()):
                return None
            if (
                not self._terminate(instance_id, calls)
                # EC2 may not know it yet: its end has to be heard of, or it would run for ever.
                and self.watch.look(replica, Observed.MISSING, MISSING_FOR) is not Observed.GONE
            ):
                return f"EC2 does not know {instance_id} yet, or any more"
        said = "released" if instance_id else "released before anything was launched"
        self.watch.move(replica, ReplicaStatus.TERMINATED, said, calls)
        return said

    def retire(self, retirement: Retirement, allowance: TerminationBudget) -> str | None:
        agent_id, instance_id = retirement.agent_id, retirement.instance_id
        calls: Calls = []
        agent = self.database.read(lambda c: read_agent(c, agent_id))
        if agent.instance_id == instance_id:
            obstacle: str | None = "it is the primary again"
        else:
            obstacle = self._obstacle(agent_id, instance_id, calls)
            if obstacle is None and not (
                allowance.take(instance_id) and self.requests.may_terminate()
            ):
                return None
            is_unknown = obstacle == NOT_SHOWN or (
                obstacle is None and not self._terminate(instance_id, calls)
            )
            if is_unknown and (retirement.misses + 1) * self.watch.interval < MISSING_FOR:
                until = self.clock() + self.watch.interval
                self.database.write(lambda c: postpone_retirement(c, retirement, until))
                return f"EC2 does not know {instance_id} yet, or any more"
        if obstacle is None:
            said = f"terminated the former primary {instance_id}"
        else:
            said = f"{instance_id} is left running: {obstacle}"

        def write(connection: Connection) -> None:
            now = self.clock()
            if not finish_retirement(connection, instance_id, now, obstacle=obstacle):
                return
            severity: Severity = "warning" if obstacle else "info"
            event = Event(
                "primary_retired",
                said,
                agent_id,
                severity,
                {"instance_id": instance_id, "calls": calls},
                retirement.incident_id,
            )
            write_events(connection, [event], now)
            replica = replica_of_instance(connection, instance_id)
            is_former = replica is not None and replica.status is ReplicaStatus.PROMOTED
            if replica is not None and is_former and obstacle is None:
                # What it was launched for is long over: its end belongs to what ends it.
                ended = replace(replica, incident_id=retirement.incident_id)
                move_replica(connection, ended, ReplicaStatus.TERMINATED, retirement.reason, now)

        self.database.write(write)
        return said

    def _terminate(self, instance_id: str, calls: Calls) -> bool:
        """False when EC2 does not know it, yet or any more."""
        terminate = self.cloud.terminate
        try:
            return timed(calls, TERMINATE, instance_id, lambda: terminate(instance_id))
        except CloudError as error:
            if error.code in THROTTLED:
                self.requests.refused(TERMINATE)
            raise

    def _obstacle(self, agent_id: str, instance_id: str, calls: Calls) -> str | None:
        """Why a former primary must not be terminated; None if it may. Calls made are added.

        Only what carries this SEF's tags is terminated. What SEF has launched does. An instance
        that was registered is given them now, unless it belongs to somebody else by its tags.
        """
        name, launched = self.database.write(
            lambda c: (deployment_name(c), replica_of_instance(c, instance_id))
        )
        if launched is not None:
            return None
        instance = self.cloud.instances([instance_id]).get(instance_id)
        if instance is None:
            return NOT_SHOWN
        if instance.has_ended:
            return None
        if not instance.tags and self.cloud.has_tag(instance_id, MANAGED_TAG):
            raise CloudError("IncompleteAnswer", f"{instance_id} without its tags", Remedy.WAIT)
        ours = {MANAGED_TAG: name, AGENT_TAG: agent_id}
        for key, value in ours.items():
            if instance.tags.get(key, value) != value:
                return f"its tag {key} says {instance.tags[key]}, not {value}"
        try:
            timed(calls, "CreateTags", instance_id, lambda: self.cloud.tag(instance_id, ours))
        except CloudError as error:
            if error.response is not Remedy.OPERATOR:
                raise
            return (
                f"EC2 does not let SEF tag it ({error.code}), and SEF terminates nothing untagged"
            )
        return None
