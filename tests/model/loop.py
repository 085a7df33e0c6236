"""Take the steps of the control loop in the model.

The rules are SEF's own where they are pure: `policy.next_step` decides, `retention` keeps. The rest
follows `sef.failover.reconcile` and the modules that it calls, without rows and calls to AWS. Each
rule of `RULES` can be switched off; the search must then find a counterexample.
"""

from datetime import timedelta

from sef.failover.policy import (
    AgentState,
    CloseIncident,
    CreateRelief,
    CreateStandby,
    IncidentState,
    NextStep,
    Promote,
    PromoteSpare,
    Release,
    Spare,
    next_step,
    step_beside_recommendation,
)
from sef.terms import Goal, ReplicaStatus, ReplicaType
from tests.model.aws import NOW, Calls
from tests.model.rules import Run
from tests.model.world import (
    DRAIN,
    SILENCE,
    TTL,
    Incident,
    Matter,
    Retired,
    Standby,
    State,
    Warned,
)

STEPS = 60
"""More steps than the loop needs between two events; with more, it would never come to rest."""


class Loop(Calls):
    """The control loop, without the rules in `off`."""

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
                if following.primary != before.primary:
                    run.promoted.append((before, following))
                return following
        return self._end(run)

    # Losses, and drills that are due

    def _detect(self, state: State) -> State:
        incident, primary = state.incident, state.machine(state.primary)
        is_emergency = incident is not None and incident.is_emergency
        if primary is not None and not primary.is_alive and not is_emergency:
            if primary.down_for < SILENCE:
                return state
            if self._is_successor(state, state.serving):
                return self.adopt(state, str(state.serving))
            told = self._told_of(state, primary.name, "loss")
            loss = Incident(Goal.SWITCH, primary.name, deadline=0, is_loss=True)
            return told._replace(incident=loss)
        if primary is None:
            return state
        if incident is not None:
            runs_again = incident.is_loss and incident.subject == primary.name and primary.runs
            is_over = runs_again and "runs again" not in self.off
            return state._replace(incident=None) if is_over else state
        is_moving = state.is_moving and "no drill" not in self.off
        if state.is_drill_due and not is_moving:
            drill = Incident(Goal.SWITCH, primary.name, is_planned=True)
            return state._replace(incident=drill, is_drill_due=False)
        return state

    def _told_of(self, state: State, subject: str, cause: str) -> State:
        owed = state._replace(owed=state.owed | {("lost", subject, cause)})
        matter: Matter = ("lost", subject, cause)
        length = 3 if "cause" not in self.off else 2
        is_told = any(other[:length] == matter[:length] for other in owed.told)
        return owed if is_told else owed.tell(matter)

    def signal(self, state: State, name: str, warned: Warned) -> State:
        """Store a recommendation or a notice of AWS for an instance of the agent."""
        if name == state.standby_machine:
            return self._signal_standby(state, name, warned)
        primary = state.machine(state.primary)
        if primary is not None and not primary.is_alive and self._is_successor(state, name):
            state = self.adopt(state, name)
        is_unknown = state.primary is None and name == state.serving
        is_open = state.incident is not None and state.incident.subject == name
        if name != state.primary and not is_unknown and not is_open:
            return state.with_machine(name, was_ignored=True)
        state = self._told_of(state, name, warned)
        machine, incident = state.machine(name), state.incident
        assert machine is not None
        if incident is None or incident.is_planned or incident.subject not in (state.primary, name):
            incident = Incident(Goal.STANDBY, state.primary)
        if warned is Warned.NOTICED:
            incident = incident._replace(goal=Goal.SWITCH, deadline=machine.ends_in, is_loss=False)
        elif incident.deadline is None:
            incident = incident._replace(recommended_for=0)
        return state._replace(incident=incident)

    def _signal_standby(self, state: State, name: str, warned: Warned) -> State:
        if warned is Warned.RECOMMENDED and "relief" not in self.off:
            return state  # the machine's recommendation decides: see `_next_step`
        state = state.without_standby()
        return state._replace(releasing=(*state.releasing, name), is_postponed=False)

    def _is_successor(self, state: State, name: str | None) -> bool:
        """Return True if SEF may adopt an instance by itself; the primary is gone."""
        machine = state.machine(name)
        return (
            machine is not None
            and machine.runs
            and machine.is_unrecorded
            and name not in state.rowed
            and (state.reports or machine.warned is not Warned.NO)
            and "successor" not in self.off
        )

    def adopt(self, state: State, name: str) -> State:
        """Adopt an instance as the primary; the former one stays."""
        state = state.with_machine(name, is_unrecorded=False)
        return self.change_primary(state, name, None, stays=True)

    def name(self, state: State, name: str | None) -> State:
        """Let an operator name the primary, or none."""
        old = state.primary
        state = self.change_primary(state, name, None, stays=True)
        machine, incident = state.machine(name), state.incident
        if old is not None and ("left", old) not in state.told:
            state = state.tell(("left", old))
        if machine is None or not machine.runs or machine.warned is not Warned.NOTICED:
            return state
        if "named anew" in self.off or (machine.was_ignored and "ignored notice" in self.off):
            return state
        if incident is not None and incident.subject == name:
            return state
        # AWS announced the end of this instance before an operator named it.
        announced = Incident(Goal.SWITCH, name, deadline=machine.ends_in)
        return self._told_of(state, machine.name, Warned.NOTICED)._replace(incident=announced)

    # Decisions

    def _decide(self, state: State) -> State:
        spares = self._spares(state)
        step = self._next_step(state, spares)
        match step:
            case CreateStandby() if not state.is_postponed:
                incident = state.incident
                had = incident._replace(had_standby=True) if incident else None
                return state._replace(standby=Standby(), incident=had)
            case CreateRelief() if not state.is_postponed and not state.is_relief_postponed:
                incident = state.incident
                if incident is not None and incident.is_planned:
                    incident = incident._replace(had_standby=True)
                return state._replace(relief=Standby(), incident=incident)
            case Promote():
                name = state.standby_machine
                if name is None or not state.runs(name):
                    return state.without_standby()
                return self._promote_announced(state, name)
            case PromoteSpare(instance_id, _):
                return self._promote_announced(state, instance_id)
            case Release() if state.standby_machine:
                releasing = (*state.releasing, state.standby_machine)
                return state.without_standby()._replace(releasing=releasing)
            case Release():
                return state.without_standby()
            case CloseIncident():
                return state._replace(incident=None)
        return state

    def _promote_announced(self, state: State, name: str) -> State:
        """Promote an instance; open its incident at once if AWS recommended a rebalance for it."""
        state = self.promote(state, name, self._drain_after(state))
        machine = state.machine(name)
        if machine is None or machine.recommended_for is None or machine.recommended_for >= TTL:
            return state
        if "recommended" in self.off:
            return state
        recommended = Incident(Goal.STANDBY, name, recommended_for=machine.recommended_for)
        return state._replace(incident=recommended)

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
        step = next_step(
            modes,
            status,
            incident,
            standby_ttl=timedelta(seconds=TTL),
            now=NOW,
            spare=next(iter(spares), None),
            is_postponed=state.is_postponed,
        )
        machine = state.machine(state.standby_machine)
        if machine is None or machine.recommended_for is None or machine.recommended_for >= TTL:
            return step
        if status is not ReplicaStatus.READY:
            return step
        kind = ReplicaType.MANUAL if state.is_manual else ReplicaType.REBALANCE
        has_relief = state.relief is not None
        return step_beside_recommendation(step, incident, kind, has_relief=has_relief)

    def _spares(self, state: State) -> list[Spare]:
        incident, standby = state.incident, state.standby
        is_ready = standby is not None and standby.is_ready
        if incident is None or not incident.is_emergency or is_ready:
            return []
        released = [] if "released spare" in self.off else [*state.releasing]
        former = [
            retired.machine
            for retired in state.retired
            if "former" not in self.off and not (retired.was_lost and "lost spare" in self.off)
        ]
        spares = [
            Spare(machine.name, is_recommended=machine.warned is Warned.RECOMMENDED)
            for machine in (state.machine(name) for name in [*released, *former])
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
        return (state.without_standby() if is_standby else state)._replace(incident=None)

    def change_primary(
        self, state: State, name: str | None, drain: int | None, *, stays: bool
    ) -> State:
        """Give the agent another primary, or none."""
        old = state.primary
        if name is not None and "put back" not in self.off:
            state = state.without_retirement(name)
        if old is not None:
            was_lost = state.incident is not None and state.incident.is_loss
            retired = Retired(old, drain, by_operator=stays, was_lost=was_lost)
            state = state.with_retirement(retired)
        return state._replace(
            primary=name,
            serving=name,
            moving_from=old if state.targets and name is not None else None,
            targets=tuple(t._replace(is_frozen=False, is_settled=False) for t in state.targets),
            releasing=tuple(
                other for other in state.releasing if other != name or "claimed" in self.off
            ),
            is_postponed=False,
        )
