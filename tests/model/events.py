"""Yield the events that can happen next in the model: of AWS, of operators, and of time."""

from collections.abc import Callable, Iterator, Mapping

from sef.identity import Door, may_become_primary, role_of
from sef.terms import ReplicaStatus
from tests.model.loop import Loop
from tests.model.world import (
    MINUTE,
    NOTICE,
    SILENCE,
    TTL,
    Launches,
    Machine,
    Power,
    State,
    Target,
    Warned,
    back_up,
    pass_time,
    restore,
)

MONTH = 30 * 24 * 60 * MINUTE
TIMES = {"a minute": MINUTE, "ten minutes": SILENCE, "two hours": TTL}

Event = tuple[str, State]
"""An event in words, and the state after it."""


def _roles(state: State) -> Iterator[tuple[str, Machine]]:
    """Yield the instances that an event can be about: at most one in each role."""
    former = [r.machine for r in state.retired]
    for role, name in (
        ("primary", state.serving),
        ("standby", state.standby_machine),
        ("former primary", former[-1] if former else None),
    ):
        machine = state.machine(name)
        if machine is not None and machine.power is not Power.GONE:
            yield f"the {role} {name}", machine


def announcements(state: State, loop: Loop) -> Iterator[Event]:
    """Recommendations and notices of AWS."""
    for role, machine in _roles(state):
        if not machine.runs or machine.warned is Warned.NOTICED:
            continue
        if machine.warned is Warned.NO:
            warned = state.with_machine(machine.name, warned=Warned.RECOMMENDED, recommended_for=0)
            after = loop.signal(warned, machine.name, Warned.RECOMMENDED)
            yield f"AWS recommends a rebalance for {role}", after
        warned = state.with_machine(machine.name, warned=Warned.NOTICED, ends_in=NOTICE)
        yield f"AWS sends a notice for {role}", loop.signal(warned, machine.name, Warned.NOTICED)


def deaths(state: State, loop: Loop) -> Iterator[Event]:
    """Instances that end without an announcement."""
    for role, machine in _roles(state):
        ended = state.with_machine(machine.name, power=Power.GONE, ends_in=None, down_for=0)
        yield f"{role} ends without a notice", ended


def console(state: State, loop: Loop) -> Iterator[Event]:
    """Instances that an operator stops and starts in the console."""
    for role, machine in _roles(state):
        if machine.power is Power.STOPPED:
            started = state.with_machine(machine.name, power=Power.RUNNING, down_for=0)
            retired = state.retirement(machine.name)
            if retired is not None:
                started = started.with_retirement(retired._replace(by_operator=True))
            yield f"an operator starts {role} in the console", started
        elif machine.runs:
            stopped = state.with_machine(machine.name, power=Power.STOPPED, down_for=0)
            yield f"an operator stops {role} in the console", stopped


def launches(state: State, loop: Loop) -> Iterator[Event]:
    """The answers of EC2 to launches."""
    for answer in Launches:
        if answer is not state.launches:
            yield f"from now on, launches {answer}", state._replace(launches=answer)


def targets(state: State, loop: Loop) -> Iterator[Event]:
    """Targets that AWS refuses to move, and targets that an operator changes."""
    for target in state.targets:
        verb = "allows" if target.is_refused else "refuses"
        moved = state.with_target(target.name, is_refused=not target.is_refused)
        yield f"AWS {verb} to move target {target.name}", moved
        right = not target.is_right
        words = "corrects" if right else "mistypes"
        changed = state.with_target(target.name, is_right=right, is_frozen=True)
        yield f"an operator {words} the id of target {target.name}", changed
    if len(state.targets) < 2:
        name = "one" if all(t.name != "one" for t in state.targets) else "two"
        added = Target(name, state.serving, is_frozen=True)
        yield f"an operator adds target {name}", state._replace(targets=(*state.targets, added))
    if state.targets:
        less = state._replace(targets=state.targets[1:])
        yield f"an operator removes target {state.targets[0].name}", less


def health(state: State, loop: Loop) -> Iterator[Event]:
    """The primary begins to fail, or to pass, the health checks of its target group."""
    primary = state.machine(state.serving)
    if primary is not None and primary.runs:
        word = "fails" if primary.is_healthy else "passes"
        after = state.with_machine(primary.name, is_healthy=not primary.is_healthy)
        yield f"the primary {primary.name} {word} its health checks", after


def switches(state: State, loop: Loop) -> Iterator[Event]:
    """A switch by an operator, and a drill that falls due."""
    name = state.standby_machine
    if state.is_manual and state.standby and state.standby.is_ready and state.runs(name):
        after = loop.promote(state, str(name), 0)
        yield f"an operator switches to {name}", after
    if not state.is_drill_due:
        yield "a drill falls due", state._replace(is_drill_due=True)


