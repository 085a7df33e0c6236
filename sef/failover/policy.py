"""Decide the goal that a signal sets for an agent, and the next step towards it.

The goal of an incident (`sef.terms.Goal`) never falls:

- `monitor`: AWS recommended a rebalance, but the risk of the pool is too low for a standby. Record
  the incident and wait.
- `standby`: AWS recommended a rebalance and the risk is at or above the threshold. Keep a standby;
  promote it only in auto-switch.
- `switch`: the primary is being terminated or is lost, or a planned switchover is due. Promote a
  standby as soon as one is ready.

An incident is open until the agent has another primary (`done`) or until it ends without one
(`released`). A signal for an instance that is not the agent's primary is `ignored` at once.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sef.failover.incidents.risk import Risk
from sef.terms import Goal, IncidentStatus, ReplicaStatus, ReplicaType, SignalType

LAST_MOMENT = timedelta(seconds=30)
"""Time before the end of the primary from which a launch is too late to wait for."""


@dataclass(frozen=True, slots=True)
class AgentState:
    """The modes of an agent, as far as they decide its next step."""

    manual: bool
    auto_switch: bool
    auto_terminate: bool
    on_probation: bool = False
    """The primary is new and its pool is risky."""


@dataclass(frozen=True, slots=True)
class IncidentState:
    """The facts about an open incident that decide the next step."""

    goal: Goal
    rebalance_at: datetime | None
    concerns_primary: bool
    """False once the agent has another primary than the instance of the incident."""
    is_planned: bool = False
    """A drill or a return to spot. It launches at most one standby."""
    had_standby: bool = False
    """A standby was already created for this incident."""
    deadline: datetime | None = None
    """The end of the primary; for a loss, a time in the past."""


@dataclass(frozen=True, slots=True)
class Spare:
    """A former primary or a released standby that is believed to run.

    AWS has not announced its end.
    """

    instance_id: str
    is_recommended: bool
    """AWS recommended a rebalance for it: it is promoted only rather than none."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The goal that a signal sets, and the reason as a sentence."""

    goal: Goal
    reason: str


@dataclass(frozen=True, slots=True)
class CreateStandby:
    """Create a replica row, which the reconciler then launches.

    When: the agent has no standby, and its incident, manual mode or probation needs one.
    """

    type: ReplicaType
    reason: str


