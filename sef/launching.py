"""From the wish for a standby to an instance that runs, one committed step at a time.

Each method does one step and says what it did, or returns None when there is nothing to do yet.
The order is always: write down the RunInstances call with its token, commit, make the call, write
down the answer. Whoever finds the rows, after a crash or a time-out, goes on from there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection

from sef.clock import Clock
from sef.cloud.ec2 import (
    AGENT_TAG,
    ATTEMPT_TAG,
    MANAGED_TAG,
    REPLICA_TAG,
    Ec2,
    LaunchSource,
    launch_parameters,
)
from sef.cloud.errors import SPOT_QUOTA, THROTTLED, CloudError, Response
from sef.cloud.moves import Moves
from sef.config import Settings
from sef.core import risk
from sef.core.notices import Moment
from sef.core.policy import Kind, Outcome
from sef.core.pools import Candidate, Pool, parse_pool, rank
from sef.core.replica import Market, Status
from sef.limits import launch_limit, tell
from sef.requests import KEPT_FOR_EMERGENCIES, RUN, Requests
from sef.sightings import MISSING_FOR, Sight, note
from sef.store import incidents, replicas
from sef.store.database import Database
from sef.store.deployment import deployment_name
from sef.store.events import Event, write_events
from sef.store.fleet import Agent, read_agent, update_agent
from sef.store.incidents import Incident
from sef.store.pools import pool_histories
from sef.store.replicas import Attempt, Replica

LOAD_COUNTS_FOR = timedelta(minutes=5)
"""How long a launch counts when the next ones are spread over the pools."""

REPEATED_AFTER = timedelta(seconds=1)
"""An attempt that is older has most likely been called before."""

RETRY_EMERGENCY = timedelta(seconds=10)
RETRY = timedelta(seconds=60)
RETRY_OPERATOR = timedelta(minutes=5)
"""Until the next standby is tried, after one failed: in need of one, otherwise, and when EC2's
refusal will most likely need a person."""


class NoLaunchSource(Exception):
    """Nothing says what a new instance of this agent should be like."""


class CalledMeanwhile(Exception):
    """Another worker makes the call, or has: the token that was taken for it is given back."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What EC2 says about the standbys that an agent could have."""

    source: LaunchSource
    pools: Sequence[Pool]
    prices: Mapping[str, Decimal]
    zone: str | None
    """Where it could be given the agent's volumes and interface; None if it has none."""


