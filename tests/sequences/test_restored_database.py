"""The database is restored from a backup: the rows are older than the world."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select

from sef.db.tables import metadata
from sef.errors import Conflict, Refused
from tests.harness import ALIVE, ONCE, OTHERS, POOL, TERMINATION, Crash, World

SETTINGS = {"probation_seconds": 0}


class Backup:
    """A copy of the database: of the file of SQLite, or of the rows of all tables."""

    def __init__(self, world: World, file: Path) -> None:
        self._world, self._file = world, file
        self._rows: dict[str, Sequence[Mapping[str, Any]]] = {}
        if file.exists():
            self._copy(file, file.with_name("backup.db"))
            return
        with world.connect() as connection:
            for table in metadata.sorted_tables:
                rows = connection.execute(select(table)).mappings()
                self._rows[table.name] = [dict(row) for row in rows]

    def restore(self) -> None:
        if self._file.exists():
            self._copy(self._file.with_name("backup.db"), self._file)
            return
        for table in metadata.sorted_tables:
            self._world.write(delete(table))
            if self._rows[table.name]:
                self._world.write(insert(table), list(self._rows[table.name]))

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sef.db"


def report(world: World, sef: Any, agent_id: str = "a", **more: Any) -> None:
    fields = {"spot_price": 0.04, "pool_id": POOL, "timestamp": world.clock().isoformat()}
    sef.process_incoming_data(agent_id, "pricing", fields | more)


def switch(world: World, sef: Any, agent_id: str = "a") -> str:
    """Keep a standby by manual mode, and promote it; return the new primary."""
    sef.enable_manual_replica_mode(agent_id)
    return str(sef.execute_manual_switch(agent_id)["new_instance_id"])


def live_on(world: World, sef: Any, *reporting: str, rounds: int = 12, agent_id: str = "a") -> None:
    """Play the jobs for some time, in which instances report under their ids."""
    for _ in range(rounds):
        world.settle(sef, 300)
        for instance_id in reporting:
            report(world, sef, agent_id, instance_id=instance_id)
        sef.detect_losses()
        sef.sweep_orphans()


def events(world: World, event_type: str) -> list[Any]:
    return [e for e in world.rows("system_events", None) if e.event_type == event_type]


def failed_over(world: World, file: Path, *, old_ends: bool) -> tuple[Any, str, str]:
    """Back up, fail over, and restore; return a new worker, the old primary and the real one."""
    sef = world.sef(**SETTINGS)
    old = world.primary(sef)
    report(world, sef, instance_id=old)
    sef.sweep_orphans()
    backup = Backup(world, file)
    new = str(world.signal(sef, TERMINATION, instance_id=old)["new_instance_id"])
    if old_ends:
        world.client.terminate_instances(InstanceIds=[old])
    world.settle(sef, 130)
    backup.restore()
    return world.sef(**SETTINGS), old, new


# The instance that serves is not terminated


@pytest.mark.parametrize("reports", [True, False])
def test_the_serving_primary_survives_while_the_old_one_runs(
    world: World, file: Path, reports: bool
) -> None:
    sef, old, new = failed_over(world, file, old_ends=False)
    live_on(world, sef, *([new] if reports else []))
    assert world.state(new) in ALIVE
    assert world.state(old) in ALIVE
    [told] = events(world, "rows_outdated")
    assert told.severity == "error"
    assert new in told.message
    assert "python backend.py adopt" in told.message
    [orphan] = sef.get_agent_status("a")["orphans"]
    assert orphan["instance_id"] == new
    assert sef.list_agents()[0]["orphans"] == 1
    messages = [n for n in world.rows("notifications", None) if new in n.body]
    assert len(messages) == 1


def test_the_serving_primary_is_the_primary_again_when_the_old_one_is_gone(
    world: World, file: Path
) -> None:
    sef, old, new = failed_over(world, file, old_ends=True)
    live_on(world, sef, new, rounds=24)
    assert world.agent().instance_id == new
    assert world.state(new) in ALIVE
    [adopted] = world.events("instance_adopted")
    assert old in adopted.message
    answer = world.signal(sef, TERMINATION, instance_id=new)
    assert answer["action"] == "promoted"
    world.settle(sef, 60)
    assert world.state(world.agent().instance_id) in ALIVE


@ONCE
def test_a_notice_for_the_serving_primary_is_served_without_a_report(
    world: World, file: Path
) -> None:
    sef, _, new = failed_over(world, file, old_ends=True)
    assert world.signal(sef, TERMINATION, instance_id=new)["action"] == "promoted"
    assert world.agent().instance_id not in (None, new)


@ONCE
def test_a_notice_for_an_unknown_instance_is_told_while_the_known_primary_runs(
    world: World, file: Path
) -> None:
    sef, _, new = failed_over(world, file, old_ends=False)
    for _ in range(3):
        assert world.signal(sef, TERMINATION, instance_id=new)["action"] == "ignored"
        world.settle(sef, 5)
    [told] = world.events("unknown_instance_signalled")
    assert f"adopt --agent a --instance {new}" in told.message
    assert [n for n in world.rows("notifications") if new in n.body]


@ONCE
def test_nothing_is_adopted_while_ec2_cannot_be_read(world: World, file: Path) -> None:
    sef, old, new = failed_over(world, file, old_ends=True)
    world.simulation.add_fault("DescribeInstances", error_code="ServiceUnavailable")
    assert world.signal(sef, TERMINATION, instance_id=new)["action"] == "ignored"
    assert world.agent().instance_id == old


@ONCE
def test_sef_was_down_for_two_hours(world: World, file: Path) -> None:
    sef, _, new = failed_over(world, file, old_ends=True)
    world.clock.advance(7200)
    sef.sweep_orphans()  # before any agent has reported
    assert world.state(new) in ALIVE
    live_on(world, sef, new, rounds=3)
    assert world.agent().instance_id == new
    assert world.state(new) in ALIVE


@ONCE
def test_sef_launches_before_the_first_sweep(world: World, file: Path) -> None:
    """A launch after the restore is newer than the unknown one, which stays unknown."""
    sef, _, new = failed_over(world, file, old_ends=False)
    sef.enable_manual_replica_mode("a")
    world.settle(sef, 10)
    live_on(world, sef)
    assert world.state(new) in ALIVE
    assert len(events(world, "rows_outdated")) == 1


# Where the backup was made


@ONCE
def test_a_backup_between_launch_and_promotion(world: World, file: Path) -> None:
    sef = world.sef(**SETTINGS)
    old = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    backup = Backup(world, file)
    first = str(sef.execute_manual_switch("a")["new_instance_id"])
    world.settle(sef, 60)
    standby = world.standby().instance_id
    backup.restore()
    sef = world.sef(**SETTINGS)
    live_on(world, sef, first)
    assert world.state(first) in ALIVE
    assert world.state(standby) in ALIVE
    assert world.state(old) not in ALIVE


@ONCE
def test_a_backup_between_promotion_and_the_end_of_the_old_primary(
    world: World, file: Path
) -> None:
    sef = world.sef(**SETTINGS)
    old = world.primary(sef)
    new = str(world.signal(sef, TERMINATION, instance_id=old)["new_instance_id"])
    backup = Backup(world, file)
    world.client.terminate_instances(InstanceIds=[old])
    world.settle(sef, 130)
    backup.restore()
    sef = world.sef(**SETTINGS)
    live_on(world, sef, new)
    assert world.agent().instance_id == new
    assert world.state(new) in ALIVE
    assert events(world, "rows_outdated") == []


@ONCE
def test_a_standby_launched_after_the_backup_is_kept_until_it_is_adopted(
    world: World, file: Path
) -> None:
    sef = world.sef(**SETTINGS)
    primary = world.primary(sef)
    backup = Backup(world, file)
    sef.sweep_orphans()
    named = world.rows("deployment", None)
    sef.enable_manual_replica_mode("a")
    standby = world.standby().instance_id
    backup.restore()
    if not world.rows("deployment", None):
        world.write(insert(metadata.tables["deployment"]), dict(named[0]._mapping))
    sef = world.sef(**SETTINGS)
    live_on(world, sef, primary)
    assert world.state(standby) in ALIVE
    with pytest.raises(Conflict) as caught:
        sef.adopt_instance("a", standby)
    assert caught.value.reason == "primary_runs"
    sef.adopt_instance("a", standby, "surplus")
    world.settle(sef, 5)
    assert world.state(standby) not in ALIVE
    assert world.agent().instance_id == primary


@ONCE
def test_only_one_of_two_agents_is_affected(world: World, file: Path) -> None:
    sef = world.sef(**SETTINGS)
    world.primary(sef)
    other = world.primary(sef, "b")
    sef.sweep_orphans()
    backup = Backup(world, file)
    serving = switch(world, sef)
    world.settle(sef, 60)
    backup.restore()
    sef = world.sef(**SETTINGS)
    for _ in range(12):
        live_on(world, sef, serving, rounds=1)
        live_on(world, sef, other, rounds=1, agent_id="b")
    assert world.agent().instance_id == serving
    assert world.agent("b").instance_id == other
    assert sef.get_agent_status("b")["orphans"] == []
    assert {world.state(i) for i in (serving, other)} <= ALIVE


@ONCE
def test_the_agent_was_registered_after_the_backup(world: World, file: Path) -> None:
    sef = world.sef(**SETTINGS)
    sef.sweep_orphans()
    backup = Backup(world, file)
    world.primary(sef)
    serving = switch(world, sef)
    standby = world.standby().instance_id
    backup.restore()
    sef = world.sef(**SETTINGS)
    world.clock.advance(3600)
    sef.sweep_orphans()
    assert {world.state(i) for i in (serving, standby)} <= ALIVE
    answer = sef.adopt_instance("a", serving)
    assert (answer["role"], world.agent().instance_id) == ("primary", serving)


@ONCE
def test_the_same_restore_twice(world: World, file: Path) -> None:
    sef = world.sef(**SETTINGS)
    old = world.primary(sef)
    sef.sweep_orphans()
    backup = Backup(world, file)
    new = str(world.signal(sef, TERMINATION, instance_id=old)["new_instance_id"])
    world.client.terminate_instances(InstanceIds=[old])
    for _ in range(2):
        backup.restore()
        sef = world.sef(**SETTINGS)
        live_on(world, sef, new, rounds=4)
        assert world.agent().instance_id == new
        assert world.state(new) in ALIVE
    third = str(world.signal(sef, TERMINATION, instance_id=new)["new_instance_id"])
    world.client.terminate_instances(InstanceIds=[new])
    backup.restore()
    sef = world.sef(**SETTINGS)
    live_on(world, sef, third, rounds=4)
    assert world.agent().instance_id == third
    assert world.state(third) in ALIVE


# The operator


@ONCE
def test_an_adopted_primary_counts_as_launched_and_orphans_are_swept_again(
    world: World, file: Path
) -> None:
    sef, old, new = failed_over(world, file, old_ends=False)
    live_on(world, sef, rounds=2)
    answer = sef.adopt_instance("a", new, "primary")
    assert answer["status"] == "success"
    agent = world.agent()
    assert (agent.instance_id, agent.epoch) == (new, 2)
    [replica] = world.replicas("a", "promoted")
    assert (replica.instance_id, replica.market) == (new, "spot")
    assert sef.unknown_instances() == []
    live_on(world, sef, new, rounds=2)
    assert sef.get_agent_status("a")["orphans"] == []
    assert {world.state(i) for i in (old, new)} <= ALIVE
    assert sef.adopt_instance("a", new, "primary")["epoch"] == 2, "a repeat changes nothing"


@ONCE
def test_registering_the_serving_instance_adopts_it(world: World, file: Path) -> None:
    sef, _, new = failed_over(world, file, old_ends=False)
    for _ in range(2):
        sef.register_agent("a", {"instance_id": new, "pool_id": POOL})
    assert (world.agent().instance_id, world.agent().epoch) == (new, 2)
    assert len(world.events("instance_adopted")) == 1
    world.signal(sef, TERMINATION, instance_id=new)
    live_on(world, sef, world.agent().instance_id, rounds=3)
    assert world.state(new) in ALIVE
    assert events(world, "rows_outdated") == []


@ONCE
def test_what_may_not_be_adopted(world: World, file: Path) -> None:
    sef, old, new = failed_over(world, file, old_ends=False)
    cases = [
        ("a", old, "surplus", "instance_of_others"),
        ("b", new, "primary", "instance_of_other_agent"),
        ("a", "i-0000000000000000f", "primary", "instance_not_running"),
    ]
    for agent_id, instance_id, role, reason in cases:
        with pytest.raises(Conflict) as caught:
            sef.adopt_instance(agent_id, instance_id, role)
        assert caught.value.reason == reason
    with pytest.raises(Refused):
        sef.adopt_instance("a", new, "king")
    assert world.agent().instance_id == old


@ONCE
def test_people_are_reminded_each_day(world: World, file: Path) -> None:
    sef, _, _ = failed_over(world, file, old_ends=False)
    for _ in range(3 * 24):
        world.clock.advance(3600)
        sef.sweep_orphans()
    assert len(events(world, "rows_outdated")) == 3


# An operator, or an inventory, names an instance that is gone


@ONCE
def test_an_inventory_names_the_old_instance_again(world: World) -> None:
    sef = world.sef(**SETTINGS)
    old = world.primary(sef)
    new = str(world.signal(sef, TERMINATION, instance_id=old)["new_instance_id"])
    world.client.terminate_instances(InstanceIds=[old])
    world.settle(sef, 200)
    for _ in range(2):
        warnings = sef.register_agent("a", {"instance_id": old, "pool_id": POOL})["warnings"]
        [warning] = [w for w in warnings if old in w]
        assert f"{old} is terminated in EC2" in warning
    live_on(world, sef, new)
    answer = world.signal(sef, TERMINATION, instance_id=new)
    assert answer["action"] == "promoted"


@ONCE
@pytest.mark.parametrize("is_new_agent", [True, False])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("terminate", "is terminated in EC2"),
        ("stop", "is stopped in EC2"),
        ("unknown", "EC2 does not show"),
        ("none", None),
        ("away", None),
    ],
)
def test_a_warning_says_that_the_named_instance_cannot_serve(
    world: World, change: str, expected: str | None, is_new_agent: bool
) -> None:
    sef = world.sef()
    if not is_new_agent:
        world.primary(sef)
    named = world.launch() if change != "unknown" else "i-0000000000000000f"
    if change == "terminate":
        world.client.terminate_instances(InstanceIds=[named])
    if change == "stop":
        world.client.stop_instances(InstanceIds=[named])
    if change == "away":
        world.simulation.add_fault("DescribeInstances", error_code="ServiceUnavailable")
    for _ in range(2):
        warnings = sef.register_agent("a", {"instance_id": named, "pool_id": POOL})["warnings"]
        assert len(warnings) == (expected is not None)
        assert expected is None or expected in warnings[0]
    assert world.agent().instance_id == named


# Orphans beyond the limit


@ONCE
def test_orphans_beyond_the_limit_are_told_daily_and_shown(world: World) -> None:
    sef = world.sef(max_terminations_per_run=3)
    primary = world.primary(sef)
    sef.enable_manual_replica_mode("a")
    tags = world.described(world.standby().instance_id)["Tags"]
    sef.disable_manual_replica_mode("a")

    def orphan() -> str:
        spec = [{"ResourceType": "instance", "Tags": tags}]
        return world.launch(TagSpecifications=spec)

    orphans = [orphan() for _ in range(4)]
    for _ in range(2 * 24 * 2):
        world.clock.advance(1800)
        sef.sweep_orphans()
    assert {world.state(i) for i in orphans} <= ALIVE
    told = events(world, "limit_reached")
    assert len(told) == 2, "at first, and a day later"
    assert all(i in told[0].message for i in orphans)
    shown = sef.get_agent_status("a")["orphans"]
    assert {entry["instance_id"] for entry in shown} == set(orphans)
    assert "SEF_MAX_TERMINATIONS_PER_RUN" in shown[0]["reason"]

    fifth = orphan()
    world.clock.advance(600)
    sef.sweep_orphans()
    assert fifth in events(world, "limit_reached")[-1].message
    assert len(events(world, "limit_reached")) == 3

    for instance_id in (orphans[0], fifth):
        world.simulation.terminate(instance_id)
    world.clock.advance(60)
    assert sef.sweep_orphans() == 3, "within the limit again"
    assert sef.get_agent_status("a")["orphans"] == []
    assert world.state(primary) in ALIVE


@pytest.mark.parametrize("role", ["primary", "surplus"])
@ONCE
def test_standby_whose_client_token_is_used_up_launches_another(
    world: World, file: Path, role: str
) -> None:
    """Its row is from before the launch, so SEF uses the token of that launch again."""

    def crash(**_: Any) -> None:
        raise Crash

    settings = SETTINGS | {"spot_pools": ",".join(OTHERS)}
    broken = world.sef(world.cloud("before-call.ec2.DescribeSpotPriceHistory", crash), **settings)
    world.primary(broken)
    with pytest.raises(Crash):
        broken.enable_manual_replica_mode("a")
    assert world.attempts() == []
    backup = Backup(world, file)
    sef = world.sef(**settings)
    world.settle(sef, 1)
    launched = str(world.standby().instance_id)  # type: ignore[union-attr]
    if role == "primary":
        sef.execute_manual_switch("a")
    backup.restore()
    sef = world.sef(**settings)
    if role == "primary":
        sef.register_agent("a", {"instance_id": launched})
    else:
        sef.adopt_instance("a", launched, role)
    for _ in range(4):
        world.settle(sef, 61)
    assert world.state(launched) == ("running" if role == "primary" else "terminated")
    standby = world.standby()
    assert standby is not None
    assert standby.status == "ready"
    assert standby.instance_id != launched
    assert world.state(str(standby.instance_id)) == "running"
