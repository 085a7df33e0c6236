"""Play a random story with agents, signals, operators, faults and restarts, against a model.

Every step can happen to a real SEF. `tests.soak.invariants` checks some invariants after each step,
and the others after each quiet period, which has no faults.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from sef.db.tables import metadata
from sef.terms import Source
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import Belongings
from tests.failover.test_races import together
from tests.harness import OTHERS, POOL, REBALANCE, TERMINATION
from tests.soak import invariants
from tests.soak.belongings import (
    BOUND,
    MOBILE,
    Guardian,
    MovingTargets,
    data_made_at_launch,
    is_away,
)
from tests.soak.harness import DELAY_SECONDS, Stage
from tests.soak.ordinary import OrdinaryEvents

POISON = "poison"
AGENTS = ["a", "b", POISON]
POOLS = [POOL, *OTHERS]
TARGETS = ["primary", "standby", "former", "nobody", "stranger"]
JOBS = [
    "reconcile", "sweep_orphans", "detect_losses", "plan_switchovers", "cleanup_old_buffers",
    "deliver_notifications",
]  # fmt: skip
ERRORS = [
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "VcpuLimitExceeded",
    "RequestLimitExceeded",
    "InternalError",
    "UnauthorizedOperation",
    "InvalidParameterValue",
    "IdempotentParameterMismatch",
    "InvalidInstanceID.NotFound",
]
ACTIONS = [
    "RunInstances",
    "TerminateInstances",
    "DescribeInstances",
    "CreateTags",
    "AssociateAddress",
    "RegisterTargets",
    "*",
]
FIELDS = [
    "instanceState", "tagSet", "placement", "launchTime", "instanceType", "instanceId",
    "groupSet", "item", "reservationSet", "instancesSet",
]  # fmt: skip
MODES: dict[str, Callable[[SmartEmergencyFallback, str], Any]] = {
    "manual on": lambda sef, agent: sef.enable_manual_replica_mode(agent),
    "manual off": lambda sef, agent: sef.disable_manual_replica_mode(agent),
    "switch": lambda sef, agent: sef.execute_manual_switch(agent),
    "auto-switch on": lambda sef, agent: sef.set_auto_mode(agent, "auto-switch", enabled=True),
    "auto-switch off": lambda sef, agent: sef.set_auto_mode(agent, "auto-switch", enabled=False),
    "auto-terminate on": lambda sef, agent: sef.set_auto_mode(
        agent, "auto-terminate", enabled=True
    ),
    "auto-terminate off": lambda sef, agent: sef.set_auto_mode(
        agent, "auto-terminate", enabled=False
    ),
    "drills on": lambda sef, agent: sef.register_agent(agent, {"drill_interval": 3600}),
    "drills off": lambda sef, agent: sef.register_agent(agent, {"drill_interval": None}),
}

KEYED: dict[str, Callable[[SmartEmergencyFallback, str, str], Any]] = {
    "manual on": lambda sef, agent, key: sef.enable_manual_replica_mode(agent, idempotency_key=key),
    "manual off": lambda sef, agent, key: sef.disable_manual_replica_mode(
        agent, idempotency_key=key
    ),
    "switch": lambda sef, agent, key: sef.execute_manual_switch(agent, idempotency_key=key),
    "auto-switch on": lambda sef, agent, key: sef.set_auto_mode(
        agent, "auto-switch", enabled=True, idempotency_key=key
    ),
}
KEY_RETENTION = timedelta(hours=20)
"""Minimum time for which SEF keeps the answer of an Idempotency-Key."""

MAX_QUIET_PASSES = 120

agents = st.sampled_from(AGENTS)
workers = st.integers(0, 1)
kinds = st.sampled_from([REBALANCE, TERMINATION])
fuses = st.one_of(st.none(), st.none(), st.integers(1, 30))
first_modes = st.sampled_from(["manual on", "manual on", "auto-switch on", "auto-terminate on"])
counts = st.sampled_from([1, 2, 5, None])
spoiled = st.one_of(
    st.sampled_from(ACTIONS).map(lambda action: (action, {"lose_reply": True})),
    st.sampled_from(["RunInstances", "TerminateInstances"]).map(
        lambda action: (action, {"delay_seconds": DELAY_SECONDS})
    ),
    st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True).map(
        lambda fields: ("DescribeInstances", {"omit": fields})
    ),
    st.just(("DescribeInstances", {"omit": ["item"]})),
    st.just(("RunInstances", {"omit": ["instanceId"]})),
    st.just(("*", {"as_of": 0})),
    st.integers(0, 2).map(lambda size: ("DescribeInstances", {"page_size": size})),
)


@dataclass
class Keyed:
    """A call with an Idempotency-Key, and its answer if there was one."""

    name: str
    agent_id: str
    call: str
    at: datetime
    answer: Any = None


class Story(OrdinaryEvents, MovingTargets):
    """A random story: each rule is a step."""

    def __init__(self) -> None:
        super().__init__()
        self.on_begin()
        self.stage: Stage | None = None
        self.steps = 0
        self.may_kill = False
        self.signals: list[tuple[str, dict[str, Any]]] = []
        self.told.observed = defaultdict(dict)
        self.clocks_agree = True

    def on_begin(self) -> None:
        """Note that a story begins."""

    def on_failure(self, error: BaseException) -> None:
        """Note that the story failed with `error`."""

    # The stage

    @initialize(
        ahead=st.sampled_from([0, 0, 0, 3600, -3600]),
        may_kill=st.sampled_from([False, False, False, True]),
        modes=st.tuples(first_modes, first_modes),
        bound=st.lists(st.sampled_from(BOUND), unique=True),
    )
    def begin(self, ahead: float, may_kill: bool, modes: tuple[str, str], bound: list[str]) -> None:
        self.may_kill = may_kill
        self.clocks_agree = ahead == 0
        self.stage = Stage(self.ground, [0, ahead], self.tally)
        self.guardian = Guardian(self.stage, self.belongings)
        for agent_id in AGENTS:
            primary = self.stage.primary(self.stage.workers[0], agent_id)
            if agent_id == AGENTS[0]:
                self._give_targets(agent_id, primary, *MOBILE)
            elif agent_id != POISON and bound:
                self._give_targets(agent_id, primary, "elastic_ip", *bound)
        self.stage.workers[0].register_agent(POISON, {"launch_template": "no-such-template"})
        for agent_id, mode in zip(AGENTS, modes, strict=False):
            MODES[mode](self.stage.workers[0], agent_id)

    def _give_targets(self, agent_id: str, primary: str, *names: str) -> None:
        """Give an agent cutover targets."""
        belongings = Belongings(self.world, primary, *names)
        data_made_at_launch(self.world, belongings, primary)
        self.world.workers[0].register_agent(agent_id, {"cutover": belongings.targets})
        self.belongings[agent_id] = belongings

    @property
    def world(self) -> Stage:
        assert self.stage is not None
        return self.stage

    def _do(
        self, worker: int, do: Callable[[SmartEmergencyFallback], Any], fuse: int | None
    ) -> Any:
        self.world.arm_crash(fuse)
        try:
            return self.world.attempt(worker, do)
        finally:
            self.world.arm_crash(None)
            self.world.restart_dead()

    def _instance(self, agent_id: str, whom: str) -> str | None:
        agent = self.world.agent(agent_id)
        if whom == "primary":
            return None if agent.instance_id is None else str(agent.instance_id)
        if whom == "standby":
            standby = self.world.standby(agent_id)
            return standby.instance_id if standby else None
        if whom == "former":
            retired = [
                r.instance_id
                for r in self.world.replicas(agent_id, "promoted", "terminated", "failed")
                if r.instance_id != agent.instance_id
            ]
            return retired[-1] if retired else None
        return "i-0123456789abcdef0" if whom == "stranger" else None

    # Agents

    @rule(
        worker=workers,
        agent_id=agents,
        pool=st.sampled_from(POOLS[:2]),
        is_replica=st.booleans(),
        age=st.sampled_from([0, 0, 20, 600, 900, 1700, 7200]),
        price=st.integers(300, 330),
        fuse=fuses,
    )
    def price(
        self,
        worker: int,
        agent_id: str,
        pool: str,
        is_replica: bool,
        age: int,
        price: int,
        fuse: int | None,
    ) -> None:
        at = self.world.clock().replace(second=0, microsecond=0) - timedelta(seconds=age)
        payload = {
            "spot_price": price / 10_000,
            "pool_id": pool,
            "timestamp": at.isoformat(),
            "is_replica": is_replica,
        }
        self._report(worker, agent_id, payload, fuse)

    def _report(
        self, worker: int, agent_id: str, payload: dict[str, Any], fuse: int | None
    ) -> None:
        answer = self._do(
            worker, lambda sef: sef.process_incoming_data(agent_id, "pricing", payload), fuse
        )
        if answer is None:
            self.told.owed.append((agent_id, payload))
        elif answer["status"] != "rejected":
            source = Source.REPLICA if payload["is_replica"] else Source.PRIMARY
            at = self.world.clock().fromisoformat(payload["timestamp"])
            price = Decimal(str(payload["spot_price"]))
            self.told.observed[agent_id, payload["pool_id"]][source, at] = price

    @rule(
        worker=workers,
        agent_id=agents,
        kind=kinds,
        whom=st.sampled_from(["primary", "primary", "primary", *TARGETS]),
        age=st.sampled_from([0, 0, 5, 90]),
        fuse=fuses,
    )
    def signal(
        self, worker: int, agent_id: str, kind: str, whom: str, age: int, fuse: int | None
    ) -> None:
        at = self.world.clock() - timedelta(seconds=age)
        payload = {"signal_type": kind, "timestamp": at.isoformat()}
        named = self._instance(agent_id, whom)
        if named is not None:
            payload["instance_id"] = named
        self.signals.append((agent_id, payload))
        self._send(worker, agent_id, payload, fuse)

    @precondition(lambda self: self.signals)
    @rule(worker=workers, which=st.integers(0, 30), times=st.integers(1, 3), fuse=fuses)
    def repeat_signal(self, worker: int, which: int, times: int, fuse: int | None) -> None:
        agent_id, payload = self.signals[which % len(self.signals)]
        for _ in range(times):
            self._send(worker, agent_id, payload, fuse)

    def _send(self, worker: int, agent_id: str, payload: dict[str, Any], fuse: int | None) -> None:
        self._take(
            payload, self._do(worker, lambda s: s.handle_interruption(agent_id, payload), fuse)
        )

    def _take(self, payload: dict[str, Any], answer: Any) -> None:
        if answer is not None:
            self.told.accepted.add((answer["incident_id"], payload["signal_type"]))

    # AWS

    @rule(agent_id=agents, whom=st.sampled_from(["primary", "primary", "standby", "former"]))
    def take_away(self, agent_id: str, whom: str) -> None:
        instance_id = self._instance(agent_id, whom)
        if instance_id in self.world.instances():
            self.taken.add(str(instance_id))
            self.world.simulation.terminate(str(instance_id))
            self.tally["instances taken"] += 1

    @rule(
        action=st.sampled_from(ACTIONS),
        code=st.sampled_from(ERRORS),
        count=counts,
    )
    def refuse(self, action: str, code: str, count: int | None) -> None:
        self._fault(action, count, error_code=code)

    @rule(spoiled=spoiled, count=counts)
    def spoil(self, spoiled: tuple[str, dict[str, Any]], count: int | None) -> None:
        action, what = spoiled
        if "as_of" in what:
            # EC2 shows the state of this moment from now on.
            what = {"as_of": time.time()}
        self._fault(action, 1 if "delay_seconds" in what else count, **what)

    def _fault(self, action: str, count: int | None, **what: Any) -> None:
        self.world.simulation.add_fault(action, count=count, **what)
        self.tally["faults"] += 1
        if "delay_seconds" in what:
            self.world.is_delayed = True

    @rule(
        pending=st.sampled_from([0, 0, 10**6]),
        hidden=st.sampled_from([0, 0, 10**6]),
        strict=st.booleans(),
    )
    def behave(self, pending: float, hidden: float, strict: bool) -> None:
        self.world.simulation.set_options(
            pending_seconds=pending,
            visible_after_seconds=hidden,
            refuse_token_of_terminated=strict,
        )

    @rule(pool=st.sampled_from(["abc", "bcdef", "abcdef"]), capacity=st.booleans())
    def capacity(self, pool: str, capacity: bool) -> None:
        for zone in pool:
            self.world.simulation.set_pool(f"m5.large.us-east-1{zone}", capacity=capacity)

    @rule()
    def mend(self) -> None:
        self.world.clear()

    # Operators

    @rule(worker=workers, agent_id=agents, mode=st.sampled_from(sorted(MODES)), fuse=fuses)
    def operate(self, worker: int, agent_id: str, mode: str, fuse: int | None) -> None:
        self._do(worker, lambda sef: MODES[mode](sef, agent_id), fuse)

    def _set_mode(self, worker: int, agent_id: str, mode: str) -> None:
        self._do(worker, lambda sef: MODES[mode](sef, agent_id), None)

    @rule(
        worker=workers,
        agent_id=agents,
        call=st.sampled_from(sorted(KEYED)),
        which=st.integers(0, 12),
        fuse=fuses,
    )
    def operate_under_key(
        self, worker: int, agent_id: str, call: str, which: int, fuse: int | None
    ) -> None:
        """Make a call with a new key, or repeat the call of an earlier key."""
        now = self.world.clock()
        used = [key for key in self.told.keys if now - key.at < KEY_RETENTION]
        if which < len(used):
            key = used[which]
        else:
            key = Keyed(f"key-{len(self.told.keys)}", agent_id, call, now)
            self.told.keys.append(key)
        known = key.answer or self._stored(key)
        before = self.world.agent(key.agent_id)
        answer = self._do(worker, lambda sef: KEYED[key.call](sef, key.agent_id, key.name), fuse)
        if known is not None:
            assert self.world.agent(key.agent_id) == before, f"{key.name} had its effect twice"
            assert self._stored(key) is not None, f"the answer of {key.name} is lost"
        if answer is None:
            return
        if known is not None:
            self.tally["repeats under a key"] += 1
            assert answer == known, f"{key.name} has two answers: {known}, {answer}"
        key.answer = answer

    def _stored(self, key: Keyed) -> Any:
        """Return the stored answer; it also exists if the first try died after its COMMIT."""
        rows = self.world.rows("idempotency_keys", None)
        return next((row.answer for row in rows if row.idempotency_key == key.name), None)

    @rule(worker=workers, agent_id=agents, kind=st.sampled_from([REBALANCE, TERMINATION, "switch"]))
    def rehearse(self, worker: int, agent_id: str, kind: str) -> None:
        payload = {"signal_type": kind, "timestamp": self.world.clock().isoformat()}
        before = self._everything()
        if kind == "switch":
            answer = self._do(
                worker, lambda s: s.execute_manual_switch(agent_id, dry_run=True), None
            )
        else:
            answer = self._do(
                worker, lambda s: s.handle_interruption(agent_id, payload, dry_run=True), None
            )
        self.tally["dry runs"] += answer is not None
        assert self._everything() == before, "a dry run has changed something"

    def _everything(self) -> dict[str, list[Any]]:
        """Return all rows, and the instances at EC2 unless delayed calls are still pending."""
        rows = {table.name: self.world.rows(table.name, None) for table in metadata.sorted_tables}
        if self.world.is_delayed:
            return rows
        running = self.world.instances().values()
        return rows | {"EC2": [(instance.id, instance.state) for instance in running]}

    @rule(
        name=st.sampled_from(["max_launches_per_hour", "max_instances"]),
        most=st.sampled_from([0, 1, 2, 4]),
    )
    def limit(self, name: str, most: int) -> None:
        """Restart the workers with a limit, or with the default limits."""
        if not most:
            self.world.limit()
        # With different clocks, the workers count launches of different hours.
        elif self.clocks_agree or name == "max_instances":
            self.world.limit(**{name: most})

    @rule(worker=workers, agent_id=agents, pool=st.sampled_from(POOLS), fuse=fuses)
    def replace_by_hand(self, worker: int, agent_id: str, pool: str, fuse: int | None) -> None:
        try:
            instance_id = self.world.launch(pool)
        except (ClientError, BotoCoreError, KeyError):
            return
        self._do(
            worker,
            lambda s: s.register_agent(agent_id, {"instance_id": instance_id, "pool_id": pool}),
            fuse,
        )

    # Time and jobs

    @rule(
        worker=workers,
        seconds=st.sampled_from([1, 7, 7, 31, 61, 61, 301, 421, 1801, 7201]),
        fuse=fuses,
    )
    def pass_time(self, worker: int, seconds: float, fuse: int | None) -> None:
        self.world.clock.advance(seconds)
        self._do(worker, lambda sef: sef.reconcile(), fuse)

    @rule(worker=workers, job=st.sampled_from(["reconcile", "reconcile", *JOBS]), fuse=fuses)
    def work(self, worker: int, job: str, fuse: int | None) -> None:
        self._do(worker, lambda sef: getattr(sef, job)(), fuse)

    @rule(
        agent_id=agents,
        kind=kinds,
        whom=st.sampled_from(["primary", "standby"]),
        mode=st.sampled_from(sorted(MODES)),
        job=st.sampled_from(["reconcile", *JOBS]),
        fuse=fuses,
    )
    def race(
        self, agent_id: str, kind: str, whom: str, mode: str, job: str, fuse: int | None
    ) -> None:
        """Run a signal, an operator's call and two jobs at the same time."""
        payload = {"signal_type": kind, "timestamp": self.world.clock().isoformat()}
        named = self._instance(agent_id, whom)
        if named is not None:
            payload["instance_id"] = named
        calls: list[tuple[int, Callable[[SmartEmergencyFallback], Any]]] = [
            (0, lambda sef: sef.handle_interruption(agent_id, payload)),
            (1, lambda sef: MODES[mode](sef, agent_id)),
            (0, lambda sef: getattr(sef, job)()),
            (1, lambda sef: sef.reconcile()),
        ]
        self.world.arm_crash(fuse)
        answers = together(*[partial(self.world.attempt, *call) for call in calls])
        self.world.arm_crash(None)
        self.world.restart_dead()
        self._take(payload, answers[0])
        self.tally["races"] += 1

    @rule(
        late=workers,
        agent_id=agents,
        what=st.sampled_from([REBALANCE, TERMINATION, "reconcile", "switch", "manual on"]),
        also=st.sampled_from([TERMINATION, TERMINATION, "reconcile", "switch"]),
        places=st.integers(1, 8),
        seconds=st.sampled_from([7, 61, 301]),
    )
    def freeze(
        self, late: int, agent_id: str, what: str, also: str, places: int, seconds: float
    ) -> None:
        """Freeze a worker for longer than its lease, while the other worker continues."""
        payload, do = self._work(agent_id, what)
        with self.world.frozen(late, do, places) as answer:
            self.world.clock.advance(seconds)
            meanwhile, do_meanwhile = self._work(agent_id, also)
            other = self._do(1 - late, do_meanwhile, None)
            if also == TERMINATION:
                self._take(meanwhile, other)
            for _ in range(2):
                self._do(1 - late, lambda sef: sef.reconcile(), None)
                self._check_always()
        if what in (REBALANCE, TERMINATION):
            self._take(payload, answer.result())

    def _work(
        self, agent_id: str, what: str
    ) -> tuple[dict[str, Any], Callable[[SmartEmergencyFallback], Any]]:
        payload = {"signal_type": what, "timestamp": self.world.clock().isoformat()}
        if what in (REBALANCE, TERMINATION):
            return payload, lambda sef: sef.handle_interruption(agent_id, payload)
        if what == "reconcile":
            return payload, lambda sef: sef.reconcile()
        return payload, lambda sef: MODES[what](sef, agent_id)

    # Faults at critical moments; by chance alone they would happen once in thousands of steps

    @rule(
        worker=workers,
        agent_id=agents,
        code=st.sampled_from(ERRORS),
        count=counts,
        keeps_standby=st.booleans(),
        fuse=fuses,
    )
    def launch_in_trouble(
        self,
        worker: int,
        agent_id: str,
        code: str,
        count: int | None,
        keeps_standby: bool,
        fuse: int | None,
    ) -> None:
        """Let EC2 refuse the launches that a termination notice needs."""
        self.world.simulation.clear_faults()
        self._fault("RunInstances", count, error_code=code)
        if keeps_standby:
            self._do(worker, lambda sef: MODES["manual on"](sef, agent_id), None)
        self.signal(worker, agent_id, TERMINATION, "primary", 0, fuse)
        self.pass_time(1 - worker, 7, None)

    @rule(
        worker=workers,
        action=st.sampled_from(["AssociateAddress", "RegisterTargets"]),
        code=st.sampled_from(ERRORS),
        count=counts,
        seconds=st.sampled_from([0, 7, 61]),
        fuse=fuses,
    )
    def hand_over_in_trouble(
        self,
        worker: int,
        action: str,
        code: str,
        count: int | None,
        seconds: float,
        fuse: int | None,
    ) -> None:
        """Switch by an operator, while AWS refuses the moves of the cutover."""
        agent_id = AGENTS[0]
        self.world.clear()
        for mode in ("auto-switch off", "auto-terminate off", "manual on"):
            self._do(worker, partial(MODES[mode], agent=agent_id), None)
        self._do(worker, lambda sef: sef.reconcile(), None)
        self._fault(action, count, error_code=code)
        self._do(worker, lambda sef: MODES["switch"](sef, agent_id), fuse)
        self.pass_time(1 - worker, seconds, None)

    # Restarts

    @rule(is_there=st.booleans())
    def receiver(self, is_there: bool) -> None:
        """Let the receiver of messages accept or reject them."""
        self.ground.receiver.status = 200 if is_there else 503

    @rule(worker=workers)
    def restart(self, worker: int) -> None:
        self.world.restart(worker)

    # A restart takes seconds, so only some stories have one of each.
    @precondition(lambda self: self.may_kill and self.steps % 9 == 8)
    @rule()
    def kill_ec2(self) -> None:
        self.may_kill = False
        self.world.kill_ec2()

    @precondition(lambda self: self.ground.server and self.may_kill and self.steps % 9 == 4)
    @rule(worker=workers, job=st.sampled_from(JOBS))
    def kill_database(self, worker: int, job: str) -> None:
        self.may_kill = False
        server = self.ground.server
        assert server is not None
        server.kill()
        try:
            assert self._do(worker, lambda sef: getattr(sef, job)(), None) is None
        finally:
            server.start()
            self.world.forget_connections()
        self.tally["databases killed"] += 1

    # Checks

    @precondition(lambda self: self.steps % 9 == 6)
    @rule()
    def quiet(self) -> None:
        """Remove all faults, let all waiting times pass, and check all invariants."""
        world = self.world
        world.clear()
        if world.limits:
            world.limit()
        self.ground.receiver.status = 200
        for agent_id, payload in self.told.owed:
            self._report(0, agent_id, payload, None)
        self.told.owed.clear()
        for agent_id in AGENTS:
            self._do(0, lambda sef, a=agent_id: MODES["drills off"](sef, a), None)
        self.correct_targets()
        self.adopt_surplus()
        for jump in (0, 7300, 3700, 7300):
            world.clock.advance(jump)
            for job in ("detect_losses", "plan_switchovers", "sweep_orphans"):
                getattr(world.workers[1], job)()
            for turn in range(3):
                world.workers[turn % 2].reconcile()
                world.clock.advance(61)
        world.workers[0].cleanup_old_buffers()
        for turn in range(MAX_QUIET_PASSES):
            if not self._is_busy():
                break
            world.workers[turn % 2].reconcile()
            world.workers[turn % 2].deliver_notifications()
            world.clock.advance(61)
        self._check_always()
        invariants.check_when_quiet(
            world,
            taken=self.taken | self.stopped,
            poisoned=[POISON],
            accepted=self.told.accepted,
            observed=self.told.observed,
            belongings=self.belongings,
        )
        self.tally["quiet periods"] += 1

    def _is_busy(self) -> bool:
        """Return True while SEF has work left, apart from the agent whose launches always fail."""
        open_ones = [i.agent_id for i in self.world.rows("incidents", None) if i.open_agent_id]
        moving = [
            r.agent_id
            for r in self.world.rows("replica_instances", None)
            if r.status in ("launching", "releasing")
        ]
        following = [
            cutover.agent_id
            for cutover in self.world.rows("cutovers", None)
            if cutover.open_agent_id and not is_away(self.world, cutover.new_instance_id)
        ]
        undispatched = [
            n for n in self.world.rows("notifications", None) if n.dispatched_at is None
        ]
        unsent = [
            d for d in self.world.rows("notification_deliveries", None) if d.status == "pending"
        ]
        return bool({*open_ones, *moving, *following} - {POISON} or undispatched or unsent)

    def _check_always(self) -> None:
        taken = self.taken | self.down
        invariants.check_always(self.world, taken, self.told.epochs, self.forgotten)
        assert not self.guardian.robbed, self.guardian.robbed

    @invariant()
    def always(self) -> None:
        if self.stage is not None:
            self.steps += 1
            self.tally["steps"] += 1
            self._check_always()
            for limited in self.stage.limited:
                limited.check(self.stage)

    def teardown(self) -> None:
        error = sys.exception()
        try:
            if error is None and self.stage is not None:
                self.quiet()
                self.tally["messages"] += len(self.ground.receiver.got)
                self.tally["cutovers"] += len(self.stage.rows("cutovers", None))
                self.tally["launches"] += len(self.stage.rows("launch_attempts", None))
                for agent_id in AGENTS:
                    self.tally["promotions"] += len(self.stage.promotions(agent_id))
        except Exception as late:
            error = late
            raise
        finally:
            # Hypothesis discards a story with an exception of its own.
            if isinstance(error, Exception) and not type(error).__module__.startswith("hypothesis"):
                self.on_failure(error)
            if self.stage is not None:
                self.stage.close()