@dataclass(frozen=True, slots=True)
class Launcher:
    database: Database
    cloud: Ec2
    moves: Moves
    requests: Requests
    settings: Settings
    clock: Clock
    on_demand_prices: Mapping[str, Decimal]

    def advance(self, agent: Agent, replica: Replica, incident: Incident | None) -> str | None:
        """Take a launching replica one step further.

        Raises:
            CloudError: EC2 could not say; the same step is to be repeated.
        """
        # The replica last: if it is still the one that was read, so old the attempts are not.
        tries, current = self.database.read(
            lambda c: (replicas.attempts(c, replica.id), replicas.read_replica(c, replica.id))
        )
        if current != replica:
            return "another worker took it further"
        if tries and tries[-1].status == "open":
            return self.run(replica, tries[-1], incident)
        if tries and tries[-1].status == "launched":
            return self._await_running(agent, replica)
        return self._plan(agent, replica, incident, tries)

    def run(
        self, replica: Replica, attempt: Attempt, incident: Incident | None = None
    ) -> str | None:
        """Make, or repeat, the call of an open attempt and write down EC2's answer.

        None while there is no token for the call, or others need it more.
        """
        if not self._may_call(attempt, incident):
            return None
        where = f"{attempt.market} in {attempt.pool_id}"
        try:
            instance_id = self._run(attempt)
        except CloudError as error:
            if error.code in THROTTLED:
                self.requests.refused(RUN)
            if error.response is Response.WAIT:
                raise
            refusal = error
            self.database.write(lambda c: self._refused(c, replica, attempt, refusal))
            return f"EC2 refused {where}: {error.code}"
        self.database.write(lambda c: self._launched(c, replica, attempt, instance_id))
        return f"launched {instance_id}, {where}"

    def _may_call(self, attempt: Attempt, incident: Incident | None) -> bool:
        """Take a token for the call, once those whose deadline is closer can have one each."""

        def left(connection: Connection) -> int:
            if incident is not None and incident.is_emergency:
                return replicas.emergencies_waiting(connection, incident.deadline)
            return replicas.emergencies_waiting(connection, None) + KEPT_FOR_EMERGENCIES

        def take(connection: Connection) -> bool:
            if not self.requests.take_for_launch(connection, left):
                return False
            if not replicas.note_call(connection, attempt):
                raise CalledMeanwhile
            return True

        # Most of those who wait need not write to learn that they have to.
        if not self.database.read(lambda c: self.requests.may_have_token(c, left)):
            return False
        try:
            return self.database.write(take)
        except CalledMeanwhile:
            return False

    def _run(self, attempt: Attempt) -> str:
        try:
            return self.cloud.run(attempt.parameters, attempt.client_token)
        except CloudError as error:
            is_repeat = self.clock() - attempt.created_at >= REPEATED_AFTER
            if error.response is Response.WAIT or not (
                is_repeat or error.response is Response.NEW_TOKEN
            ):
                raise
            # The token is spent, or a call before this one may have been done all the same: what
            # it launched, if anything, carries its tag.
            found = self.cloud.launched_by(attempt.client_token)
            if found is None:
                raise
            return found.id

    def _launched(
        self, connection: Connection, told: Replica, attempt: Attempt, instance_id: str
    ) -> None:
        now = self.clock()
        token = attempt.client_token
        if replicas.close_attempt(connection, token, now, instance_id=instance_id):
            replica = replicas.read_replica(connection, told.id)
            # Also of a replica that was released meanwhile: its instance is to be terminated.
            if replica is not None:
                replicas.change_replica(
                    connection, replica, instance_id=instance_id, launched_at=now
                )
        elif replicas.attempt_instance(connection, token) != instance_id:
            # The same call was refused to another worker, who has gone on to another pool.
            reason = f"launched by {token} after that was refused"
            replicas.retire(connection, told.agent_id, instance_id, reason, now, told.incident_id)

    def _refused(
        self, connection: Connection, replica: Replica, attempt: Attempt, error: CloudError
    ) -> None:
        now = self.clock()
        if not replicas.close_attempt(connection, attempt.client_token, now, error_code=error.code):
            return
        needs_operator = error.response is Response.OPERATOR
        write_events(
            connection,
            [
                Event(
                    "launch_refused",
                    f"EC2 refused {attempt.market} in {attempt.pool_id}: {error}",
                    replica.agent_id,
                    "error" if needs_operator else "warning",
                    {
                        "replica_id": replica.id,
                        "token": attempt.client_token,
                        "code": error.code,
                        "next": error.response,
                        "ms": round((now - attempt.created_at) / timedelta(milliseconds=1)),
                    },
                    replica.incident_id,
                )
            ],
            now,
        )
        if error.response is Response.NEXT_POOL:
            until = now + timedelta(seconds=self.settings.pool_cooldown)
            replicas.mark_unavailable(
                connection, attempt.pool_id, attempt.market, error.code, until
            )
            replicas.drop_uncalled_in_pool(
                connection, attempt.pool_id, attempt.market, error.code, now
            )
        if needs_operator and replica.status is Status.LAUNCHING:
            self._give_up(connection, replica, f"EC2 refuses: {error.code}", RETRY_OPERATOR)

    def _plan(
        self,
        agent: Agent,
        replica: Replica,
        incident: Incident | None,
        tries: Sequence[Attempt],
    ) -> str | None:
        now = self.clock()
        if self.database.read(lambda c: launch_limit(c, agent.id, now, self.settings)):
            # EC2 need not be asked what to launch.
            put_off = self.database.write(lambda c: self._hold_back(c, replica, incident))
            if put_off is not None:
                return put_off
        try:
            survey = self.survey(agent)
        except NoLaunchSource as reason:
            explained = str(reason)
            return self.database.write(
                lambda c: self._give_up(c, replica, explained, RETRY_OPERATOR)
            )
        except CloudError as error:
            if error.response is Response.WAIT:
                raise
            explained = f"the launch parameters cannot be read: {error}"
            return self.database.write(
                lambda c: self._give_up(c, replica, explained, RETRY_OPERATOR)
            )
        candidates = self.database.read(
            lambda c: self.candidates(c, agent, incident, survey, tries)
        )
        return self.database.write(
            lambda c: self.decide_launch(c, replica, incident, tries, survey.source, candidates)
        )

    def decide_launch(
        self,
        connection: Connection,
        replica: Replica,
        incident: Incident | None,
        tries: Sequence[Attempt],
        source: LaunchSource,
        candidates: Sequence[Candidate],
    ) -> str | None:
        """Commit to a launch into the best candidate, give up, or put off; None: too late."""
        if replicas.read_replica(connection, replica.id) != replica:
            return None  # somebody else has taken it further since
        put_off = self._hold_back(connection, replica, incident)
        if put_off is not None:
            return put_off
        if not candidates:
            refusals = ", ".join(sorted({str(a.error_code) for a in tries})) or "all cooling down"
            is_emergency = incident is not None and incident.is_emergency
            pause = RETRY_EMERGENCY if is_emergency else RETRY
            return self._give_up(connection, replica, f"no pool has capacity ({refusals})", pause)
        best = candidates[0]
        token = f"{replica.id}-{len(tries) + 1}"
        tags = {
            MANAGED_TAG: deployment_name(connection),
            AGENT_TAG: replica.agent_id,
            REPLICA_TAG: replica.id,
            ATTEMPT_TAG: token,
        }
        parameters = launch_parameters(
            source, best.pool, spot=best.market is Market.SPOT, tags=tags
        )
        replicas.change_replica(connection, replica, pool_id=str(best.pool), market=best.market)
        now = self.clock()
        replicas.open_attempt(
            connection,
            replica,
            len(tries) + 1,
            token,
            str(best.pool),
            best.market,
            parameters,
            now,
        )
        said = f"launching {best.reason}, like {source.described_as}"
        considered = [candidate.reason for candidate in candidates[:10]]
        event = Event(
            "launch_decided",
            said,
            replica.agent_id,
            details={"replica_id": replica.id, "token": token, "candidates": considered},
            incident_id=replica.incident_id,
        )
        write_events(connection, [event], now)
        return said

    def _hold_back(
        self, connection: Connection, replica: Replica, incident: Incident | None
    ) -> str | None:
        """Put a launch off that a limit forbids, and call the operator; None if none does.

        The replica stays as it is: nothing failed, and it goes on by itself.
        """
        now = self.clock()
        limit = launch_limit(connection, replica.agent_id, now, self.settings, is_decision=True)
        if limit is None or replicas.read_replica(connection, replica.id) != replica:
            return None
        tell(connection, limit, "no instance is launched", now, incident_id=replica.incident_id)
        if incident is not None and incident.kind.is_planned:
            return self._give_up(connection, replica, limit.reason, RETRY_OPERATOR)
        is_emergency = incident is not None and incident.is_emergency
        pause = RETRY_EMERGENCY if is_emergency else RETRY
        agent = read_agent(connection, replica.agent_id, lock=True)
        update_agent(connection, agent, now, not_before=now + pause)
        call_operator(connection, agent.id, limit.reason, now, at_once=True)
        return f"put off: {limit.reason}"

    def _await_running(self, agent: Agent, replica: Replica) -> str | None:
        now = self.clock()
        assert replica.instance_id is not None
        assert replica.launched_at is not None
        age = now - replica.launched_at
        instance = self.cloud.instances([replica.instance_id]).get(replica.instance_id)
        if instance is None:
            return self.database.write(lambda c: self._missed(c, replica))
        if instance.is_gone:
            said = f"its instance is {instance.ec2_state}"
            return self.database.write(lambda c: self._died(c, replica, said))
        if instance.ec2_state == "running":
            pool = str(instance.pool) if instance.pool else str(replica.pool_id)
            return self.database.write(lambda c: self.take_ready(c, replica, pool))
        if age >= timedelta(seconds=self.settings.launch_timeout):
            said = f"does not run after {self.settings.launch_timeout:.0f} s"
            return self.database.write(lambda c: self._too_slow(c, replica, said))
        return None

    def _missed(self, connection: Connection, told: Replica) -> str | None:
        """EC2 does not show it, or not yet. It may run: it is terminated, not only given up."""
        replica = replicas.read_replica(connection, told.id)
        if replica != told:
            return None
        every = timedelta(seconds=self.settings.standby_check_interval)
        sight = note(
            connection, replica, Sight.MISSING, self.clock(), every=every, patience=MISSING_FOR
        )
        if sight is not Sight.GONE:
            return None
        current = replicas.read_replica(connection, told.id)
        assert current is not None
        return self._too_slow(connection, current, "EC2 does not show it")

    def take_ready(self, connection: Connection, replica: Replica, pool_id: str) -> str | None:
        """Write down that a launched instance runs; None: too late."""
        if replicas.read_replica(connection, replica.id) != replica:
            return None
        now = self.clock()
        signalled = incidents.latest_incident(
            connection, replica.agent_id, str(replica.instance_id)
        )
        if signalled is not None:
            # AWS announced its end before it was known whose it is.
            said = "AWS announced its end while it was launching"
            avoid_pool_of(connection, replica, "Signalled", now, self.settings)
            replicas.move_replica(
                connection, replica, Status.RELEASING, said, now, severity="warning"
            )
            return said
        seconds = (now - replica.created_at).total_seconds()
        said = f"runs in {pool_id} after {seconds:.1f} s"
        replicas.move_replica(
            connection, replica, Status.READY, said, now, pool_id=pool_id, checked_at=now
        )
        incident = incidents.open_incident(connection, replica.agent_id)
        if incident is not None and incident.status is Outcome.NEEDS_OPERATOR:
            incidents.update_incident(connection, incident, status=Outcome.OPEN)
        return said

    def _too_slow(self, connection: Connection, replica: Replica, said: str) -> str | None:
        if replicas.read_replica(connection, replica.id) != replica:
            return None
        now = self.clock()
        avoid_pool_of(connection, replica, "TooSlow", now, self.settings)
        replicas.move_replica(connection, replica, Status.RELEASING, said, now, severity="warning")
        call_operator(connection, replica.agent_id, said, now)
        return said

    def _died(self, connection: Connection, replica: Replica, reason: str) -> str | None:
        avoid_pool_of(connection, replica, "DiedWhileLaunching", self.clock(), self.settings)
        return self._give_up(connection, replica, reason, RETRY_EMERGENCY)

    def _give_up(
        self, connection: Connection, replica: Replica, reason: str, pause: timedelta
    ) -> str | None:
        if replicas.read_replica(connection, replica.id) != replica:
            return None
        now = self.clock()
        replicas.move_replica(connection, replica, Status.FAILED, reason, now, severity="error")
        agent = read_agent(connection, replica.agent_id, lock=True)
        update_agent(connection, agent, now, not_before=now + pause)
        call_operator(connection, agent.id, reason, now, at_once=pause is RETRY_OPERATOR)
        return f"gave up: {reason}"

    def _source(self, agent: Agent) -> LaunchSource:
        if agent.launch_template:
            return self.cloud.like_template(agent.launch_template, vpc_of=agent.instance_id)
        like = self.cloud.like_instance(agent.instance_id) if agent.instance_id else None
        if like is not None:
            return like
        if self.settings.launch_template:
            source = self.cloud.like_template(self.settings.launch_template)
            pool = parse_pool(agent.pool_id)
            if pool is not None:
                return replace(source, instance_type=pool.instance_type)
            return source
        raise NoLaunchSource(
            "it has no launch template, EC2 knows no instance of it, and SEF_LAUNCH_TEMPLATE "
            "is not set"
        )

    def survey(self, agent: Agent) -> Survey:
        """Ask EC2 what a standby of this agent would be like, and where it could be.

        Raises:
            NoLaunchSource: nothing says what it should be like.
            CloudError: EC2 could not say, or refuses to.
        """
        source = self._source(agent)
        pools = [pool for pool in map(parse_pool, self.settings.pool_list) if pool is not None]
        if not pools:
            if source.instance_type is None:
                raise NoLaunchSource(
                    f"{source.described_as} names no instance type, and SEF_POOLS is empty"
                )
            zones = source.subnets or self.cloud.zones()
            pools = [Pool(source.instance_type, zone) for zone in zones]
        try:
            prices = self.cloud.spot_prices({pool.instance_type for pool in pools}, self.clock())
        except CloudError:
            prices = {}  # a standby without the best price is better than none
        return Survey(source, pools, prices, self._zone(agent))

    def candidates(
        self,
        connection: Connection,
        agent: Agent,
        incident: Incident | None,
        survey: Survey,
        tries: Sequence[Attempt] = (),
    ) -> Sequence[Candidate]:
        """The pools to try, best first, after those that were tried already; nothing is written."""
        now = self.clock()
        settings = self.settings
        pools, source = survey.pools, survey.source
        settled_after = timedelta(seconds=settings.standby_ttl)
        histories = pool_histories(connection, now, settled_after)
        cooling = replicas.unavailable(connection, now)
        loads = replicas.spot_launches_since(connection, now - LOAD_COUNTS_FOR)
        tried = {(attempt.pool_id, attempt.market) for attempt in tries}
        if any(attempt.error_code in SPOT_QUOTA for attempt in tries):
            tried |= {(str(pool), Market.SPOT) for pool in pools}
        kind = incident.kind if incident else None
        is_emergency = incident is not None and incident.is_emergency
        pasts = {str(pool): histories.get(str(pool), risk.History()) for pool in pools}
        risks = {pool: risk.assess_for_launch(past).score for pool, past in pasts.items()}
        if kind is Kind.RETURN:
            # One termination without a recommendation must not close a pool for 90 days.
            pools = [p for p in pools if risk.assess(pasts[str(p)]).score <= risk.UNKNOWN]

        def ranked(excluded: Collection[tuple[str, Market]]) -> list[Candidate]:
            return rank(
                pools,
                avoid=source.primary_pool or parse_pool(agent.pool_id),
                excluded=excluded,
                risks=risks,
                spot_prices=survey.prices,
                on_demand_prices=self.on_demand_prices,
                loads=loads,
                on_demand=is_emergency or (settings.on_demand_allowed and kind is not Kind.RETURN),
                zone=survey.zone,
            )

        best = ranked({*cooling, *tried})
        # With two minutes left a pool that had nothing a minute ago is better than none.
        return ranked(tried) if is_emergency and not best else best

    def _zone(self, agent: Agent) -> str | None:
        if agent.cutover is None:
            return None
        try:
            return self.moves.zone_of(agent.cutover)
        except CloudError:
            return None  # the cutover says what is wrong with it; a standby is needed now


