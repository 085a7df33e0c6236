"""State the properties of the control loop, each as a function that returns a sentence if broken.

Those of a run look at what SEF did; those of a state hold after each run of the loop; those at rest
hold when time has passed and the loop has nothing left to do.
"""

from collections.abc import Callable, Iterator

from sef.failover.instances.orphan_rules import KEPT
from tests.model.loop import Loop
from tests.model.rules import Ended, Was
from tests.model.world import TTL, Machine, State, Warned

# The terminations of SEF


def nothing_that_serves_is_ended(ended: Ended) -> str | None:
    """SEF ends no primary, no holder of a target, and nothing while the primary is not safe."""
    state, name = ended.before, ended.machine
    if name in (state.primary, state.serving):
        return f"SEF ended {name}, which serves"
    if ended.was is not Was.PRIMARY:
        return None
    machine, primary = state.machine(name), state.machine(state.primary)
    held = [target.name for target in state.targets if target.holder == name]
    if machine is not None and machine.runs and held:
        return f"SEF ended {name}, which still has target {held[0]}"
    if not state.runs(state.primary):
        return f"SEF ended {name}, while the primary {state.primary} does not run"
    if primary is not None and primary.warned is Warned.NOTICED:
        return f"SEF ended {name}, while AWS takes the primary {state.primary}"
    return None


def nothing_that_may_serve_is_ended_in_an_emergency(ended: Ended) -> str | None:
    """A released standby or a former primary that runs may be the only instance to promote."""
    state, machine = ended.before, ended.before.machine(ended.machine)
    if state.incident is None or not state.incident.is_emergency or ended.was is Was.ORPHAN:
        return None
    if state.incident.subject != state.primary or machine is None or not machine.runs:
        return None
    if machine.warned is Warned.NOTICED:
        return None
    return f"SEF ended {ended.machine}, while {state.primary} is being lost"


def a_standby_stays_until_another_runs(ended: Ended) -> str | None:
    """A standby that AWS merely recommends to replace is better than none."""
    state, machine = ended.before, ended.before.machine(ended.machine)
    is_ready = state.standby is not None and state.standby.is_ready
    if ended.was is not Was.RELEASED or machine is None or not machine.runs:
        return None
    if machine.warned is not Warned.RECOMMENDED or is_ready or not state.is_manual:
        return None
    return f"SEF ended the standby {ended.machine} before another one was ready"


def connections_drain(ended: Ended) -> str | None:
    """A former primary runs until its connections have drained."""
    if ended.drain is not None and ended.drain > 0:
        return f"SEF ended {ended.machine} {ended.drain} s before the end of its drain"
    return None


# The promotions of SEF


def no_instance_that_serves_is_taken_for_lost(before: State, after: State) -> str | None:
    """Without an announcement, SEF replaces no instance that runs and serves.

    An instance that the restored rows do not know, and that does not report, is told of instead.
    """
    incident, serving = before.incident, before.machine(before.serving)
    if incident is None or not incident.is_loss or serving is None or not serving.runs:
        return None
    if serving.is_unrecorded and not before.reports:
        return None
    if after.serving == serving.name:
        return None
    return f"{after.primary} replaces {before.primary} as lost, while {serving.name} serves"


def a_promoted_instance_with_a_recommendation_is_replaced(
    before: State, after: State
) -> str | None:
    """AWS recommended to replace the new primary: SEF launches a standby for it."""
    primary = after.machine(after.primary)
    if primary is None or before.incident is None or primary.warned is not Warned.RECOMMENDED:
        return None
    is_fresh = primary.recommended_for is not None and primary.recommended_for < TTL
    if not is_fresh or after.incident is not None:
        return None
    return f"{after.primary} was promoted in spite of a recommendation, and gets no standby"


# The incidents that SEF closes


def no_incident_ends_before_its_matter(closed: State) -> str | None:
    """An incident is not closed while AWS takes the instance that serves.

    Args:
        closed: the state before.
    """
    serving, incident = closed.machine(closed.serving), closed.incident
    if incident is None or incident.subject not in (closed.serving, None):
        return None
    if serving is not None and serving.warned is Warned.NOTICED and closed.primary == serving.name:
        return f"the incident was closed while AWS takes {serving.name}"
    return None


# In each state


def everything_that_runs_is_in_the_status(state: State, loop: Loop) -> str | None:
    """All that SEF launched or was handed has a row; a retired one has a reason to run."""
    if state.is_down:
        return None
    rowed = state.rowed
    hidden = [m.name for m in state.machines if m.is_known and m.runs and m.name not in rowed]
    if hidden and state.primary is None and hidden == [state.serving]:
        hidden = []  # SEF does not know the id of the primary
    verdicts = loop.verdicts(state) if hidden else {}
    for name in hidden:
        if verdicts.get(name) not in KEPT:
            return f"{name} runs and is in no list"
    for retired in state.retired:
        if state.runs(retired.machine) and not loop.kept(state, retired):
            return f"{retired.machine} runs without a reason"
    return None


def an_instance_has_one_role(state: State, loop: Loop) -> str | None:
    """No instance is the primary and something else."""
    retired = [r.machine for r in state.retired]
    for role, others in (
        ("the standby", [state.standby_machine]),
        ("retired", retired),
        ("being released", state.releasing),
    ):
        if state.primary is not None and state.primary in others:
            return f"{state.primary} is the primary and {role}"
    return None


