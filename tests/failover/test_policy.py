"""The policy: the next step in every situation, as a table, and the laws that it keeps."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from sef.failover.incidents.risk import Risk
from sef.failover.policy import (
    AgentState,
    CloseIncident,
    CreateRelief,
    CreateStandby,
    IncidentState,
    Promote,
    Release,
    Rest,
    goal_for,
    higher_goal,
    next_step,
    step_beside_recommendation,
)
from sef.terms import (
    LIVE,
    NOTICE,
    Goal,
    IncidentStatus,
    ReplicaStatus,
    ReplicaType,
    SignalType,
)

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
TTL = timedelta(hours=2)
MICRO = timedelta(microseconds=1)

# Every situation

AGENTS = [AgentState(*flags) for flags in product((False, True), repeat=4)]
STANDBYS = [None, ReplicaStatus.LAUNCHING, ReplicaStatus.READY]
REBALANCED_AT = [None, NOW, NOW - TTL + MICRO, NOW - TTL, NOW - 9 * TTL]
INCIDENTS = [
    None,
    *(IncidentState(*parts) for parts in product(Goal, REBALANCED_AT, (True, False))),
    *(
        IncidentState(Goal.SWITCH, None, *parts)
        for parts in product((True, False), [True], (True, False))
    ),
]


@dataclass(frozen=True)
class Situation:
    agent: AgentState
    standby: ReplicaStatus | None
    incident: IncidentState | None

    @property
    def step(self):
        return next_step(self.agent, self.standby, self.incident, standby_ttl=TTL, now=NOW)

    @property
    def concerns_primary(self):
        return self.incident is not None and self.incident.concerns_primary

    @property
    def is_termination(self):
        return (
            self.concerns_primary
            and self.incident.goal is Goal.SWITCH
            and not self.incident.is_planned
        )

    @property
    def is_planned(self):
        return self.concerns_primary and self.incident.is_planned

    @property
    def is_expired(self):
        """Return True for a recommendation that no termination followed in time."""
        if not self.concerns_primary or self.is_termination or self.is_planned:
            return False
        since = self.incident.rebalance_at
        return since is None or NOW - since >= TTL


SITUATIONS = [Situation(*parts) for parts in product(AGENTS, STANDBYS, INCIDENTS)]


def situations_where(predicate):
    matches = [situation for situation in SITUATIONS if predicate(situation)]
    assert matches, "no situation matches"
    return matches


def situations_with(kind):
    return situations_where(lambda situation: isinstance(situation.step, kind))


def test_all_situations_are_visited():
    assert {standby for standby in STANDBYS if standby} == LIVE
    assert len(SITUATIONS) == 16 * 3 * (1 + 3 * 5 * 2 + 4)
    for kind in (CreateStandby, Promote, Release, CloseIncident, Rest):
        assert situations_with(kind)


# The table

MANUAL = AgentState(manual=True, auto_switch=False, auto_terminate=False)
SWITCH = AgentState(manual=False, auto_switch=True, auto_terminate=False)
BOTH = AgentState(manual=False, auto_switch=True, auto_terminate=True)
RETIRE = AgentState(manual=False, auto_switch=False, auto_terminate=True)
NEITHER = AgentState(manual=False, auto_switch=False, auto_terminate=False)

AGENT = {"manual": [MANUAL], "switching": [SWITCH, BOTH], "waiting": [RETIRE, NEITHER]}
AGENT["any"] = [MANUAL, SWITCH, BOTH, RETIRE, NEITHER]
AGENT["not manual"] = [SWITCH, BOTH, RETIRE, NEITHER]
AGENT["probation"] = [replace(agent, on_probation=True) for agent in AGENT["not manual"]]

OLD, FRESH = NOW - TTL, NOW - TTL + MICRO
INCIDENT = {
    "none": [None],
    "monitor": [IncidentState(Goal.MONITOR, FRESH, True)],
    "standby": [IncidentState(Goal.STANDBY, FRESH, True)],
    "switch": [IncidentState(Goal.SWITCH, at, True) for at in (None, FRESH, OLD)],
    "expired": [
        IncidentState(goal, at, True)
        for goal in (Goal.MONITOR, Goal.STANDBY)
        for at in (None, OLD, OLD - TTL)
    ],
    "planned": [IncidentState(Goal.SWITCH, None, True, is_planned=True)],
    "tried": [IncidentState(Goal.SWITCH, None, True, is_planned=True, had_standby=True)],
    "replaced": [IncidentState(goal, at, False) for goal in Goal for at in (None, FRESH, OLD)],
}

TABLE = """
    incident | agent      | no standby         | launching | ready
    ---------|------------|--------------------|-----------|--------
    none     | manual     | create manual      | rest      | rest
    none     | not manual | rest               | release   | release
    monitor  | manual     | create manual      | rest      | rest
    monitor  | not manual | rest               | release   | release
    none     | probation  | create rebalance   | rest      | rest
    monitor  | probation  | create rebalance   | rest      | rest
    planned  | manual     | create manual      | rest      | promote
    planned  | not manual | create rebalance   | rest      | promote
    tried    | any        | released           | rest      | promote
    standby  | switching  | create rebalance   | rest      | promote
    standby  | waiting    | create rebalance   | rest      | rest
    standby  | manual     | create rebalance   | rest      | rest
    switch   | any        | create termination | rest      | promote
    expired  | any        | released           | released  | released
    replaced | any        | done               | done      | done
