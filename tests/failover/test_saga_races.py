"""Two workers reach one step of a saga at the same moment: one of them takes it, the other loses.

Each test names the transactions, or the call to EC2, at which the two wait for each other.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import pytest

from sef import failpoints
from sef.cloud.ec2 import Ec2
from sef.db.database import Database
from sef.errors import Conflict, ModeConflict
from smart_emergency_fallback import SmartEmergencyFallback
from tests.db.rows import stored_points
from tests.failover.test_races import together
from tests.harness import ALIVE, ON_MARIADB, POOL, REBALANCE, TERMINATION, World
from tests.waiting import LIMIT

T = TypeVar("T")

ROUNDS = 3
DECIDE = "failover.reconcile.apply_step"
OPEN = "failover.instances.launch.decide_launch"
ANSWER = "failover.instances.run_instances._record_launched"
READY = "failover.instances.arrival.mark_ready"
SWITCH = "operators.switch._switch"
SIGNAL = "failover.signals.record"
MANUAL = "operators.modes._set_manual"
AUTO = "operators.modes._set_auto"
CLEANUP = "prices.write.release_buffered"
REPORT = "prices.write.write_one_by_one"


class Meeting:
    """Two threads wait for each other, each at the first of the given points that it reaches."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)
        self._been: set[int] = set()
        self.took_place = False

    def wait(self, **_: Any) -> None:
        thread = threading.get_ident()
        if thread in self._been:
            return
        self._been.add(thread)
        # If the other thread has done the work already, this one never comes: do not wait for it.
        with suppress(threading.BrokenBarrierError):
            self._barrier.wait(LIMIT)
            self.took_place = True

    def of(self, first: Callable[[], object], second: Callable[[], object]) -> None:
        """Run `first` in a thread, and `second` when `first` has reached its point.

        A thread notes its call before it makes the call. Of two threads that note the same call,
        only one goes on.
        """
        with ThreadPoolExecutor(1) as threads:
            done = threads.submit(first)
            while not (self._barrier.n_waiting or done.done()):
                time.sleep(0.005)
            second()
            done.result()


