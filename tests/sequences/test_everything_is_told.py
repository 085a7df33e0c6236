"""Each matter is told once: another one is told too, and a repeat of the same one is not.

A limit, a storm, a stuck cutover or a refusal that ends and begins anew is another matter.
"""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text, update

from sef.db import tables
from sef.errors import CloudUnavailable
from sef.jobs import start_jobs
from tests.failover.cutover.cutover_targets import owner
from tests.harness import ALIVE, ON_MARIADB, OTHERS, POOL, REBALANCE, TERMINATION, World
from tests.waiting import until

FULL = "InsufficientInstanceCapacity"
REFUSED = "UnauthorizedOperation"
NO_KEY = "InvalidKeyPair.NotFound"
HOUR, DAY = 3600, 86_400


def told(world: World, kind: str | None = None, about: str = "") -> list[str]:
    """Return the first lines of the messages of a kind, whose title contains `about`."""
    return [
        n.body.split("\n")[0]
        for n in world.rows("notifications", None)
        if kind in (None, n.kind) and about in n.title
    ]


def happened(world: World, event_type: str) -> list[str]:
    rows = world.rows("system_events", None)
    return [e.message.removeprefix("SEF: ") for e in rows if e.event_type == event_type]


def at_the_full_hour(world: World) -> None:
    world.clock.advance(HOUR - world.clock().minute * 60)


@pytest.fixture
def world_at_the_hour(world: World) -> World:
    """The world, at the beginning of an hour: nothing here may depend on the hour."""
    at_the_full_hour(world)
    return world


def storm(world: World, sef: Any, names: str) -> None:
    for name in names:
        world.signal(sef, TERMINATION, name, instance_id=world.agent(name).instance_id)
    world.settle(sef, 10)


def fleet(world: World, sef: Any, names: str, pool: str = POOL) -> None:
    for name in names:
        world.primary(sef, name, pool)


def orphan_of(world: World, number: int) -> str:
    """Launch an old instance with the tags of the standby of `a` and the tag of another attempt."""
    described = world.described(world.standby().instance_id)
    own = {tag["Key"]: tag["Value"] for tag in described["Tags"]}
    tags = own | {"sef:attempt": f"{own['sef:attempt']}-{number}"}
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    orphan = world.launch(TagSpecifications=[{"ResourceType": "instance", "Tags": pairs}])
    world.simulation.age(orphan, 10_000)
    return orphan


# Storms


@ON_MARIADB
@pytest.mark.parametrize(
    "pools", [(POOL, OTHERS[0]), (POOL, POOL), (POOL, POOL, POOL), (POOL, OTHERS[0], POOL)]
)
def test_each_storm_of_an_hour_is_told(world_at_the_hour: World, pools: tuple[str, ...]) -> None:
    world = world_at_the_hour
    sef = world.sef(probation_seconds=0)
    for pool in pools:
        for name in "bcd":
            sef.register_agent(name, {"instance_id": world.launch(pool), "pool_id": pool})
        storm(world, sef, "bcd")
        for _ in range(3):  # the same storm, by two workers
            world.settle(sef, 10)
            world.settle(world.sef(probation_seconds=0))
        world.settle(sef, 500)
    assert len(told(world, "alert", "pool interrupted")) == len(pools)
    assert told(world, "alert", "pool interrupted") == [
        f"AWS is interrupting instances of 3 agents in {pool} at once" for pool in pools
    ]