def call_operator(
    connection: Connection, agent_id: str, reason: str, now: datetime, *, at_once: bool = False
) -> None:
    """Say that an agent's incident is stuck: at once, or once its deadline is over.

    It is still tried again: what a person mends goes on by itself.
    """
    incident = incidents.open_incident(connection, agent_id)
    if incident is None or incident.status is Outcome.NEEDS_OPERATOR:
        return
    if not at_once and (incident.deadline is None or now < incident.deadline):
        return
    incidents.update_incident(connection, incident, status=Outcome.NEEDS_OPERATOR)
    event = Event(
        "operator_needed",
        f"{incident.subject} cannot be replaced without help: {reason}",
        incident.agent_id,
        "error",
        incident_id=incident.id,
        moment=Moment.OPERATOR,
    )
    write_events(connection, [event], now)


def avoid_pool_of(
    connection: Connection, replica: Replica, why: str, now: datetime, settings: Settings
) -> None:
    """Leave the pool alone in which a replica came to grief."""
    if replica.pool_id and replica.market:
        until = now + timedelta(seconds=settings.pool_cooldown)
        replicas.mark_unavailable(connection, replica.pool_id, replica.market, why, until)


def avoid_interrupted_pool(
    connection: Connection, pool_id: str | None, now: datetime, settings: Settings
) -> None:
    """Leave the pool alone in which AWS takes instances: it seldom takes only one."""
    if pool_id is not None:
        until = now + timedelta(seconds=settings.interrupted_pool_cooldown)
        replicas.mark_unavailable(connection, pool_id, Market.SPOT, "Interrupted", until)
