"""Make the calls to AWS that the rows ask for: move targets, launch, terminate."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from sef.failover import retention
from sef.failover.instances.orphan_rules import Known, Listed, Verdict, judge
from tests.model.rules import RULES, Ended, Run, Was
from tests.model.world import (
    SILENCE,
    Launches,
    Power,
    Retired,
    Standby,
    State,
    Target,
    Warned,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
"""The time at which every decision is made: a state knows distances only."""


class Calls:
    """The calls of the loop, without the rules in `off`."""

    def __init__(self, off: Collection[str] = ()) -> None:
        assert set(off) <= set(RULES)
        self.off = frozenset(off)

    def _move_targets(self, state: State) -> State:
        if state.primary is None:
            return state
        for target in state.targets:
            if target.holder == state.primary or target.is_settled:
                continue
            if target.is_frozen and "wish" in self.off:
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
        return state if left else state._replace(moving_from=None)

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
        standby, relief = state.standby, state.relief
        if standby is None:
            return state
        following = self._advance_standby(state, standby)
        if following != state or relief is None:
            return following
        return self._advance_relief(state, relief)

    def _advance_standby(self, state: State, standby: Standby) -> State:
        if standby.machine is None:
            if state.is_postponed:
                return state
            state, machine = self._call_launch(state)
            if machine is None:
                return state._replace(is_postponed=True)
            return state._replace(standby=Standby(machine))
        launched = state.machine(standby.machine)
        if launched is None or not launched.is_alive:
            return state.without_standby()
        if standby.is_ready:
            return state
        if launched.runs:
            return state._replace(standby=standby._replace(is_ready=True))
        if state.launches is Launches.OK:
            return state.with_machine(launched.name, power=Power.RUNNING, down_for=0)
        if launched.down_for >= SILENCE:
            return state.without_standby()._replace(releasing=(*state.releasing, launched.name))
        return state

    def _advance_relief(self, state: State, relief: Standby) -> State:
        failed = state._replace(relief=None, is_relief_postponed=True)
        if relief.machine is None:
            state, machine = self._call_launch(state)
            return failed if machine is None else state._replace(relief=Standby(machine))
        launched = state.machine(relief.machine)
        if launched is None or not launched.is_alive:
            return failed
        if launched.runs:
            releasing = (*state.releasing, str(state.standby_machine))
            ready = Standby(launched.name, is_ready=True)
            return state._replace(standby=ready, relief=None, releasing=releasing)
        if state.launches is Launches.OK:
            return state.with_machine(launched.name, power=Power.RUNNING, down_for=0)
        if launched.down_for >= SILENCE:
            return failed._replace(releasing=(*state.releasing, launched.name))
        return state

    @staticmethod
    def _call_launch(state: State) -> tuple[State, str | None]:
        if state.launches is Launches.REFUSED:
            return state, None
        power = Power.RUNNING if state.launches is Launches.OK else Power.PENDING
        return state.with_new_machine(power=power, is_ours=True)

    def _end(self, run: Run) -> State:
        state, incident = run.state, run.state.incident
        has_emergency = incident is not None and incident.is_emergency
        if not has_emergency or "release waits" in self.off:
            for name in state.releasing:
                run.ended.append(Ended(name, state, Was.RELEASED))
                left = tuple(other for other in state.releasing if other != name)
                return state.with_machine(name, power=Power.GONE)._replace(releasing=left)
        for retired in state.retired:
            machine = state.machine(retired.machine)
            if machine is None or machine.power is Power.GONE:
                return state.without_retirement(retired.machine)
            if self.kept(state, retired) is None:
                run.ended.append(Ended(machine.name, state, Was.PRIMARY, retired.drain))
                state = state.without_retirement(machine.name)
                return state.with_machine(machine.name, power=Power.GONE)
        return self._sweep(run)

    def _sweep(self, run: Run) -> State:
        """Terminate an orphan, or tell of the instances that the rows do not know."""
        state, verdicts = run.state, self.verdicts(run.state)
        for name, verdict in verdicts.items():
            if verdict is Verdict.ORPHAN:
                run.ended.append(Ended(name, state, Was.ORPHAN))
                return state.with_machine(name, power=Power.GONE)
        for name, verdict in verdicts.items():
            matter = ("outdated", name)
            if verdict is Verdict.UNKNOWN_LAUNCH and matter not in state.told:
                return state.tell(matter)
        return state

    def verdicts(self, state: State) -> dict[str, Verdict]:
        """Return the verdict of SEF's sweep on each instance that SEF launched."""
        rowed = state.rowed
        ours = [m for m in state.machines if m.is_ours and m.power is not Power.GONE]
        if all(m.name in rowed for m in ours):
            return {}
        tokens = {m.name: f"replica-{ord(m.name):016x}-1" for m in ours}
        known = Known(
            claimed={name for name in rowed if name is not None},
            tokens={
                tokens[m.name] for m in ours if not m.is_unrecorded or "unknown launch" in self.off
            },
            primaries={} if state.primary is None else {"a": state.primary},
            running={m.name for m in state.machines if m.is_alive},
            heard={state.serving: NOW} if state.serving and state.reports else {},
        )
        listed = [Listed(m.name, tokens[m.name], "a", NOW - timedelta(hours=1)) for m in ours]
        return judge(listed, known, NOW, heard_within=timedelta(minutes=10), maximum=0)

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
        held = [t.name for t in state.targets if t.holder == name and "held targets" not in off]
        cloud = retention.CloudFacts(
            primary=str(state.primary),
            is_primary_running=state.runs(state.primary) or "primary runs" in off,
            held=held,
            unseen=(),
        )
        return retention.kept_by_cloud(cloud)