@ON_MARIADB
def test_two_storms_at_once_are_both_told(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    fleet(world, sef, "bcd")
    fleet(world, sef, "efg", OTHERS[0])
    storm(world, sef, "becfdg")
    world.settle(sef, 60)
    assert len(told(world, "alert", "pool interrupted")) == 2


# Messages about one agent


@ON_MARIADB
def test_each_instance_that_is_left_running_is_told(world_at_the_hour: World) -> None:
    world = world_at_the_hour
    sef = world.sef(probation_seconds=0)
    left = []
    world.primary(sef)
    for _ in range(3):
        world.signal(sef, TERMINATION, instance_id=world.agent().instance_id)
        world.settle(sef, 130)
        left.append(world.agent().instance_id)
        new = world.launch()
        for _ in range(2):  # an inventory script repeats it
            sef.register_agent("a", {"instance_id": new})
        world.settle(sef, 60)
    messages = told(world, "alert", "primary left")
    assert [message.split(",")[0] for message in messages] == left


@ON_MARIADB
def test_each_stuck_cutover_is_told_once(world_at_the_hour: World) -> None:
    world = world_at_the_hour
    sef, *_ = owner(world, "elastic_ip", probation_seconds=0)
    sef.enable_manual_replica_mode("a")
    world.simulation.add_fault("AssociateAddress", error_code=REFUSED)
    for _ in range(2):
        sef.execute_manual_switch("a")
        for _ in range(5):
            world.settle(sef, 30)
    assert len(told(world, "cutover")) == 2


@ON_MARIADB
def test_another_obstacle_of_the_same_cutover_is_told(world: World) -> None:
    sef, *_ = owner(world, "elastic_ip", probation_seconds=0)
    sef.enable_manual_replica_mode("a")
    for code in (REFUSED, "AuthFailure", REFUSED):
        world.simulation.clear_faults()
        world.simulation.add_fault("AssociateAddress", error_code=code)
        if code is REFUSED and not told(world, "cutover"):
            sef.execute_manual_switch("a")
        for _ in range(6):
            world.settle(sef, 60)
    first, second = told(world, "cutover")
    assert REFUSED in first
    assert "AuthFailure" in second


@ON_MARIADB
def test_the_notice_is_told_after_a_recommendation(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code=FULL)
    world.signal(sef, REBALANCE, instance_id=primary)
    for _ in range(3):
        world.settle(sef, 60)
    for _ in range(4):
        world.signal(sef, TERMINATION, instance_id=primary)
        world.signal(sef, REBALANCE, instance_id=primary)
        world.settle(sef, 10)
    assert [m.split(" for ")[0] for m in told(world, "detection")] == [
        "rebalance-recommendation",
        "termination-notice",
    ]


@ON_MARIADB
def test_a_recommendation_that_is_only_watched_then_the_notice(world: World) -> None:
    sef = world.sef(probation_seconds=0, rebalance_risk_threshold=1.0)
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    world.signal(sef, TERMINATION, instance_id=primary)
    kinds = [n.kind for n in world.rows("notifications")]
    assert kinds == ["recommendation", "detection", "switch", "outcome"]


@ON_MARIADB
def test_a_loss_is_told_after_a_recommendation(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    world.simulation.terminate(primary)
    for _ in range(4):
        world.clock.advance(700)
        sef.detect_losses()
        sef.reconcile()
    messages = told(world, "detection")
    assert len(messages) == 2
    assert messages[0].startswith("rebalance-recommendation")
    assert "silent" in messages[1]


OBSTACLES: list[tuple[tuple[str, ...], int]] = [
    ((REFUSED,) * 15, 1),
    ((REFUSED, NO_KEY), 2),
    ((REFUSED, NO_KEY, REFUSED, NO_KEY), 2),
    ((REFUSED, "", REFUSED), 2),
    ((REFUSED, NO_KEY, "", REFUSED, NO_KEY), 4),
]
"""Codes of the refusals in order, the empty one for a launch that succeeds; and the messages."""


def _play(world: World, sef: Any, codes: tuple[str, ...]) -> None:
    for number, code in enumerate(codes):
        world.simulation.clear_faults()
        if code:
            identifier = f"Request ID: {number:08x}-1111-4222-8333-{number:012x}"
            world.simulation.add_fault("RunInstances", error_code=code, message=f"No. {identifier}")
            standby = world.standby()
            if standby is not None and standby.status == "ready":
                world.simulation.terminate(standby.instance_id)
        for _ in range(2):
            world.settle(sef, 301)
            world.settle(sef, 5)


@ON_MARIADB
@pytest.mark.parametrize(("codes", "messages"), OBSTACLES)
def test_each_obstacle_of_an_incident_is_told_once(
    world: World, codes: tuple[str, ...], messages: int
) -> None:
    sef = world.sef(probation_seconds=0, standby_ttl_seconds=DAY, notification_retention_days=1)
    world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code=REFUSED)
    world.signal(sef, REBALANCE)
    _play(world, sef, codes)
    assert len(told(world, "operator")) == messages
    assert told(world, "operator") == happened(world, "operator_needed")


@ON_MARIADB
@pytest.mark.parametrize(("codes", "messages"), OBSTACLES[-2:])
def test_each_obstacle_of_a_manual_standby_is_told_once(
    world: World, codes: tuple[str, ...], messages: int
) -> None:
    sef = world.sef(probation_seconds=0)
    world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code=codes[0])
    sef.enable_manual_replica_mode("a")
    _play(world, sef, codes)
    vanished = sum(not code for code in codes)
    assert len(told(world, "alert", "replica failed")) == messages + vanished


