"""Limits against damage: what is not done however good the reasons look, and that it is said."""

from typing import Any

from sef.clock import iso
from tests.failover.instances.test_orphans import named, orphan
from tests.failover.test_races import together
from tests.harness import ALIVE, ONCE, REBALANCE, TERMINATION, World


def said(world: World, agent_id: str | None = None) -> list[Any]:
    found = [e for e in world.rows("system_events", None) if e.event_type == "limit_reached"]
    return [e for e in found if e.agent_id == agent_id]


def interrupted_again_and_again(world: World, sef: Any, times: int) -> list[Any]:
    """Each new primary is interrupted in its turn; returns what each signal was answered."""
    answers = []
    for _ in range(times):
        primary = world.agent().instance_id
        answers.append(world.signal(sef, TERMINATION, instance_id=primary))
        world.settle(sef, 30)
    return answers


# Launches of one agent within an hour


@ONCE
def test_an_agent_has_so_many_launches_in_an_hour_and_no_more(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=3, interrupted_pool_cooldown_seconds=0, probation_seconds=0
    )
    world.primary(sef)
    answers = interrupted_again_and_again(world, sef, 4)
    assert [a["action"] for a in answers] == ["promoted"] * 3 + ["waiting"]
    assert len(world.tagged()) == 3
    [event] = said(world, "a")
    assert event.severity == "error"
    assert event.details["limit"] == "SEF_MAX_LAUNCHES_PER_HOUR"
    assert event.incident_id == answers[-1]["incident_id"]
    assert sef.get_agent_status("a")["incident"]["status"] == "needs_operator"
    world.check()


@ONCE
def test_it_is_said_once_and_goes_on_by_itself_when_the_hour_is_over(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=2, interrupted_pool_cooldown_seconds=0, probation_seconds=0
    )
    world.primary(sef)
    interrupted_again_and_again(world, sef, 3)
    for _ in range(40):
        world.settle(sef, 60)
    assert len(world.tagged()) == 2
    assert len(said(world, "a")) == 1
    assert len(world.events("operator_needed")) == 1
    for _ in range(25):
        world.settle(sef, 60)
    assert world.agent().instance_id == world.tagged()[-1].id
    assert {i.status for i in world.rows("incidents")} == {"done"}
    world.check()


@ONCE
def test_the_next_episode_is_said_anew(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=1, interrupted_pool_cooldown_seconds=0, probation_seconds=0
    )
    world.primary(sef)
    for number in range(2):
        interrupted_again_and_again(world, sef, 2)
        assert len(said(world, "a")) == number + 1
        for _ in range(62):
            world.settle(sef, 60)
        world.clock.advance(3600)
    world.check()


@ONCE
def test_refusals_of_ec2_do_not_count(world: World) -> None:
    """While no pool has capacity an emergency tries them all, again and again."""
    sef = world.sef(max_launches_per_hour=1, probation_seconds=0)
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    world.signal(sef, TERMINATION, instance_id=primary)
    for _ in range(5):
        world.settle(sef, 11)
    assert len(world.attempts()) > 5
    world.simulation.clear_faults()
    for _ in range(3):
        world.settle(sef, 11)
    assert world.agent().instance_id != primary
    assert said(world, "a") == []
    world.check()


@ONCE
def test_a_call_of_unknown_effect_counts_and_may_be_repeated(world: World) -> None:
    sef = world.sef(max_launches_per_hour=1, probation_seconds=0)
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", count=2, lose_reply=True)
    world.signal(sef, TERMINATION, instance_id=primary)
    world.settle(sef, 7)
    assert world.agent().instance_id == world.tagged()[0].id
    assert said(world, "a") == []
    world.check()


@ONCE
def test_one_agent_at_its_limit_holds_up_no_other(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=1, interrupted_pool_cooldown_seconds=0, probation_seconds=0
    )
    world.primary(sef)
    interrupted_again_and_again(world, sef, 2)
    other = world.primary(sef, "b")
    assert world.signal(sef, TERMINATION, "b", instance_id=other)["action"] == "promoted"
    world.check("b")


@ONCE
def test_a_drill_at_the_limit_is_over_at_once(world: World) -> None:
    sef = world.sef(max_launches_per_hour=1, probation_seconds=0)
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    world.settle(sef, 7300)
    assert world.standby() is None
    sef = world.sef(max_instances=1)
    world.primary(sef, "b")
    sef.enable_manual_replica_mode("b")
    sef.register_agent("a", {"drill_interval": 3600})
    world.clock.advance(3600)
    sef.plan_switchovers()
    world.settle(sef, 1)
    [drill] = [i for i in world.rows("incidents") if i.kind == "drill"]
    assert drill.status == "released"
    assert world.agent().instance_id == primary
    world.check()