def modes(state: State, loop: Loop) -> Iterator[Event]:
    """Changes of the agent's mode."""
    for words, is_manual, is_auto in (
        ("manual mode", True, False),
        ("auto-switch and auto-terminate", False, True),
        ("no mode", False, False),
    ):
        if (state.is_manual, state.is_auto) != (is_manual, is_auto):
            yield f"an operator sets {words}", state._replace(is_manual=is_manual, is_auto=is_auto)


def names(state: State, loop: Loop) -> Iterator[Event]:
    """An operator names the primary."""
    if state.primary is None and state.serving is not None:
        return  # SEF would take any id for that of the instance that serves: see `learning`
    for words, machine in (
        ("puts {} back", [r.machine for r in state.retired]),
        ("names the released standby {}", [*state.releasing]),
        ("names the standby {}", [state.standby_machine]),
    ):
        running = [name for name in machine if name is not None and state.runs(name)]
        if running and _may_name(state, loop, running[-1]):
            name = running[-1]
            yield f"an operator {words.format(name)}", loop.name(state, name)
    if len(state.machines) < 4:
        handed, name = state.with_new_machine()
        yield f"an operator names the new instance {name}", loop.name(handed, name)
    if state.primary is not None:
        yield "an operator names no primary (null)", loop.name(state, None)


def _may_name(state: State, loop: Loop, name: str) -> bool:
    """Return True if SEF lets an operator name the instance, by SEF's own rule."""
    status = None
    if name == state.standby_machine:
        status = ReplicaStatus.READY
    elif name in state.releasing:
        status = ReplicaStatus.RELEASING
    was_primary = state.retirement(name) is not None
    role = role_of(status, was_primary=was_primary, has_incident=False)
    return may_become_primary(Door.OPERATOR, role) or "standby's id" in loop.off


def learning(state: State, loop: Loop) -> Iterator[Event]:
    """A report names the primary of an agent without one."""
    if state.primary is None and state.serving is not None:
        incident = state.incident
        if incident is not None and "learn" not in loop.off:
            incident = incident._replace(subject=state.serving)
        known = state.with_machine(state.serving, is_known=True)
        after = known._replace(primary=state.serving, incident=incident)
        yield f"a report names the primary {state.serving}", after


def restores(state: State, loop: Loop) -> Iterator[Event]:
    """The database is backed up, and restored; an operator adopts what serves, or nothing."""
    if state.backup is None:
        yield "the database is backed up", back_up(state)
        return
    old = restore(state)
    serving = old.machine(old.serving)
    if serving is None or not serving.runs or serving.name == old.primary:
        old = old._replace(serving=old.primary)
        yield "the database is restored", _repeated(old, loop)
        return
    adopted = _repeated(_adopted(old, loop), loop)
    yield f"the database is restored, and {serving.name} adopted", adopted
    if serving.is_unrecorded:
        yield "the database is restored", _repeated(old, loop)


def _repeated(state: State, loop: Loop) -> State:
    """The standby and the primary repeat AWS's announcements: the rows may not know them."""
    for name in (state.standby_machine, state.primary):
        machine, incident = state.machine(name), state.incident
        if machine is None or not machine.runs or machine.warned is Warned.NO:
            continue
        is_open = incident is not None and incident.subject == name and not incident.is_planned
        is_emergency = incident is not None and incident.is_emergency
        if not is_open or (machine.warned is Warned.NOTICED and not is_emergency):
            state = loop.signal(state, machine.name, machine.warned)
    return state


def _adopted(state: State, loop: Loop) -> State:
    """An operator makes the instance that serves the primary, and the other unknown ones surplus.

    Naming it is the same as adopting it if the rows know it.
    """
    name = str(state.serving)
    if name == state.standby_machine:
        state = loop.promote(state, name, None)
    else:
        state = loop.name(state.with_machine(name, is_unrecorded=False), name)
    surplus = [m.name for m in state.machines if m.is_unrecorded and m.is_alive]
    for other in surplus:
        state = state.with_machine(other, is_unrecorded=False)
        if other not in state.rowed:
            state = state._replace(releasing=(*state.releasing, other))
    return state


def pauses(state: State, loop: Loop) -> Iterator[Event]:
    """SEF stops and starts."""
    yield (
        ("SEF starts" if state.is_down else "SEF stops"),
        state._replace(is_down=not state.is_down),
    )


def times(state: State, loop: Loop) -> Iterator[Event]:
    """Time passes."""
    for words, seconds in TIMES.items():
        yield f"{words} pass" if words[0] == "t" else f"{words} passes", pass_time(state, seconds)


Kind = Callable[[State, Loop], Iterator[Event]]
KINDS: Mapping[str, Kind] = {
    kind.__name__: kind
    for kind in (
        announcements, deaths, console, launches, targets, health, switches, modes, names,
        learning, restores, pauses, times,
    )
}  # fmt: skip


def start(**values: object) -> State:
    """Return an agent with a running primary A that has target `one`; change some of its values."""
    first: dict[str, object] = {
        "machines": (Machine("A"),),
        "primary": "A",
        "serving": "A",
        "targets": (Target("one", "A"),),
    }
    return State(**(first | values))  # type: ignore[arg-type]