@ON_MARIADB
def test_the_clean_up_of_old_messages_forgets_no_open_matter(world: World) -> None:
    sef = world.sef(
        probation_seconds=0, standby_ttl_seconds=90 * DAY, notification_retention_days=1
    )
    world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code=REFUSED)
    world.signal(sef, REBALANCE)
    for _ in range(5):
        world.settle(sef, DAY)
        sef.deliver_notifications()
        sef.cleanup_old_buffers()
    assert len(told(world, "operator")) == 1


# Limits


@ON_MARIADB
def test_each_limit_of_the_fleet_is_told(world_at_the_hour: World) -> None:
    world = world_at_the_hour
    sef = world.sef(probation_seconds=0, max_instances=1, max_terminations_per_run=1)
    fleet(world, sef, "abc")
    for name in "ab":
        sef.enable_manual_replica_mode(name)
        world.settle(sef, 5)
    limited = world.sef(probation_seconds=0, max_instances=10, max_terminations_per_run=1)
    for name in "abc":
        limited.enable_manual_replica_mode(name)
    world.settle(limited, 60)
    world.write(update(tables.agents).values(manual_replica_enabled=False))
    world.settle(limited, 60)
    assert len(told(world, "alert", "limit reached")) == 2
    assert told(world, "alert", "limit reached") == happened(world, "limit_reached")


@ON_MARIADB
def test_two_agents_at_a_limit_of_their_own_are_both_told(world: World) -> None:
    sef = world.sef(probation_seconds=0, max_launches_per_hour=1)
    fleet(world, sef, "ab")
    for name in "ab":
        sef.enable_manual_replica_mode(name)
    for name in "ab":
        world.simulation.terminate(world.standby(name).instance_id)
    for _ in range(10):
        world.settle(sef, 61)
    messages = told(world, "alert", "limit reached")
    assert len(messages) == 2
    assert len({n.agent_id for n in world.rows("notifications", None)}) == 2


@ON_MARIADB
def test_a_limit_that_is_reached_anew_is_told_anew(world_at_the_hour: World) -> None:
    world = world_at_the_hour
    sef = world.sef(probation_seconds=0, max_instances=1)
    fleet(world, sef, "ab")
    sef.enable_manual_replica_mode("a")
    for _ in range(2):
        sef.enable_manual_replica_mode("b")
        for _ in range(3):
            world.settle(sef, 61)
        sef.disable_manual_replica_mode("b")
        world.settle(sef, 16 * 60)
    assert len(told(world, "alert", "limit reached")) == 2


