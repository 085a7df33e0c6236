"""Take the steps of the control loop in the model.

The rules are SEF's own where they are pure: `policy.next_step` decides, `retention` keeps. The rest
follows `sef.failover.reconcile` and the modules that it calls, without rows and calls to AWS. Each
rule of `RULES` can be switched off; the search must then find a counterexample.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sef.failover import retention
from sef.failover.policy import (
    AgentState,
    CloseIncident,
    CreateStandby,
    IncidentState,
    NextStep,
    Promote,
    PromoteSpare,
    Release,
    Spare,
    next_step,
)
from sef.terms import Goal, ReplicaStatus
from tests.model.rules import RULES, Ended, Run
from tests.model.world import (
    DRAIN,
    SILENCE,
    TTL,
    Incident,
    Launches,
    Matter,
    Power,
    Retired,
    Standby,
    State,
    Target,
    Warned,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
"""The time at which every decision is made: a state knows distances only."""

STEPS = 60
"""More steps than the loop needs between two events; with more, it would never come to rest."""


class Loop:
    """The control loop, without the rules in `off`."""

    def __init__(self, off: Collection[str] = ()) -> None:
        assert set(off) <= set(RULES)
        self.off = frozenset(off)

    def run(self, state: State) -> Run:
        """Take steps until nothing changes."""
        run = Run(state)
        for _ in range(STEPS):
            following = self._step(run)
            if following == run.state:
                return run
            run.state = following
        run.is_at_rest = False
        return run

    def _step(self, run: Run) -> State:
        for step in (self._detect, self._decide, self._move_targets, self._launch):
            before, following = run.state, step(run.state)
            if following != before:
                if following.incident is None and following.primary == before.primary:
                    run.closed += [before] if before.incident is not None else []
                return following
        return self._end(run)

    # What SEF notices by itself

    def _detect(self, state: State) -> State:
        incident, primary = state.incident, state.machine(state.primary)
        is_emergency = incident is not None and incident.is_emergency
        if primary is not None and not primary.is_alive and not is_emergency:
            if primary.down_for < SILENCE:
                return state
            told = self._told_of(state, primary.name, "loss")
            loss = Incident(Goal.SWITCH, primary.name, deadline=0, is_loss=True)
            return replace(told, incident=loss)
        if primary is None:
            return state
        if incident is not None:
            runs_again = incident.is_loss and incident.subject == primary.name and primary.runs
            is_over = runs_again and "runs again" not in self.off
            return replace(state, incident=None) if is_over else state
        if primary.warned is Warned.NOTICED and "named anew" not in self.off:
            # AWS announced the end of this instance before an operator named it.
            named = Incident(Goal.SWITCH, primary.name, deadline=primary.ends_in)
            return replace(state, incident=named)
        is_moving = state.is_moving and "no drill" not in self.off
        if state.is_drill_due and not is_moving:
            drill = Incident(Goal.SWITCH, primary.name, is_planned=True)
            return replace(state, incident=drill, is_drill_due=False)
        return state

    def _told_of(self, state: State, subject: str, cause: str) -> State:
        owed = replace(state, owed=state.owed | {("lost", subject, cause)})
        matter: Matter = ("lost", subject, cause)
        length = 3 if "cause" not in self.off else 2
        is_told = any(other[:length] == matter[:length] for other in owed.told)
        return owed if is_told else owed.tell(matter)

    def signal(self, state: State, name: str, warned: Warned) -> State:
        """Store a recommendation or a notice of AWS for an instance of the agent."""
        if name == state.standby_machine:
            return self._signal_standby(state, name, warned)
        is_unknown = state.primary is None and name == state.serving
        if name != state.primary and not is_unknown:
            return state
        state = self._told_of(state, name, warned)
        machine, incident = state.machine(name), state.incident
        assert machine is not None
        if incident is None or incident.is_planned:
            incident = Incident(Goal.STANDBY, state.primary)
        if warned is Warned.NOTICED:
            incident = replace(incident, goal=Goal.SWITCH, deadline=machine.ends_in, is_loss=False)
        elif incident.deadline is None:
            incident = replace(incident, recommended_for=0)
        return replace(state, incident=incident)

    def _signal_standby(self, state: State, name: str, warned: Warned) -> State:
        state = replace(state, standby=None, is_postponed=False)
        if warned is Warned.NOTICED or "recommended standby" in self.off:
            return replace(state, releasing=(*state.releasing, name))
        return state.with_retirement(Retired(name, 0, was_primary=False))

    # Decisions

    def _decide(self, state: State) -> State:
        spares = self._spares(state)
        step = self._next_step(state, spares)
        match step:
            case CreateStandby() if not state.is_postponed:
                incident = state.incident
                had = replace(incident, had_standby=True) if incident else None
                return replace(state, standby=Standby(), incident=had)
            case Promote():
                name = state.standby_machine
                if name is None or not state.runs(name):
                    return replace(state, standby=None)
                return self.promote(state, name, self._drain_after(state))
            case PromoteSpare(instance_id, _):
                return self.promote(state, instance_id, self._drain_after(state))
            case Release() if state.standby_machine:
                releasing = (*state.releasing, state.standby_machine)
                return replace(state, standby=None, releasing=releasing)
            case Release():
                return replace(state, standby=None)
            case CloseIncident():
                return replace(state, incident=None)
        return state

    def _next_step(self, state: State, spares: list[Spare]) -> NextStep:
        status = None
        if state.standby is not None:
            status = ReplicaStatus.READY if state.standby.is_ready else ReplicaStatus.LAUNCHING
        modes = AgentState(state.is_manual, state.is_auto, state.is_auto)
        incident = None
        if state.incident is not None:
            age, left = state.incident.recommended_for, state.incident.deadline
            incident = IncidentState(
                goal=state.incident.goal,
                rebalance_at=None if age is None else NOW - timedelta(seconds=age),
                concerns_primary=state.incident.subject == state.primary,
                is_planned=state.incident.is_planned,
                had_standby=state.incident.had_standby,
                deadline=None if left is None else NOW + timedelta(seconds=left),
            )
        return next_step(
            modes,
            status,
            incident,
            standby_ttl=timedelta(seconds=TTL),
            now=NOW,
            spare=next(iter(spares), None),
            is_postponed=state.is_postponed,
        )

    def _spares(self, state: State) -> list[Spare]:
        incident, standby = state.incident, state.standby
        is_ready = standby is not None and standby.is_ready
        if incident is None or not incident.is_emergency or is_ready or "former" in self.off:
            return []
        spares = [
            Spare(machine.name, is_recommended=machine.warned is Warned.RECOMMENDED)
            for retired in state.retired
            for machine in [state.machine(retired.machine)]
            if machine is not None and machine.runs and machine.warned is not Warned.NOTICED
        ]
        return sorted(spares, key=lambda spare: spare.is_recommended)

    @staticmethod
    def _drain_after(state: State) -> int | None:
        incident = state.incident
        if incident is None or incident.is_emergency:
            return None
        return DRAIN if incident.is_planned or state.is_auto else None

    def promote(self, state: State, name: str, drain: int | None) -> State:
        """Make an instance the primary, as a promotion does."""
        is_standby = name == state.standby_machine
        stays = drain is None and not (state.incident and state.incident.is_emergency)
        state = self.change_primary(state, name, drain, stays=stays)
        return replace(state, standby=None if is_standby else state.standby, incident=None)

    def change_primary(
        self, state: State, name: str | None, drain: int | None, *, stays: bool
    ) -> State:
        """Give the agent another primary, or none."""
        old = state.primary
        if name is not None and "put back" not in self.off:
            state = state.without_retirement(name)
        if old is not None:
            state = state.with_retirement(Retired(old, drain, by_operator=stays))
        return replace(
            state,
            primary=name,
            serving=name,
            moving_from=old if state.targets else None,
            targets=tuple(replace(t, is_frozen=False) for t in state.targets),
            releasing=tuple(other for other in state.releasing if other != name),
            is_postponed=False,
        )

    # Calls to AWS

    def _move_targets(self, state: State) -> State:
        if state.primary is None:
            return state
        for target in state.targets:
            if target.holder == state.primary or (target.is_frozen and "wish" in self.off):
                continue
            obstacle = self._obstacle(state, target)
            if obstacle is None:
                return state.with_target(target.name, holder=state.primary)
            matter = ("target", target.name, state.primary, obstacle)
            if obstacle != "it waits" and matter not in state.told:
                return state.tell(matter)
        left = [t for t in state.targets if t.holder != state.primary]
        if "wish" in self.off:
            left = [t for t in left if not t.is_frozen]
        return state if left else replace(state, moving_from=None)

    def _obstacle(self, state: State, target: Target) -> str | None:
        """Return the reason why a target cannot move now. The cutover's own order is abstract."""
        primary, holder = state.machine(state.primary), state.machine(target.holder)
        if not target.is_right:
            return "its id is wrong"
        if primary is None or not primary.runs:
            return "it waits"
        if target.is_refused:
            return "AWS refuses"
        is_urgent = holder is None or not holder.runs or holder.warned is Warned.NOTICED
        if not primary.is_healthy and ("holder" in self.off or not is_urgent):
            return "the primary is unhealthy"
        return None

    def _launch(self, state: State) -> State:
        standby = state.standby
        if standby is None:
            return state
        machine = state.machine(standby.machine)
        if standby.machine is None:
            return state if state.is_postponed else self._call_launch(state)
        if machine is None or not machine.is_alive:
            return replace(state, standby=None)
        if standby.is_ready:
            return state
        if machine.runs:
            return replace(state, standby=replace(standby, is_ready=True))
        if state.launches is Launches.OK:
            return state.with_machine(machine.name, power=Power.RUNNING, down_for=0)
        if machine.down_for >= SILENCE:
            return replace(state, standby=None, releasing=(*state.releasing, machine.name))
        return state

    @staticmethod
    def _call_launch(state: State) -> State:
        if state.launches is Launches.REFUSED:
            return replace(state, is_postponed=True)
        power = Power.RUNNING if state.launches is Launches.OK else Power.PENDING
        state, name = state.with_new_machine(power=power, is_ours=True)
        return replace(state, standby=Standby(name))

    def _end(self, run: Run) -> State:
        state = run.state
        for name in state.releasing:
            run.ended.append(Ended(name, state, was_primary=False))
            left = tuple(other for other in state.releasing if other != name)
            return replace(state.with_machine(name, power=Power.GONE), releasing=left)
        for retired in state.retired:
            machine = state.machine(retired.machine)
            if machine is None or machine.power is Power.GONE:
                return state.without_retirement(retired.machine)
            if self.kept(state, retired) is None:
                run.ended.append(Ended(machine.name, state, retired.was_primary, retired.drain))
                state = state.without_retirement(machine.name)
                return state.with_machine(machine.name, power=Power.GONE)
        for name in self._orphans(state):
            run.ended.append(Ended(name, state, was_primary=False))
            return state.with_machine(name, power=Power.GONE)
        return state

    @staticmethod
    def _orphans(state: State) -> Iterator[str]:
        if state.runs(state.primary):
            known = state.rowed
            yield from (
                m.name for m in state.machines if m.is_ours and m.is_alive and m.name not in known
            )

    def kept(self, state: State, retired: Retired) -> str | None:
        """Return the reason to keep a retired instance, by SEF's own rules."""
        name, incident, off = retired.machine, state.incident, self.off
        drain = retired.drain if retired.drain is None or "drain" not in off else 0
        rows = retention.RowFacts(
            terminate_after=None if drain is None else NOW + timedelta(seconds=drain),
            primary_of="a" if state.primary == name and "put back" not in off else None,
            standby_of="a" if state.standby_machine == name else None,
            primary=state.primary,
            has_emergency=incident is not None and incident.is_emergency and "emergency" not in off,
            is_cutover_open=state.moving_from == name and "held targets" not in off,
        )
        reason = retention.kept_by_rows(rows, NOW)
        if reason is not None:
            return reason
        is_ready = state.standby is not None and state.standby.is_ready
        is_wanted = state.is_manual or incident is not None
        if not retired.was_primary and is_wanted and not is_ready:
            return "its successor is not ready"
        held = [t.name for t in state.targets if t.holder == name and "held targets" not in off]
        cloud = retention.CloudFacts(
            primary=str(state.primary),
            is_primary_running=state.runs(state.primary) or "primary runs" in off,
            held=held,
            unseen=(),
        )
        return retention.kept_by_cloud(cloud)