@dataclass(frozen=True, slots=True)
class CreateRelief:
    """Create a replica that launches beside the standby and takes its place when it runs.

    When: AWS recommended a rebalance of the ready standby, which has no relief yet.
    """

    type: ReplicaType
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Make the standby the primary.

    When: the standby is ready, and the goal is `switch`, or it is `standby` in auto-switch.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class PromoteSpare:
    """Make a spare instance the primary.

    When: the primary is being lost, no standby is ready, and a spare instance still runs.
    """

    instance_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """Terminate the standby without a promotion.

    When: neither an incident nor manual mode nor probation needs it.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class CloseIncident:
    """Close the incident.

    When: the agent has another primary (`done`); or no termination followed the recommendation in
    time, or the standby of a planned switchover failed (`released`).
    """

    outcome: IncidentStatus
    reason: str


@dataclass(frozen=True, slots=True)
class Rest:
    """Decide nothing.

    When: the agent has what it needs, or its standby is still launching.
    """


NextStep = CreateStandby | CreateRelief | Promote | PromoteSpare | Release | CloseIncident | Rest


def goal_for(signal: SignalType, risk: Risk | None, threshold: float) -> Decision:
    """Return the goal that a signal for the primary sets, and the reason.

    Args:
        risk: the risk of the primary's pool. Only a recommendation needs it.
        threshold: the risk from which a recommendation is worth a standby.

    Raises:
        ValueError: a recommendation came without a risk.
    """
    if signal is SignalType.TERMINATION:
        return Decision(Goal.SWITCH, "AWS is terminating the primary; SEF promotes a standby")
    if risk is None:
        raise ValueError("a rebalance recommendation needs a risk")
    is_risky = risk.score >= threshold
    comparison = f"{'at or above' if is_risky else 'below'} {threshold:.2f}"
    reason = f"risk {risk.score:.2f} is {comparison} ({'; '.join(risk.reasons)})"
    return Decision(Goal.STANDBY if is_risky else Goal.MONITOR, reason)


def higher_goal(old: Goal, new: Goal) -> Goal:
    """Return the higher of two goals."""
    return max(old, new, key=list(Goal).index)


def next_step(
    agent: AgentState,
    standby: ReplicaStatus | None,
    incident: IncidentState | None,
    *,
    standby_ttl: timedelta,
    now: datetime,
    spare: Spare | None = None,
    is_postponed: bool = False,
) -> NextStep:
    """Return the next step for an agent.

    Args:
        standby: the status of the live standby. None: the agent has no standby.
        incident: the open incident. None: the agent has no open incident.
        standby_ttl: the time that a standby is kept after a recommendation.
        spare: the best spare instance to promote. None: none is believed to run.
        is_postponed: the last launch failed, and the next one is postponed.
    """
    if incident is not None and _needs_spare(standby, incident, spare, is_postponed, now):
        assert spare is not None
        return PromoteSpare(
            spare.instance_id, "no standby is ready, and this spare instance still runs"
        )
    if incident is not None:
        step = _step_of_incident(agent, standby, incident, standby_ttl=standby_ttl, now=now)
        if step is not None:
            return step
    if agent.manual:
        if standby is None:
            return CreateStandby(ReplicaType.MANUAL, "manual mode keeps a standby")
        return Rest()
    if agent.on_probation:
        if standby is None:
            return CreateStandby(ReplicaType.REBALANCE, "the new primary is in a risky pool")
        return Rest()
    if standby is not None:
        return Release("no standby is needed any more")
    return Rest()


def step_beside_recommendation(
    step: NextStep, incident: IncidentState | None, replica_type: ReplicaType, *, has_relief: bool
) -> NextStep:
    """Return the next step for an agent whose ready standby has a recommendation itself.

    The standby stays until its relief runs. Meanwhile only an emergency promotes it: an instance
    with a recommendation is better than none.

    Args:
        step: the next step if AWS had not recommended anything for the standby.
        incident: the open incident. None: the agent has no open incident.
        replica_type: the type of the standby.
        has_relief: a relief is launching.
    """
    is_planned = incident is not None and incident.is_planned
    is_emergency = incident is not None and incident.goal is Goal.SWITCH and not is_planned
    if is_emergency or not isinstance(step, Promote | Rest):
        return step
    if has_relief:
        return Rest()
    if incident is not None and is_planned and incident.had_standby:
        return CloseIncident(IncidentStatus.RELEASED, "no other standby could be launched")
    return CreateRelief(replica_type, "a rebalance of the standby was recommended")


def _needs_spare(
    standby: ReplicaStatus | None,
    incident: IncidentState,
    spare: Spare | None,
    is_postponed: bool,
    now: datetime,
) -> bool:
    """Return True if a spare instance is to be promoted.

    A spare instance for which AWS recommended a rebalance waits for a standby as long as there is
    time to launch one.
    """
    is_emergency = (
        incident.concerns_primary and incident.goal is Goal.SWITCH and not incident.is_planned
    )
    if spare is None or not is_emergency or standby is ReplicaStatus.READY:
        return False
    if not spare.is_recommended or is_postponed:
        return True
    return incident.deadline is None or incident.deadline - now <= LAST_MOMENT


def _step_of_incident(
    agent: AgentState,
    standby: ReplicaStatus | None,
    incident: IncidentState,
    *,
    standby_ttl: timedelta,
    now: datetime,
) -> NextStep | None:
    """Return the step that the incident asks for. None: the agent's mode decides."""
    if not incident.concerns_primary:
        return CloseIncident(IncidentStatus.DONE, "the agent already has another primary")
    if incident.is_planned:
        return _planned_step(agent, standby, incident)
    if incident.goal is Goal.SWITCH:
        if standby is None:
            return CreateStandby(
                ReplicaType.TERMINATION, "the primary is being lost and there is no standby"
            )
        if standby is ReplicaStatus.READY:
            return Promote("the primary is being terminated and the standby is ready")
        return Rest()
    since = incident.rebalance_at
    if since is None or now - since >= standby_ttl:
        return CloseIncident(IncidentStatus.RELEASED, "no termination followed the recommendation")
    if incident.goal is Goal.MONITOR:
        return None
    if standby is None:
        return CreateStandby(ReplicaType.REBALANCE, "a rebalance was recommended")
    if standby is ReplicaStatus.READY and agent.auto_switch:
        return Promote("auto-switch is on and the standby is ready")
    return Rest()


def _planned_step(
    agent: AgentState, standby: ReplicaStatus | None, incident: IncidentState
) -> NextStep:
    if standby is ReplicaStatus.READY:
        return Promote("a planned switchover is due and the standby is ready")
    if standby is not None:
        return Rest()
    if incident.had_standby:
        return CloseIncident(IncidentStatus.RELEASED, "no standby could be launched")
    replica_type = ReplicaType.MANUAL if agent.manual else ReplicaType.REBALANCE
    return CreateStandby(replica_type, "a planned switchover needs a standby")
