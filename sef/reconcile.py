"""Making the world match the rows, for one agent or for all that have unfinished work.

A cycle for an agent alternates between deciding (in one transaction, without EC2) and acting (one
call to EC2, without a transaction) until there is nothing left to do now. It takes no hint of what
happened: a throttle, a crash or a lost answer is repaired by the ordinary path.
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.clock import Clock
from sef.cloud.ec2 import AGENT_TAG, MANAGED_TAG, Ec2
from sef.cloud.errors import THROTTLED, CloudError, Response
from sef.cloud.timing import Calls, timed
from sef.config import Settings
from sef.core.notices import Moment
from sef.core.policy import (
    AgentState,
    CloseIncident,
    CreateStandby,
    Outcome,
    Promote,
    Release,
    Rest,
    Step,
    next_step,
)
from sef.core.replica import Status
from sef.cutover import Cutovers
from sef.errors import Unavailable
from sef.launching import Launcher, avoid_pool_of, call_operator
from sef.limits import Allowance, Reached, tell
from sef.promotion import Promotion, promote
from sef.requests import TERMINATE, Requests
from sef.rounds import work_in_lanes
from sef.sightings import FORGOTTEN_AFTER, MISSING_FOR, Sight, is_due, note, told
from sef.store import fleet, incidents, replicas, storms
from sef.store.database import Database
from sef.store.deployment import deployment_name
from sef.store.events import Event, Severity, write_events
from sef.store.fleet import Agent, Due
from sef.store.incidents import Incident
from sef.store.replicas import Replica, Retirement

log = logging.getLogger("sef")

STEPS = 100
"""Steps of one cycle: more than any saga has, so that a defect cannot spin."""

NOT_SHOWN = "EC2 does not show it"
RETRY_AFTER = timedelta(seconds=4)


@dataclass(frozen=True, slots=True)
class Reconciler:
    database: Database
    cloud: Ec2
    launcher: Launcher
    cutovers: Cutovers
    requests: Requests
    settings: Settings
    clock: Clock

    def reconcile(self, agent_id: str, allowance: Allowance | None = None) -> list[str]:
        """Do all that can be done now for an agent; returns what was done, a sentence each.

        EC2 that cannot be reached or does not know is no error: the work is left for later. What
        the allowance does not let it terminate is, too; without one there is no end to it.
        """
        done: list[str] = []
        for _ in range(STEPS):
            try:
                said = self._decide(agent_id, is_first=not done) or self._act(
                    agent_id, allowance or Allowance(0)
                )
            except CloudError as error:
                self._postpone(agent_id, error)
                return [*done, f"EC2 could not say: {error}"]
            if said is None:
                break
            log.debug("agent %s: %s", agent_id, said)
            done.append(said)
        return done

    def reconcile_all(self) -> int:
        """One round over all agents with unfinished work; returns how many there were.

        While it lasts for some of them, whose calls to EC2 are slow, it takes up what has become
        due for the others meanwhile.
        """
        self._tell_of_storms(self.clock())
        allowances: list[Allowance] = []

        def begin_cycle() -> Callable[[str], None]:
            allowance = Allowance(self.settings.terminations_per_cycle)
            allowances.append(allowance)
            return lambda agent_id: self._reconcile_alone(agent_id, allowance)

        due = self._due()
        count = len(due)
        if count == 1 and not due[0].is_retry:
            begin_cycle()(due[0].agent_id)
        elif due:
            pause = self.settings.reconcile_interval
            count = work_in_lanes(due, self._due, begin_cycle, pause)
        for allowance in allowances:
            if allowance.refused:
                self._tell_of(allowance)
        return count

    def _due(self) -> Sequence[Due]:
        now = self.clock()
        checked_before = now - self._interval
        return self.database.read(
            lambda c: fleet.agents_with_work(c, now, checked_before=checked_before)
        )

    def _tell_of_storms(self, now: datetime) -> None:
        # Here and not with each signal: there the agents of a storm would wait for one another.
        for storm in self.database.read(lambda c: storms.storms(c, now)):
            self.database.write(lambda c, storm=storm: storms.tell(c, storm, now))  # type: ignore[misc]

    def _tell_of(self, allowance: Allowance) -> None:
        waiting = len(allowance.refused)
        due = self.settings.terminations_per_cycle + waiting
        reached = Reached("terminations_per_cycle", f"{due} instances were to be terminated")
        consequence = f"{waiting} wait for the next cycle"
        self.database.write(lambda c: tell(c, reached, consequence, self.clock()))

    def _reconcile_alone(self, agent_id: str, allowance: Allowance) -> None:
        """One agent's trouble must not stop the others."""
        try:
            self.reconcile(agent_id, allowance)
        except Unavailable:
            log.warning("SEF: the database is away; agent %s waits", agent_id)
        except Exception:
            log.exception("SEF: agent %s could not be reconciled", agent_id)

    def _decide(self, agent_id: str, *, is_first: bool) -> str | None:
        step, _, standby, incident = self.database.read(lambda c: self.next(c, agent_id))
        if isinstance(step, Rest):
            return None
        unseen = None
        if isinstance(step, Promote) and standby is not None and is_first:
            unseen = self._make_sure_of(
                standby, is_emergency=incident is None or incident.is_emergency
            )
        said, promotion = self.database.write(lambda c: self.apply(c, agent_id, unseen))
        if promotion is not None and promotion.incident_id is not None:
            self._stamp(promotion.incident_id)
        return said

    def next(
        self, connection: Connection, agent_id: str, *, lock: bool = False
    ) -> tuple[Step, Agent, Replica | None, Incident | None]:
        """The next thing to decide for an agent, and what it was decided from."""
        agent = fleet.read_agent(connection, agent_id, lock=lock)
        standby = replicas.live_standby(connection, agent_id)
        incident = incidents.open_incident(connection, agent_id)
        now = self.clock()
        step = next_step(
            agent.state(now),
            standby.status if standby else None,
            incident.state(agent) if incident else None,
            standby_ttl=timedelta(seconds=self.settings.standby_ttl),
            now=now,
        )
        if isinstance(step, CreateStandby) and agent.is_postponed(self.clock()):
            return Rest(), agent, standby, incident
        return step, agent, standby, incident

    def apply(
        self, connection: Connection, agent_id: str, unseen: str | None
    ) -> tuple[str | None, Promotion | None]:
        """Carry the next decision out, as far as it is rows; `unseen` is for `promote`."""
        step, agent, standby, incident = self.next(connection, agent_id, lock=True)
        now = self.clock()
        match step:
            case CreateStandby(replica_type, reason):
                incident_id = incident.id if incident else None
                replica_id = replicas.create_replica(
                    connection, agent_id, replica_type, reason, incident_id, now
                )
                if incident is not None:
                    incidents.update_incident(connection, incident, replica_id=replica_id)
            case Promote(reason) if standby is not None:
                retire_after = _retire_after(agent.state(now), incident, self.settings)
                promotion = promote(
                    connection,
                    agent,
                    standby,
                    incident,
                    reason,
                    now,
                    retire_after=retire_after,
                    settings=self.settings,
                    unseen=unseen,
                )
                return f"promoted {standby.instance_id}: {reason}", promotion
            case Release(reason) if standby is not None:
                replicas.move_replica(connection, standby, Status.RELEASING, reason, now)
            case CloseIncident(outcome, reason) if incident is not None:
                incidents.update_incident(
                    connection, incident, status=outcome, closed_at=now, reason=reason
                )
                is_failure = incident.kind.is_planned and outcome is Outcome.RELEASED
                event = Event(
                    "incident_closed",
                    f"{incident.kind} is {outcome}: {reason}",
                    agent_id,
                    "error" if is_failure else "info",
                    incident_id=incident.id,
                    moment=Moment.OUTCOME,
                )
                write_events(connection, [event], now)
            case _:
                return None, None
        return f"{type(step).__name__}: {step.reason}", None

    def _make_sure_of(self, standby: Replica, *, is_emergency: bool) -> str | None:
        """Look at a standby once more before it is promoted; return why that could not be done.

        When EC2 cannot say, it is promoted all the same if the primary is certain to be lost.

        Raises:
            CloudError: EC2 cannot say, and there is time to ask again.
        """
        try:
            self.see_standby(standby)
        except CloudError as error:
            if not is_emergency:
                raise
            log.warning("SEF: %s is promoted unseen: %s", standby.instance_id, error)
            return str(error)
        return None

    def _stamp(self, incident_id: str) -> None:
        """Write down the failover time once more, now that the promotion is committed."""

        def write(connection: Connection) -> None:
            incident = incidents.read_incident(connection, incident_id)
            if incident.replica_id is None:
                return
            milliseconds = incidents.complete_failover(
                connection,
                incident,
                incident.caused_by,
                incident.replica_id,
                self.clock(),
            )
            incidents.update_incident(connection, incident, failover_time_ms=milliseconds)

        self.database.write(write)

    def _act(self, agent_id: str, allowance: Allowance) -> str | None:
        # What serves goes before what stands by, and waits for no launch that is put off.
        said = self.cutovers.advance(agent_id)
        if said is not None:
            return said
        now = self.clock()
        agent = self.database.read(lambda c: fleet.read_agent(c, agent_id))
        if agent.is_postponed(self.clock()):
            return None
        standby, incident, releasing, retiring, superseded = self.database.read(
            lambda c: (
                replicas.live_standby(c, agent_id),
                incidents.open_incident(c, agent_id),
                replicas.releasing(c, agent_id),
                replicas.due_retirements(c, agent_id, now),
                replicas.superseded(c, agent_id),
            )
        )
        if standby is not None and standby.status is Status.LAUNCHING:
            said = self.launcher.advance(agent, standby, incident)
            if said is not None:
                return said
        for replica in releasing:
            if not replica.misses or self._is_unchecked(replica):
                said = self._release(replica, allowance)
                if said is not None:
                    return said
        for retirement in retiring:
            said = self._retire(retirement, allowance)
            if said is not None:
                return said
        former = [r for r in superseded if self._is_unchecked(r)]
        if standby is not None and standby.status is Status.READY and self._is_unchecked(standby):
            return f"the standby is looked after: {self.check_standby(standby)}"
        return self._check_former(former) if former else None

    def _is_unchecked(self, replica: Replica) -> bool:
        return is_due(replica, self.clock(), self._interval)

    @property
    def _interval(self) -> timedelta:
        return timedelta(seconds=self.settings.standby_check_interval)

    def _release(self, replica: Replica, allowance: Allowance) -> str | None:
        tries = self.database.read(lambda c: replicas.attempts(c, replica.id))
        if tries and tries[-1].status == "open":
            attempt = tries[-1]
            now = self.clock()
            if self.database.write(
                lambda c: replicas.drop_uncalled(c, attempt.client_token, "Released", now)
            ):
                return "what was not wanted any more was not launched"
            # Whether it launched anything is unknown. Repeating the call is the one sure way to
            # learn the instance's id: a look-up by tag can miss what EC2 has just launched.
            return self.launcher.run(replica, attempt)
        instance_id = replica.instance_id
        calls: Calls = []
        if instance_id is not None:
            if not (allowance.take(instance_id) and self.requests.may_terminate()):
                return None
            if (
                not self._terminate(instance_id, calls)
                # EC2 may not know it yet: its end has to be heard of, or it would run for ever.
                and self._look(replica, Sight.MISSING, MISSING_FOR) is not Sight.GONE
            ):
                return f"EC2 does not know {instance_id} yet, or any more"
        said = "released" if instance_id else "released before anything was launched"
        self._move(replica, Status.TERMINATED, said, calls)
        return said

    def _retire(self, retirement: Retirement, allowance: Allowance) -> str | None:
        agent_id, instance_id = retirement.agent_id, retirement.instance_id
        calls: Calls = []
        agent = self.database.read(lambda c: fleet.read_agent(c, agent_id))
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
            if is_unknown and (retirement.misses + 1) * self._interval < MISSING_FOR:
                until = self.clock() + self._interval
                self.database.write(lambda c: replicas.put_off_retirement(c, retirement, until))
                return f"EC2 does not know {instance_id} yet, or any more"
        if obstacle is None:
            said = f"terminated the former primary {instance_id}"
        else:
            said = f"{instance_id} is left running: {obstacle}"

        def write(connection: Connection) -> None:
            now = self.clock()
            if not replicas.finish_retirement(connection, instance_id, now, obstacle=obstacle):
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
            replica = replicas.replica_of_instance(connection, instance_id)
            is_former = replica is not None and replica.status is Status.PROMOTED
            if replica is not None and is_former and obstacle is None:
                replicas.move_replica(
                    connection, replica, Status.TERMINATED, retirement.reason, now
                )

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
            lambda c: (deployment_name(c), replicas.replica_of_instance(c, instance_id))
        )
        if launched is not None:
            return None
        instance = self.cloud.instances([instance_id]).get(instance_id)
        if instance is None:
            return NOT_SHOWN
        if instance.has_ended:
            return None
        if not instance.tags and self.cloud.has_tag(instance_id, MANAGED_TAG):
            raise CloudError("IncompleteAnswer", f"{instance_id} without its tags", Response.WAIT)
        ours = {MANAGED_TAG: name, AGENT_TAG: agent_id}
        for key, value in ours.items():
            if instance.tags.get(key, value) != value:
                return f"its tag {key} says {instance.tags[key]}, not {value}"
        try:
            timed(calls, "CreateTags", instance_id, lambda: self.cloud.tag(instance_id, ours))
        except CloudError as error:
            if error.response is not Response.OPERATOR:
                raise
            return (
                f"EC2 does not let SEF tag it ({error.code}), and SEF terminates nothing untagged"
            )
        return None

    def see_standby(self, standby: Replica) -> None:
        """Make sure that a ready standby still runs; one that does not has failed.

        Raises:
            CloudError: EC2 cannot say.
        """
        if self.check_standby(standby) in (Sight.UNTOLD, Sight.MISSING):
            raise does_not_tell(standby)

    def check_standby(self, standby: Replica) -> Sight:
        """Look whether a ready standby still runs; one that does not has failed."""
        assert standby.instance_id is not None
        instance = self.cloud.instances([standby.instance_id]).get(standby.instance_id)
        sight = self._look(standby, told(instance), MISSING_FOR)
        if sight is Sight.GONE:
            said = f"its instance is {instance.ec2_state if instance else 'not shown by EC2'}"
            self._move(standby, Status.FAILED, said)
        return sight

    def _check_former(self, former: Sequence[Replica]) -> str:
        known = self.cloud.instances([r.instance_id for r in former if r.instance_id])
        for replica in former:
            instance = known.get(replica.instance_id or "")
            # One that was stopped is its operator's still.
            is_kept = instance is not None and not instance.has_ended
            sight = Sight.RUNS if is_kept else told(instance)
            if self._look(replica, sight, FORGOTTEN_AFTER) is Sight.GONE:
                said = f"EC2 reports it {instance.ec2_state if instance else 'no more'}"
                self._move(replica, Status.TERMINATED, said)
        return "looked after former primaries"

    def _look(self, replica: Replica, sight: Sight, patience: timedelta) -> Sight:
        def write(connection: Connection) -> Sight:
            current = replicas.read_replica(connection, replica.id)
            if current is None or current.status is not replica.status:
                return sight  # somebody else has taken it further since
            now = self.clock()
            return note(connection, current, sight, now, every=self._interval, patience=patience)

        return self.database.write(write)

    def _move(self, seen: Replica, status: Status, reason: str, calls: Calls | None = None) -> None:
        def write(connection: Connection) -> None:
            self.move(connection, seen, status, reason, calls)

        self.database.write(write)

    def move(
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
            replicas.move_replica(
                connection, replica, status, reason, now, severity=severity, calls=calls or ()
            )

    def _postpone(self, agent_id: str, error: CloudError) -> None:
        def write(connection: Connection) -> None:
            now = self.clock()
            agent = fleet.read_agent(connection, agent_id, lock=True)
            # Jitter, so that a throttled fleet does not come back all at once.
            until = now + RETRY_AFTER * random.uniform(0.5, 1.5)
            is_news = agent.not_before is None or now - agent.not_before > timedelta(minutes=5)
            fleet.update_agent(connection, agent, now, not_before=until)
            said = f"EC2 could not say: {error}"
            is_refusal = error.response is Response.OPERATOR
            call_operator(connection, agent_id, said, now, at_once=is_refusal)
            if is_news:
                severity: Severity = "error" if is_refusal else "warning"
                incident = incidents.open_incident(connection, agent_id)
                event = Event(
                    "cloud_unavailable",
                    said,
                    agent_id,
                    severity,
                    {"code": error.code, "next": error.response, "call": error.call},
                    incident.id if incident else None,
                )
                write_events(connection, [event], now)

        self.database.write(write)


def does_not_tell(standby: Replica) -> CloudError:
    said = f"EC2 does not tell whether {standby.instance_id} runs"
    return CloudError("IncompleteAnswer", said, Response.WAIT)


def _retire_after(
    agent: AgentState, incident: Incident | None, settings: Settings
) -> timedelta | None:
    """When to terminate the old primary after an automatic switch; None: not by us.

    What AWS has given notice to, AWS terminates. A planned switchover leaves nothing behind.
    """
    if incident is not None and incident.kind.is_planned:
        return timedelta(seconds=settings.drain)
    if incident is not None and not incident.is_emergency and agent.auto_terminate:
        return timedelta(seconds=settings.drain)
    return None
