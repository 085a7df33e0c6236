"""What is to be done for an agent: the goal that a signal sets, and the next step towards it.

An incident is `open` until its instance was replaced (`done`) or nothing came of it (`released`);
one of an instance that is not the agent's primary is `ignored` from the start. The goal only ever
rises: monitor, then standby, then switch.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sef.failover.incidents.risk import Risk
from sef.terms import Goal, IncidentStatus, ReplicaStatus, ReplicaType, SignalType


@dataclass(frozen=True, slots=True)
class AgentState:
    manual: bool
    auto_switch: bool
    auto_terminate: bool
    on_probation: bool = False
    """Whether its primary is fresh and in a risky pool."""


@dataclass(frozen=True, slots=True)
class IncidentState:
    goal: Goal
    rebalance_at: datetime | None
    concerns_primary: bool
    """False once the agent has another primary than the one that was being lost."""
    is_planned: bool = False
    """A drill, or the way back from on-demand: worth one standby, and no more."""
    had_standby: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    goal: Goal
    reason: str


@dataclass(frozen=True, slots=True)
class CreateStandby:
    type: ReplicaType
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    reason: str


@dataclass(frozen=True, slots=True)
class CloseIncident:
    outcome: IncidentStatus
    reason: str


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to decide: what is there is what is wanted, or is on its way."""


NextStep = CreateStandby | Promote | Release | CloseIncident | Rest


def goal_for(signal: SignalType, risk: Risk | None, threshold: float) -> Decision:
    """The goal that a signal about the agent's primary sets; `risk` is for recommendations."""
    if signal is SignalType.TERMINATION:
        return Decision(Goal.SWITCH, "AWS takes the instance: a replica becomes the primary")
    if risk is None:
        raise ValueError("a recommendation is decided by its risk")
    because = "; ".join(risk.reasons)
    if risk.score >= threshold:
        return Decision(
            Goal.STANDBY, f"risk {risk.score:.2f} is at or above {threshold:.2f} ({because})"
        )
    return Decision(Goal.MONITOR, f"risk {risk.score:.2f} is below {threshold:.2f} ({because})")


def higher_goal(old: Goal, new: Goal) -> Goal:
    """The higher of two goals."""
    return max(old, new, key=list(Goal).index)


def next_step(
    agent: AgentState,
    standby: ReplicaStatus | None,
    incident: IncidentState | None,
    *,
    standby_ttl: timedelta,
    now: datetime,
) -> NextStep:
    """The one thing to do next for an agent, given its live standby and its open incident."""
    if incident is not None:
        if not incident.concerns_primary:
            return CloseIncident(IncidentStatus.DONE, "the agent has another primary by now")
        if incident.is_planned:
            return _planned_step(agent, standby, incident)
        if incident.goal is Goal.SWITCH:
            if standby is None:
                return CreateStandby(
                    ReplicaType.TERMINATION, "no standby when the termination was announced"
                )
            if standby is ReplicaStatus.READY:
                return Promote("the primary is being terminated and the standby is ready")
            return Rest()
        since = incident.rebalance_at
        if since is None or now - since >= standby_ttl:
            return CloseIncident(
                IncidentStatus.RELEASED, "no termination followed the recommendation"
            )
        if incident.goal is Goal.STANDBY:
            if standby is None:
                return CreateStandby(ReplicaType.REBALANCE, "a rebalance was recommended")
            if standby is ReplicaStatus.READY and agent.auto_switch:
                return Promote("auto-switch is on and the standby is ready")
            return Rest()
    if agent.manual:
        if standby is None:
            return CreateStandby(ReplicaType.MANUAL, "manual mode keeps a standby")
        return Rest()
    if agent.on_probation:
        if standby is None:
            return CreateStandby(ReplicaType.REBALANCE, "the fresh primary is in a risky pool")
        return Rest()
    if standby is not None:
        return Release("nothing asks for a standby any more")
    return Rest()


def _planned_step(
    agent: AgentState, standby: ReplicaStatus | None, incident: IncidentState
) -> NextStep:
    if standby is ReplicaStatus.READY:
        return Promote("a planned switchover, and the standby is ready")
    if standby is not None:
        return Rest()
    if incident.had_standby:
        return CloseIncident(IncidentStatus.RELEASED, "no standby could be had for it")
    kind = ReplicaType.MANUAL if agent.manual else ReplicaType.REBALANCE
    return CreateStandby(kind, "a planned switchover")