@contextmanager
def meeting(monkeypatch: pytest.MonkeyPatch, *points: str) -> Iterator[Meeting]:
    """Let two threads meet, each before the first of these transactions that it begins."""
    met = Meeting()
    write = Database.write

    def held(self: Database, work: Callable[..., T], *args: Any, **options: Any) -> T:
        if failpoints.name_of(work) in points:
            met.wait()
        return write(self, work, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", held)
        yield met
    assert met.took_place, f"the two did not meet at {points}"


def cloud_meeting(world: World, on: str, met: Meeting) -> Ec2:
    return world.cloud(on, met.wait)


def agent_with_notice(world: World, sef: SmartEmergencyFallback, agent_id: str) -> str:
    """Register an agent whose primary has a notice, on which SEF has not acted yet."""
    primary = world.primary(sef, agent_id)
    world.simulation.add_fault("*", error_code="UnknownOutage", http_status=500)
    world.signal(sef, TERMINATION, agent_id, instance_id=primary)
    world.simulation.clear_faults()
    world.clock.advance(7)
    return primary


def check_failed_over_once(world: World, sef: SmartEmergencyFallback, agent_id: str) -> None:
    for _ in range(2):
        world.settle(sef, 7)
    assert len(world.tagged(agent_id)) == 1
    assert len(world.promotions(agent_id)) == 1
    assert world.agent(agent_id).epoch == 2
    world.check(agent_id)


@ON_MARIADB
@pytest.mark.parametrize("point", [DECIDE, OPEN, ANSWER, READY])
def test_two_workers_take_a_step_once(
    world: World, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    one, two = world.sef(), world.sef()
    for number in range(ROUNDS):
        agent_id = f"agent-{number}"
        agent_with_notice(world, one, agent_id)
        stop_before(world, one, point)
        with meeting(monkeypatch, point) as met:
            met.of(one.reconcile, two.reconcile)
        check_failed_over_once(world, two, agent_id)


def stop_before(world: World, sef: SmartEmergencyFallback, point: str) -> None:
    """Stop the saga of an agent just before this step."""
    if point == DECIDE:
        world.simulation.add_fault("RunInstances", error_code="UnauthorizedOperation", count=1)
        sef.reconcile()
        world.clock.advance(301)
    elif point == ANSWER:
        world.simulation.throttle("RunInstances", count=2)  # boto3 tries once more by itself
        sef.reconcile()
        world.clock.advance(7)
    elif point == READY:
        world.simulation.set_options(pending_seconds=10**6)
        sef.reconcile()
        world.simulation.set_options(pending_seconds=0)


@ON_MARIADB
@pytest.mark.parametrize("moment", ["before-call", "after-call"])
def test_two_workers_that_make_the_same_call_launch_once(world: World, moment: str) -> None:
    for number in range(ROUNDS):
        met = Meeting()
        one, two = (
            world.sef(cloud_meeting(world, f"{moment}.ec2.RunInstances", met)) for _ in range(2)
        )
        agent_id = f"agent-{number}"
        agent_with_notice(world, one, agent_id)
        stop_before(world, world.sef(), ANSWER)
        met.of(one.reconcile, two.reconcile)
        assert met.took_place
        check_failed_over_once(world, two, agent_id)


@ON_MARIADB
def test_two_workers_promote_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = world.sef(), world.sef()
    for number in range(ROUNDS):
        agent_id = f"agent-{number}"
        primary = world.primary(one, agent_id)
        world.signal(one, REBALANCE, agent_id, instance_id=primary)
        notices = [
            partial(world.signal, sef, TERMINATION, agent_id, instance_id=primary)
            for sef in (one, two)
        ]
        with meeting(monkeypatch, DECIDE):
            answers = together(*notices)
        assert {a["action"] for a in answers} == {"promoted"}
        assert len({a["new_instance_id"] for a in answers}) == 1
        check_failed_over_once(world, one, agent_id)


@ON_MARIADB
def test_an_operators_switch_during_a_promotion_promotes_the_standby_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = world.sef(), world.sef()
    for number in range(ROUNDS):
        agent_id = f"agent-{number}"
        primary = world.primary(one, agent_id)
        one.enable_manual_replica_mode(agent_id)
        standby = world.standby(agent_id).instance_id

        def switch(agent_id: str = agent_id) -> None:
            with suppress(Conflict):
                two.execute_manual_switch(agent_id)

        with meeting(monkeypatch, DECIDE, SWITCH):
            notice = partial(world.signal, one, TERMINATION, agent_id, instance_id=primary)
            together(notice, switch)
        for _ in range(2):
            world.settle(one, 31)
        first = world.promotions(agent_id)[0]
        assert first.details["new_instance_id"] == standby
        epochs = [p.details["epoch"] for p in world.promotions(agent_id)]
        assert epochs == sorted(set(epochs))
        assert world.standby(agent_id).status == "ready"
        world.check(agent_id)


@ON_MARIADB
@pytest.mark.parametrize("kind", [REBALANCE, TERMINATION])
def test_a_signal_for_the_standby_during_its_promotion_leaves_a_healthy_primary(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    one, two = world.sef(), world.sef()
    for number in range(ROUNDS):
        agent_id = f"agent-{number}"
        primary = world.primary(one, agent_id)
        world.signal(one, REBALANCE, agent_id, instance_id=primary)
        doomed = world.standby(agent_id).instance_id
        world.clock.advance(1)
        with meeting(monkeypatch, DECIDE, SIGNAL):
            together(
                partial(world.signal, one, kind, agent_id, instance_id=doomed),
                partial(world.signal, two, TERMINATION, agent_id, instance_id=primary),
            )
        for _ in range(3):
            world.settle(two, 31)
        serving = world.agent(agent_id).instance_id
        assert serving != primary
        # If it was promoted before its own notice came, SEF has replaced it too.
        assert serving != doomed or kind == REBALANCE
        world.check(agent_id)


@ON_MARIADB
def test_a_notice_during_the_release_of_the_standby_has_one_promotion(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = world.sef(), world.sef()
    for number in range(ROUNDS):
        agent_id = f"agent-{number}"
        primary = world.primary(one, agent_id)
        one.enable_manual_replica_mode(agent_id)
        with meeting(monkeypatch, DECIDE):
            together(
                partial(one.disable_manual_replica_mode, agent_id),
                partial(world.signal, two, TERMINATION, agent_id, instance_id=primary),
            )
        for _ in range(2):
            world.settle(two, 31)
        assert len(world.promotions(agent_id)) == 1
        assert world.state(world.agent(agent_id).instance_id) in ALIVE
        assert world.standby(agent_id) is None
        world.check(agent_id)


@ON_MARIADB
def test_a_sweep_during_a_launch_terminates_no_orphan(world: World) -> None:
    """An instance that is launched during the listing is in no row yet."""
    for number in range(ROUNDS):
        met = Meeting()
        launching = world.sef(cloud_meeting(world, "after-call.ec2.RunInstances", met))
        # An hour ahead: to this worker every instance is old.
        sweeping = world.sef(
            cloud_meeting(world, "before-call.ec2.DescribeInstances", met), ahead=3600
        )
        agent_id = f"agent-{number}"
        world.primary(launching, agent_id)
        together(partial(world.signal, launching, REBALANCE, agent_id), sweeping.sweep_orphans)
        assert met.took_place
        world.settle(launching, 7)
        assert world.standby(agent_id).status == "ready"
        assert not world.events("orphan_terminated", agent_id)
        world.check(agent_id)


@ON_MARIADB
def test_one_of_manual_and_auto_mode_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = world.sef(), world.sef()
    for number in range(ROUNDS):
        agent_id = f"agent-{number}"
        world.primary(one, agent_id)

        def refused(call: Callable[[], object]) -> bool:
            try:
                call()
            except ModeConflict:
                return True
            return False

        with meeting(monkeypatch, MANUAL, AUTO):
            outcomes = together(
                partial(refused, partial(one.enable_manual_replica_mode, agent_id)),
                partial(refused, partial(two.set_auto_mode, agent_id, "auto-switch", enabled=True)),
            )
        assert sorted(outcomes) == [False, True]
        agent = world.agent(agent_id)
        assert agent.manual_replica_enabled != agent.auto_switch_enabled
        world.check(agent_id)


def test_the_second_report_of_a_pair_during_the_release_of_the_first_makes_one_point(
    world: World, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    one, two = world.sef(), world.sef()
    for number in range(ROUNDS):
        agent_id = f"agent-{number}"
        world.primary(one, agent_id)
        one.enable_manual_replica_mode(agent_id)
        report = {"pool_id": POOL, "timestamp": world.clock().timestamp()}
        first = report | {"spot_price": 0.0456}
        second = report | {"spot_price": 0.0458, "is_replica": True}
        assert one.process_incoming_data(agent_id, "pricing", first)["status"] == "buffered"
        world.clock.advance(301)
        with meeting(monkeypatch, CLEANUP, REPORT):
            together(
                one.cleanup_old_buffers,
                partial(two.process_incoming_data, agent_id, "pricing", second),
            )
        one.cleanup_old_buffers()
        [point] = stored_points(database_url, agent_id, POOL)
        assert (str(point.flag), float(point.price)) == ("averaged_dual_source", 0.0457)
        world.check(agent_id)