@ON_MARIADB
def test_orphans_that_sef_leaves_running_are_told_each_day(world: World) -> None:
    sef = world.sef(probation_seconds=0, max_terminations_per_run=3)
    world.primary(sef)
    sef.enable_manual_replica_mode("a")
    for number in range(4):
        orphan_of(world, number)
    days = 3
    for _ in range(days * 24):
        world.clock.advance(3600)
        sef.sweep_orphans()
    assert len(told(world, "alert", "limit reached")) == days


# One agent's exception ends one step

FAR = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
"""A time that a row may hold and to which nothing can be added."""


def poison(world: World, agent_id: str, **values: Any) -> None:
    world.write(update(tables.agents).where(tables.agents.c.id == agent_id).values(**values))


def failures(world: World) -> list[tuple[str | None, str]]:
    """Return the agent and the step of each failure that people are told of."""
    rows = [n for n in world.rows("notifications", None) if "internal error" in n.title]
    return [(row.agent_id, row.body.split(" failed")[0]) for row in rows]


@ON_MARIADB
def test_a_drill_that_cannot_be_planned_holds_up_no_other(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    sef = world.sef(probation_seconds=0)
    fleet(world, sef, "abc")
    for name in "abc":
        sef.register_agent(name, {"drill_interval": 600})
    poison(world, "a", drilled_at=FAR)
    for _ in range(5):
        world.clock.advance(650)
        sef.plan_switchovers()
        world.settle(sef)
    assert all(world.promotions(name) for name in "bc")
    assert failures(world) == [("a", "drill")]
    assert len([r for r in caplog.records if r.exc_info]) == 1


def test_a_broken_document_of_an_agent_holds_up_no_drill(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    fleet(world, sef, "abc")
    for name in "abc":
        sef.register_agent(name, {"drill_interval": 600})
    if sef._database.is_mysql:
        world.write(text("ALTER TABLE agents MODIFY cutover LONGTEXT"))
    world.write(text("UPDATE agents SET cutover = '{' WHERE id = 'a'"))
    for _ in range(3):
        world.clock.advance(650)
        sef.plan_switchovers()
        world.settle(sef)
    assert all(world.promotions(name) for name in "bc")
    assert ("a", "drill") in failures(world)


def test_a_broken_document_of_an_agent_holds_up_no_search_for_losses(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    primaries = [world.primary(sef, name) for name in "ab"]
    if sef._database.is_mysql:
        world.write(text("ALTER TABLE agents MODIFY cutover LONGTEXT"))
    world.write(text("UPDATE agents SET cutover = '{' WHERE id = 'a'"))
    for primary in primaries:
        world.simulation.terminate(primary)
    for _ in range(4):
        world.clock.advance(700)
        sef.detect_losses()
        sef.reconcile()
    assert [n.agent_id for n in world.rows("notifications", None) if n.kind == "detection"] == ["b"]
    assert failures(world).count(("a", "search for losses")) == 1


@ON_MARIADB
def test_an_orphan_that_is_protected_holds_up_no_other(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    world.primary(sef)
    sef.enable_manual_replica_mode("a")
    orphans = [orphan_of(world, number) for number in range(3)]
    protected = orphans[1]
    world.client.modify_instance_attribute(
        InstanceId=protected, DisableApiTermination={"Value": True}
    )
    for _ in range(5):
        world.clock.advance(600)
        with suppress(CloudUnavailable):
            sef.sweep_orphans()
    assert [world.state(each) in ALIVE for each in orphans] == [False, True, False]
    assert failures(world) == [(None, f"termination of orphan {protected}")]


@ON_MARIADB
def test_a_job_that_raises_is_told_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sef = world.sef(reconcile_interval_seconds=0.02)
    runs: list[int] = []

    def reconcile() -> int:
        runs.append(1)
        raise KeyError("odd")

    monkeypatch.setattr(sef, "reconcile", reconcile)
    jobs = start_jobs(sef, sef.settings)
    try:
        until(lambda: len(runs) > 3)
        assert failures(world) == [(None, "sef_reconcile")]
    finally:
        jobs.shutdown()