@ONCE
def test_the_summary_names_the_limit_and_not_only_what_aws_does(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=1, interrupted_pool_cooldown_seconds=0, probation_seconds=0
    )
    world.primary(sef)
    *_, answer = interrupted_again_and_again(world, sef, 2)
    assert "SEF_MAX_LAUNCHES_PER_HOUR" in answer["message"]
    shown = sef.get_incident(answer["incident_id"])["incident"]
    assert "SEF_MAX_LAUNCHES_PER_HOUR" in shown["summary"]
    assert "SEF_MAX_LAUNCHES_PER_HOUR" in shown["obstacle"]
    assert sef.get_agent_status("a")["incident"]["obstacle"] == shown["obstacle"]
    told = sef.get_agent_status("a")["no_standby"]
    assert told["reason"] == shown["obstacle"]
    assert told["next_try_at"] == iso(world.agent().not_before)
    for _ in range(62):
        world.settle(sef, 60)
    shown = sef.get_incident(answer["incident_id"])["incident"]
    assert (shown["status"], shown["obstacle"]) == ("done", None)


# Live instances in all


@ONCE
def test_no_more_instances_run_than_the_limit_says(world: World) -> None:
    sef = world.sef(max_instances=2)
    agents = [f"agent-{number}" for number in range(4)]
    for agent_id in agents:
        world.primary(sef, agent_id)
        sef.enable_manual_replica_mode(agent_id)
    assert sum(len(world.alive(a)) for a in agents) == 2
    for _ in range(20):
        world.settle(sef, 61)
    assert sum(len(world.alive(a)) for a in agents) == 2
    [event] = said(world)
    assert event.severity == "error"
    assert event.details["limit"] == "SEF_MAX_INSTANCES"

    sef.disable_manual_replica_mode(agents[0])
    for _ in range(2):
        world.settle(sef, 61)
    assert sum(len(world.alive(a)) for a in agents) == 2
    assert len(world.alive(agents[0])) == 0
    for agent_id in agents:
        world.check(agent_id)


@ONCE
def test_an_emergency_that_the_limit_stops_needs_an_operator(world: World) -> None:
    sef = world.sef(max_instances=1)
    world.primary(sef, "b")
    sef.enable_manual_replica_mode("b")
    primary = world.primary(sef)
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    assert answer["action"] == "waiting"
    assert sef.get_agent_status("a")["incident"]["status"] == "needs_operator"
    sef.disable_manual_replica_mode("b")
    world.settle(sef, 11)
    assert world.agent().instance_id == world.tagged()[0].id
    assert world.rows("incidents")[0].status == "done"
    world.check()


@ONCE
def test_without_limits_nothing_is_held_back(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=0,
        max_instances=0,
        interrupted_pool_cooldown_seconds=0,
        probation_seconds=0,
    )
    world.primary(sef)
    interrupted_again_and_again(world, sef, 3)
    assert len(world.promotions()) == 3
    world.check()


# Terminations of one cycle


@ONCE
def test_a_sweep_that_finds_too_many_orphans_terminates_none(world: World) -> None:
    """Rows that know nothing of so many instances are most likely the wrong rows."""
    sef = named(world)
    forgotten = [orphan(world) for _ in range(3)]
    careful = world.sef(max_terminations_per_run=2)
    world.clock.advance(600)
    for _ in range(3):
        assert careful.sweep_orphans() == 0
        world.clock.advance(60)
    assert {world.state(i) for i in forgotten} == {"running"}
    [event] = said(world)
    assert event.details["limit"] == "SEF_MAX_TERMINATIONS_PER_RUN"
    assert event.severity == "error"
    assert sef.sweep_orphans() == 3, "an operator who has looked raises the limit"


@ONCE
def test_a_round_terminates_so_many_and_the_next_one_goes_on(world: World) -> None:
    sef = world.sef(max_terminations_per_run=2, max_instances=0)
    agents = [f"agent-{number}" for number in range(5)]
    for agent_id in agents:
        world.primary(sef, agent_id)
        world.signal(sef, REBALANCE, agent_id)
    world.clock.advance(7300)
    left = []
    for _ in range(4):
        world.settle(sef, 3)
        left.append(sum(len(world.alive(a)) for a in agents))
    assert left == [3, 1, 0, 0]
    assert len(said(world)) == 1
    for agent_id in agents:
        world.check(agent_id)


@ONCE
def test_two_workers_say_it_once(world: World) -> None:
    one, two = (world.sef(max_instances=1) for _ in range(2))
    agents = [f"agent-{number}" for number in range(6)]
    for agent_id in agents:
        world.primary(one, agent_id)
    one.enable_manual_replica_mode(agents[0])
    together(
        *(
            lambda sef=sef, a=a: world.signal(sef, TERMINATION, a)
            for a in agents[1:]
            for sef in (one, two)
        )
    )
    assert len(said(world)) == 1
    assert sum(i.state in ALIVE for a in agents for i in world.tagged(a)) == 1