"""
STEPS = {
    "create manual": (CreateStandby, ReplicaType.MANUAL),
    "create rebalance": (CreateStandby, ReplicaType.REBALANCE),
    "create termination": (CreateStandby, ReplicaType.TERMINATION),
    "rest": (Rest, None),
    "release": (Release, None),
    "promote": (Promote, None),
    "released": (CloseIncident, IncidentStatus.RELEASED),
    "done": (CloseIncident, IncidentStatus.DONE),
}


def cells():
    for line in TABLE.strip().splitlines()[2:]:
        incident, agent, *steps = (cell.strip() for cell in line.split("|"))
        for standby, step in zip(STANDBYS, steps, strict=True):
            name = f"{incident}-{agent}-{standby or 'no standby'}-{step}"
            yield pytest.param(incident, agent, standby, step, id=name.replace(" ", "-"))


@pytest.mark.parametrize(("incident", "agent", "standby", "step"), list(cells()))
def test_the_next_step(incident, agent, standby, step):
    kind, detail = STEPS[step]
    for state, flags in product(INCIDENT[incident], AGENT[agent]):
        taken = Situation(flags, standby, state).step
        assert isinstance(taken, kind)
        assert getattr(taken, "type", getattr(taken, "outcome", None)) is detail


# What never happens, in any situation, sensible or not


def test_only_a_ready_standby_is_promoted():
    assert all(situation.standby is ReplicaStatus.READY for situation in situations_with(Promote))


def test_no_second_standby_is_launched():
    assert all(situation.standby is None for situation in situations_with(CreateStandby))


def test_only_a_standby_that_is_there_is_released():
    assert all(situation.standby is not None for situation in situations_with(Release))


def test_only_an_incident_that_is_open_is_closed():
    assert all(situation.incident is not None for situation in situations_with(CloseIncident))


def test_a_termination_neither_releases_a_standby_nor_closes_the_incident():
    for situation in situations_where(lambda situation: situation.is_termination):
        assert not isinstance(situation.step, Release | CloseIncident)


def test_a_termination_is_an_emergency_in_every_mode():
    for situation in situations_where(lambda situation: situation.is_termination):
        expected = {
            None: CreateStandby,
            ReplicaStatus.LAUNCHING: Rest,
            ReplicaStatus.READY: Promote,
        }
        assert isinstance(situation.step, expected[situation.standby])


def test_manual_mode_never_releases_its_standby():
    assert not any(situation.agent.manual for situation in situations_with(Release))


def test_manual_mode_without_an_incident_always_has_a_standby():
    for situation in situations_where(
        lambda s: s.agent.manual and s.incident is None and not s.standby
    ):
        assert situation.step == CreateStandby(ReplicaType.MANUAL, "manual mode keeps a standby")


def test_only_a_termination_or_a_planned_switchover_promotes_without_auto_switch():
    for situation in situations_with(Promote):
        assert situation.agent.auto_switch or situation.is_termination or situation.is_planned


def test_auto_terminate_does_not_change_the_step():
    for situation in SITUATIONS:
        agent = situation.agent
        other = replace(agent, auto_terminate=not agent.auto_terminate)
        assert Situation(other, situation.standby, situation.incident).step == situation.step


def test_an_expired_recommendation_is_closed_before_anything_else():
    for situation in situations_where(lambda situation: situation.is_expired):
        assert isinstance(situation.step, CloseIncident)
        assert situation.step.outcome is IncidentStatus.RELEASED


def test_only_an_expired_recommendation_or_a_failed_plan_is_released():
    for situation in situations_with(CloseIncident):
        if situation.step.outcome is IncidentStatus.RELEASED:
            has_failed = situation.is_planned and situation.incident.had_standby
            assert situation.is_expired or (has_failed and situation.standby is None)


def test_a_planned_switchover_creates_one_standby():
    for situation in situations_where(lambda s: s.is_planned and s.incident.had_standby):
        assert not isinstance(situation.step, CreateStandby)


def test_an_incident_of_a_former_primary_only_closes():
    for situation in situations_where(
        lambda s: s.incident is not None and not s.incident.concerns_primary
    ):
        assert isinstance(situation.step, CloseIncident)
        assert situation.step.outcome is IncidentStatus.DONE


def test_a_recommendation_without_risk_creates_no_standby():
    for situation in situations_with(CreateStandby):
        if situation.incident is None or situation.incident.goal is Goal.MONITOR:
            assert situation.step.type is ReplicaType.MANUAL or situation.agent.on_probation


def test_every_step_except_rest_has_a_reason():
    for situation in SITUATIONS:
        assert isinstance(situation.step, Rest) or situation.step.reason.strip()


def test_every_agent_comes_to_rest():
    """If steps are taken and launches succeed, the policy never loops."""
    for start in SITUATIONS:
        agent, standby, incident = start.agent, start.standby, start.incident
        steps = 0
        while True:
            step = Situation(agent, standby, incident).step
            match step:
                case CreateStandby():
                    standby = ReplicaStatus.LAUNCHING
                    if incident:
                        incident = replace(incident, had_standby=True)
                case Promote():
                    standby = None
                    if incident:
                        incident = replace(incident, concerns_primary=False)
                case Release():
                    standby = None
                case CloseIncident():
                    incident = None
                case Rest():
                    if standby is not ReplicaStatus.LAUNCHING:
                        break
                    standby = ReplicaStatus.READY
            steps += 1
            assert steps <= 8, start
        assert (standby is ReplicaStatus.READY) == (
            agent.manual
            or agent.on_probation
            or (incident is not None and incident.goal is Goal.STANDBY)
        )
        if start.is_termination:
            assert incident is None


# A standby that has a recommendation itself


@pytest.mark.parametrize("has_relief", [True, False])
def test_only_an_emergency_promotes_a_recommended_standby(has_relief):
    for situation in situations_where(lambda s: s.standby is ReplicaStatus.READY):
        step = situation.step
        beside = step_beside_recommendation(
            step, situation.incident, ReplicaType.MANUAL, has_relief=has_relief
        )
        if not isinstance(step, Promote | Rest) or situation.is_termination:
            assert beside == step
        elif has_relief:
            assert isinstance(beside, Rest)
        elif situation.is_planned and situation.incident.had_standby:
            assert isinstance(beside, CloseIncident)
        else:
            assert isinstance(beside, CreateRelief)


# Decisions


@pytest.mark.parametrize(
    ("signal", "score", "goal"),
    [
        pytest.param(SignalType.TERMINATION, None, Goal.SWITCH, id="termination"),
        pytest.param(SignalType.TERMINATION, 0.0, Goal.SWITCH, id="termination-whatever-the-risk"),
        pytest.param(SignalType.REBALANCE, 0.31, Goal.STANDBY, id="above-the-threshold"),
        pytest.param(SignalType.REBALANCE, 0.30, Goal.STANDBY, id="at-the-threshold"),
        pytest.param(SignalType.REBALANCE, 0.2999, Goal.MONITOR, id="below-the-threshold"),
        pytest.param(SignalType.REBALANCE, 0.5, Goal.STANDBY, id="no-history"),
    ],
)
def test_the_goal_that_a_signal_sets(signal, score, goal):
    risk = None if score is None else Risk(score, ("because",))
    decision = goal_for(signal, risk, 0.30)
    assert decision.goal is goal
    assert decision.reason
    assert (signal is SignalType.REBALANCE) == ("because" in decision.reason)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_threshold_can_be_zero_or_one(threshold):
    always = goal_for(SignalType.REBALANCE, Risk(1.0, ()), threshold)
    assert always.goal is Goal.STANDBY
    never = goal_for(SignalType.REBALANCE, Risk(0.0, ()), threshold)
    assert never.goal is (Goal.STANDBY if threshold == 0 else Goal.MONITOR)


def test_a_recommendation_cannot_be_decided_without_its_risk():
    with pytest.raises(ValueError, match="risk"):
        goal_for(SignalType.REBALANCE, None, 0.30)


# Goals and modes


def test_a_goal_only_rises():
    assert list(Goal) == [Goal.MONITOR, Goal.STANDBY, Goal.SWITCH]
    for low, high in zip(Goal, list(Goal)[1:], strict=False):
        assert higher_goal(low, high) is higher_goal(high, low) is high


@pytest.mark.parametrize(("old", "new", "third"), list(product(Goal, repeat=3)))
def test_higher_goal_is_a_maximum(old, new, third):
    order = list(Goal).index
    assert order(higher_goal(old, new)) >= max(order(old), order(new))
    assert higher_goal(old, new) in (old, new)
    assert higher_goal(old, new) is higher_goal(new, old)
    assert higher_goal(old, old) is old
    assert higher_goal(higher_goal(old, new), third) is higher_goal(old, higher_goal(new, third))


def test_aws_gives_two_minutes():
    assert timedelta(minutes=2) == NOTICE
