"""SEF's own limits on launches and terminations hold back work and are reported once."""

from typing import Any

from sef.clock import iso
from tests.failover.instances.test_orphans import named, orphan
from tests.failover.test_races import together
from tests.harness import ALIVE, ONCE, REBALANCE, TERMINATION, World


def limit_events(world: World, agent_id: str | None = None) -> list[Any]:
    events = [e for e in world.rows("system_events", None) if e.event_type == "limit_reached"]
    return [e for e in events if e.agent_id == agent_id]


def interrupt_repeatedly(world: World, sef: Any, times: int) -> list[Any]:
    """Interrupt each new primary in turn, and return the answers to the notices."""
    answers = []
    for _ in range(times):
        primary = world.agent().instance_id
        answers.append(world.signal(sef, TERMINATION, instance_id=primary))
        world.settle(sef, 30)
    return answers


# Launches for one agent within an hour


@ONCE
def test_an_agent_has_a_limited_number_of_launches_in_an_hour(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=3, interrupted_pool_cooldown_seconds=0, probation_seconds=0
    )
    world.primary(sef)
    answers = interrupt_repeatedly(world, sef, 4)
    assert [a["action"] for a in answers] == ["promoted"] * 3 + ["waiting"]
    assert len(world.tagged()) == 3
    [event] = limit_events(world, "a")
    assert event.severity == "error"
    assert event.details["limit"] == "SEF_MAX_LAUNCHES_PER_HOUR"
    assert event.incident_id == answers[-1]["incident_id"]
    assert sef.get_agent_status("a")["incident"]["status"] == "needs_operator"
    world.check()


@ONCE
def test_a_limit_is_reported_once_and_the_launch_continues_after_the_hour(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=2, interrupted_pool_cooldown_seconds=0, probation_seconds=0
    )
    world.primary(sef)
    interrupt_repeatedly(world, sef, 3)
    for _ in range(8):
        world.settle(sef, 300)
    assert len(world.tagged()) == 2
    assert len(limit_events(world, "a")) == 1
    assert len(world.events("operator_needed")) == 1
    for _ in range(5):
        world.settle(sef, 300)
    assert world.agent().instance_id == world.tagged()[-1].id
    assert {i.status for i in world.rows("incidents")} == {"done"}
    world.check()


@ONCE
def test_a_new_episode_is_reported_again(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=1, interrupted_pool_cooldown_seconds=0, probation_seconds=0
    )
    world.primary(sef)
    for number in range(2):
        interrupt_repeatedly(world, sef, 2)
        assert len(limit_events(world, "a")) == number + 1
        for _ in range(13):
            world.settle(sef, 300)
        world.clock.advance(3600)
    world.check()


@ONCE
def test_refused_calls_do_not_count(world: World) -> None:
    """While no pool has capacity, an emergency tries all pools repeatedly."""
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
    assert limit_events(world, "a") == []
    world.check()


@ONCE
def test_a_call_with_unknown_effect_counts_and_may_be_repeated(world: World) -> None:
    sef = world.sef(max_launches_per_hour=1, probation_seconds=0)
    primary = world.primary(sef)
    world.simulation.add_fault("RunInstances", count=2, lose_reply=True)
    world.signal(sef, TERMINATION, instance_id=primary)
    world.settle(sef, 7)
    assert world.agent().instance_id == world.tagged()[0].id
    assert limit_events(world, "a") == []
    world.check()


@ONCE
def test_an_agent_at_its_limit_does_not_delay_other_agents(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=1, interrupted_pool_cooldown_seconds=0, probation_seconds=0
    )
    world.primary(sef)
    interrupt_repeatedly(world, sef, 2)
    other = world.primary(sef, "b")
    assert world.signal(sef, TERMINATION, "b", instance_id=other)["action"] == "promoted"
    world.check("b")


@ONCE
def test_a_drill_at_the_limit_ends_at_once(world: World) -> None:
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
def test_summary_obstacle_and_status_name_the_limit(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=1, interrupted_pool_cooldown_seconds=0, probation_seconds=0
    )
    world.primary(sef)
    *_, answer = interrupt_repeatedly(world, sef, 2)
    assert "SEF_MAX_LAUNCHES_PER_HOUR" in answer["message"]
    shown = sef.get_incident(answer["incident_id"])["incident"]
    assert "SEF_MAX_LAUNCHES_PER_HOUR" in shown["summary"]
    assert "SEF_MAX_LAUNCHES_PER_HOUR" in shown["obstacle"]
    assert sef.get_agent_status("a")["incident"]["obstacle"] == shown["obstacle"]
    no_standby = sef.get_agent_status("a")["no_standby"]
    assert no_standby["reason"] == shown["obstacle"]
    assert no_standby["next_try_at"] == iso(world.agent().not_before)
    for _ in range(13):
        world.settle(sef, 300)
    shown = sef.get_incident(answer["incident_id"])["incident"]
    assert (shown["status"], shown["obstacle"]) == ("done", None)


# Live instances of the whole fleet


@ONCE
def test_the_fleet_does_not_exceed_its_instance_limit(world: World) -> None:
    sef = world.sef(max_instances=4)  # of which 2 are kept for emergencies
    agents = [f"agent-{number}" for number in range(4)]
    for agent_id in agents:
        world.primary(sef, agent_id)
        sef.enable_manual_replica_mode(agent_id)
    assert sum(len(world.alive(a)) for a in agents) == 2
    for _ in range(5):
        world.settle(sef, 244)
    assert sum(len(world.alive(a)) for a in agents) == 2
    [event] = limit_events(world)
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
def test_an_emergency_at_the_instance_limit_needs_an_operator(world: World) -> None:
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
def test_limits_of_zero_hold_back_nothing(world: World) -> None:
    sef = world.sef(
        max_launches_per_hour=0,
        max_instances=0,
        interrupted_pool_cooldown_seconds=0,
        probation_seconds=0,
    )
    world.primary(sef)
    interrupt_repeatedly(world, sef, 3)
    assert len(world.promotions()) == 3
    world.check()


# Terminations of one pass


@ONCE
def test_a_sweep_with_too_many_orphans_terminates_none(world: World) -> None:
    """If the rows do not know so many instances, the rows are most likely wrong."""
    sef = named(world)
    forgotten = [orphan(world) for _ in range(3)]
    careful = world.sef(max_terminations_per_run=2)
    world.clock.advance(600)
    for _ in range(3):
        assert careful.sweep_orphans() == 0
        world.clock.advance(60)
    assert {world.state(i) for i in forgotten} == {"running"}
    [event] = limit_events(world)
    assert event.details["limit"] == "SEF_MAX_TERMINATIONS_PER_RUN"
    assert event.severity == "error"
    assert sef.sweep_orphans() == 3, "the operator has checked the instances and raised the limit"


@ONCE
def test_a_pass_terminates_up_to_its_limit_and_the_next_pass_continues(world: World) -> None:
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
    assert len(limit_events(world)) == 1
    for agent_id in agents:
        world.check(agent_id)


@ONCE
def test_two_workers_report_a_limit_once(world: World) -> None:
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
    assert len(limit_events(world)) == 1
    assert sum(i.state in ALIVE for a in agents for i in world.tagged(a)) == 1