def each_matter_is_told_once(state: State, loop: Loop) -> str | None:
    """Each cause that a primary was lost or endangered for is told once."""
    if state.told_twice is not None:
        return f"told twice: {' '.join(state.told_twice)}"
    for matter in sorted(state.owed - state.told):
        return f"nobody was told of {matter[1]}: {matter[2]}"
    return None


def an_announced_end_is_answered(state: State, loop: Loop) -> str | None:
    """While AWS takes the primary, an emergency of the agent is open."""
    primary, incident = state.machine(state.primary), state.incident
    if state.is_down or primary is None or not primary.is_alive:
        return None
    if primary.warned is not Warned.NOTICED:
        return None
    if incident is not None and incident.is_emergency and incident.subject == primary.name:
        return None
    return f"AWS takes the primary {primary.name}, and no incident is open for it"


def no_target_waits_for_the_dead(state: State, loop: Loop) -> str | None:
    """A target whose holder does not run has left it, if AWS allows it and the primary runs."""
    if state.is_down or not state.runs(state.primary):
        return None
    for target in state.targets:
        may_move = target.is_right and not target.is_refused and not target.is_settled
        if may_move and target.holder != state.primary and not state.runs(target.holder):
            return f"target {target.name} stays with {target.holder}, which does not run"
    return None


# At rest, in the world as it is


def _may_serve(state: State) -> Iterator[Machine]:
    names = [*state.releasing, *(r.machine for r in state.retired)]
    standby = state.standby
    if standby is not None and standby.is_ready and standby.machine is not None:
        names.append(standby.machine)
    for machine in state.machines:
        if machine.name in names and machine.runs and machine.warned is not Warned.NOTICED:
            yield machine


def _is_unknown(state: State) -> bool:
    """Return True if SEF neither knows the primary nor was told that it ends."""
    is_emergency = state.incident is not None and state.incident.is_emergency
    return state.primary is None and not is_emergency


def whoever_served_is_replaced(state: State, loop: Loop) -> str | None:
    """The primary runs, or nothing runs that may serve instead of it."""
    if state.serving is None or state.runs(state.serving):
        return None
    if _is_unknown(state):
        return None
    for machine in _may_serve(state):
        return f"{state.serving} is gone and {machine.name} runs, but does not serve"
    return None


def every_target_follows_or_is_told(state: State, loop: Loop) -> str | None:
    """A target that is not with the running primary is a matter that a person was told of."""
    if state.primary is None or not state.runs(state.primary):
        return None
    if any(matter[0] == "outdated" for matter in state.told):
        return None
    for target in state.targets:
        is_told = any(m[:3] == ("target", target.name, state.primary) for m in state.told)
        if target.holder != state.primary and not is_told:
            return f"target {target.name} is with {target.holder}, and nobody was told"
    return None


def drills_add_nothing(state: State, later: State) -> str | None:
    """While targets cannot move, drills leave no more instances running.

    Args:
        later: the state after some more drills.
    """
    before, after = (sum(m.runs for m in s.machines) for s in (state, later))
    if after > before:
        return f"{after - before} more instances run after three drills"
    return None


# At rest, in a world in which everything works again


def the_primary_runs(state: State, loop: Loop) -> str | None:
    """An agent that had a primary has one that runs."""
    if state.serving is None or _is_unknown(state):
        return None
    return None if state.runs(state.primary) else f"the primary {state.primary} does not run"


def every_target_is_with_the_primary(state: State, loop: Loop) -> str | None:
    """All targets end at the current primary."""
    for target in state.targets:
        if target.is_settled:
            continue
        if state.primary is not None and target.holder != state.primary:
            return f"target {target.name} is with {target.holder} instead of {state.primary}"
    return None


def only_what_is_needed_runs(state: State, loop: Loop) -> str | None:
    """A primary and one standby run, and what AWS ends or an operator left running."""
    if state.primary is None:
        return None
    for retired in state.retired:
        machine = state.machine(retired.machine)
        if machine is not None and machine.runs and not retired.by_operator:
            reason = loop.kept(state, retired)
            return f"{machine.name} runs for ever: {reason}"
    if state.releasing or (state.standby is not None and not state.is_manual):
        return "a standby runs that nobody needs"
    return None


Check = Callable[[State, Loop], str | None]

OF_WHAT_SEF_ENDED = (
    nothing_that_serves_is_ended,
    a_standby_stays_until_another_runs,
    connections_drain,
    nothing_that_may_serve_is_ended_in_an_emergency,
)
OF_A_PROMOTION = (
    no_instance_that_serves_is_taken_for_lost,
    a_promoted_instance_with_a_recommendation_is_replaced,
)
ALWAYS = (
    everything_that_runs_is_in_the_status,
    an_instance_has_one_role,
    each_matter_is_told_once,
    an_announced_end_is_answered,
    no_target_waits_for_the_dead,
)
AT_REST = (whoever_served_is_replaced, every_target_follows_or_is_told)
WHEN_ALL_WORKS = (
    the_primary_runs,
    every_target_is_with_the_primary,
    only_what_is_needed_runs,
)
