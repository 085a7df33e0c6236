"""Describe one agent in the model: its instances in EC2, its targets, and SEF's rows about it.

A state is a value. It has no clock: each time is a number of seconds from now, and a time that no
rule distinguishes any more is cut off at `LONG`, so that different histories reach equal states.
"""

from enum import StrEnum
from typing import Any, NamedTuple

from sef.terms import Goal

MINUTE = 60
SILENCE = 10 * MINUTE
"""Time after which a primary that does not run counts as lost."""

NOTICE = 2 * MINUTE
DRAIN = MINUTE
TTL = 120 * MINUTE
LONG = 2 * TTL
"""The longest time that a state holds."""


class Power(StrEnum):
    """The states of an instance in EC2, as far as rules distinguish them."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    GONE = "gone"


class Warned(StrEnum):
    """The latest announcement of AWS about an instance."""

    NO = "no"
    RECOMMENDED = "recommended"
    NOTICED = "noticed"


class Launches(StrEnum):
    """The answer of EC2 to a launch."""

    OK = "succeed"
    REFUSED = "are refused"
    HANG = "stay pending"


class Machine(NamedTuple):
    """An instance in EC2."""

    name: str
    power: Power = Power.RUNNING
    warned: Warned = Warned.NO
    ends_in: int | None = None
    """Seconds until AWS ends it. None: AWS has announced no end."""
    down_for: int = 0
    """Seconds for which it has not been running."""
    is_healthy: bool = True
    """It passes the health checks of its target group."""
    is_ours: bool = False
    """SEF launched it."""
    is_known: bool = True
    """SEF launched it, or its id was in a row of SEF."""
    is_unrecorded: bool = False
    """SEF launched it, and the rows, which were restored, do not know the launch."""
    recommended_for: int | None = None
    """Seconds since AWS recommended a rebalance for it."""
    was_ignored: bool = False
    """AWS sent its notice while it was a former primary. Only a mutant heeds it."""

    @property
    def runs(self) -> bool:
        return self.power is Power.RUNNING

    @property
    def is_alive(self) -> bool:
        return self.power in (Power.RUNNING, Power.PENDING)


class Target(NamedTuple):
    """A cutover target of the agent, such as an Elastic IP."""

    name: str
    holder: str | None
    is_right: bool = True
    """False: the agent's row has a mistyped id of it."""
    is_refused: bool = False
    """AWS refuses to move it."""
    is_frozen: bool = False
    """It was changed after the promotion. Only the mutant without the rule `wish` heeds it."""
    is_settled: bool = False
    """The restored rows say that it is with their primary: SEF does not look again."""


class Incident(NamedTuple):
    """The open incident of the agent."""

    goal: Goal
    subject: str | None
    recommended_for: int | None = None
    deadline: int | None = None
    """Seconds until the end of the primary, negative afterwards."""
    is_planned: bool = False
    is_loss: bool = False
    """AWS announced nothing: the primary was not seen running."""
    had_standby: bool = False

    @property
    def is_emergency(self) -> bool:
        return self.goal is Goal.SWITCH and not self.is_planned


class Standby(NamedTuple):
    """The live standby of the agent; without a machine, its launch is not made yet."""

    machine: str | None = None
    is_ready: bool = False


class Retired(NamedTuple):
    """An instance that stopped being needed."""

    machine: str
    drain: int | None
    """Seconds until SEF may end it. None: AWS or the operator ends it."""
    by_operator: bool = False
    """The operator said that it stays."""
    was_lost: bool = False
    """It was replaced as lost. Only a mutant heeds it."""


Matter = tuple[str, ...]
"""A matter that a person is to be told: its kind, its instance or target, its cause."""


class Backup(NamedTuple):
    """A copy of the rows, and the instances of which they know the launch."""

    primary: str | None
    standby: Standby | None
    relief: Standby | None
    releasing: tuple[str, ...]
    retired: tuple[Retired, ...]
    incident: Incident | None
    is_manual: bool
    is_auto: bool
    moving_from: str | None
    told: frozenset[Matter]
    owed: frozenset[Matter]
    machines: frozenset[str]


class State(NamedTuple):
    """A state of the world and of SEF's rows."""

    machines: tuple[Machine, ...]
    primary: str | None
    serving: str | None
    """The instance that serves. The rows may not know it."""
    standby: Standby | None = None
    relief: Standby | None = None
    """The standby that launches beside one with a recommendation, and takes its place."""
    releasing: tuple[str, ...] = ()
    retired: tuple[Retired, ...] = ()
    incident: Incident | None = None
    targets: tuple[Target, ...] = ()
    is_manual: bool = False
    is_auto: bool = False
    is_drill_due: bool = False
    is_postponed: bool = False
    is_relief_postponed: bool = False
    moving_from: str | None = None
    """The former primary of the cutover that is unfinished."""
    launches: Launches = Launches.OK
    is_down: bool = False
    """SEF does not run; signals and calls of operators are still stored."""
    told: frozenset[Matter] = frozenset()
    owed: frozenset[Matter] = frozenset()
    """The matters that a person has to be told."""
    told_twice: Matter | None = None
    backup: Backup | None = None
    reports: bool = False
    """The instance that serves reports under its id."""

    def machine(self, name: str | None) -> Machine | None:
        return next((m for m in self.machines if m.name == name), None)

    def runs(self, name: str | None) -> bool:
        machine = self.machine(name)
        return machine is not None and machine.runs

    def retirement(self, name: str | None) -> Retired | None:
        return next((r for r in self.retired if r.machine == name), None)

    @property
    def is_moving(self) -> bool:
        """A target is not with the primary."""
        return any(target.holder != self.primary for target in self.targets)

    @property
    def standby_machine(self) -> str | None:
        return self.standby.machine if self.standby else None

    @property
    def rowed(self) -> set[str | None]:
        """The instances in SEF's rows."""
        retired = [r.machine for r in self.retired]
        relief = self.relief.machine if self.relief else None
        return {self.primary, self.standby_machine, relief, *self.releasing, *retired}

    def without_standby(self) -> "State":
        """Return the state after the standby has ended: its relief becomes the standby."""
        return self._replace(standby=self.relief, relief=None)

    def with_machine(self, name: str, **values: Any) -> "State":
        machines = tuple(m._replace(**values) if m.name == name else m for m in self.machines)
        return self._replace(machines=machines)

    def with_target(self, name: str, **values: Any) -> "State":
        targets = tuple(t._replace(**values) if t.name == name else t for t in self.targets)
        return self._replace(targets=targets)

    def with_new_machine(self, **values: Any) -> tuple["State", str]:
        """Return the state with another instance, and its name: the first letter that is free."""
        used = {m.name for m in self.machines}
        name = next(letter for letter in "ABCDEFGHIJKLMNOP" if letter not in used)
        return self._replace(machines=(*self.machines, Machine(name, **values))), name

    def without_retirement(self, name: str) -> "State":
        return self._replace(retired=tuple(r for r in self.retired if r.machine != name))

    def with_retirement(self, retired: Retired) -> "State":
        others = self.without_retirement(retired.machine).retired
        return self._replace(retired=(*others, retired))

    def tell(self, matter: Matter) -> "State":
        """Return the state after the message; a message that was sent before is recorded."""
        if matter in self.told:
            return self._replace(told_twice=matter)
        return self._replace(told=self.told | {matter})


def forget_the_gone(state: State) -> State:
    """Drop the instances that have ended and that no row needs, and what was told about them."""
    needed = state.rowed | {state.serving}
    if state.backup is not None:
        needed |= state.backup.machines
    gone = {m.name for m in state.machines if m.power is Power.GONE and m.name not in needed}
    if not gone:
        return state
    return state._replace(
        machines=tuple(m for m in state.machines if m.name not in gone),
        targets=tuple(t._replace(holder=None) if t.holder in gone else t for t in state.targets),
        moving_from=None if state.moving_from in gone else state.moving_from,
        told=frozenset(m for m in state.told if not gone & {*m}),
        owed=frozenset(m for m in state.owed if not gone & {*m}),
    )


def pass_time(state: State, seconds: int) -> State:
    """Let time pass: AWS ends what it has announced, and the times of the rows come closer."""

    def later(machine: Machine) -> Machine:
        if machine.power is Power.GONE:
            return machine._replace(down_for=min(machine.down_for + seconds, LONG))
        if machine.ends_in is not None and machine.ends_in <= seconds:
            down = min(seconds - machine.ends_in, LONG)
            return machine._replace(power=Power.GONE, ends_in=None, down_for=down)
        left = None if machine.ends_in is None else machine.ends_in - seconds
        down = 0 if machine.runs else min(machine.down_for + seconds, LONG)
        age = machine.recommended_for
        age = None if age is None else min(age + seconds, TTL)
        return machine._replace(ends_in=left, down_for=down, recommended_for=age)

    backup = state.backup
    if backup is not None:
        incident, retired = _aged(backup.incident, backup.retired, seconds)
        backup = backup._replace(incident=incident, retired=retired)
    incident, retired = _aged(state.incident, state.retired, seconds)
    return state._replace(
        machines=tuple(later(m) for m in state.machines),
        retired=retired,
        incident=incident,
        is_postponed=False,
        is_relief_postponed=False,
        backup=backup,
    )


def _aged(
    incident: Incident | None, retired: tuple[Retired, ...], seconds: int
) -> tuple[Incident | None, tuple[Retired, ...]]:
    def sooner(left: int | None) -> int | None:
        return None if left is None else max(left - seconds, -MINUTE)

    if incident is not None:
        age = incident.recommended_for
        incident = incident._replace(
            recommended_for=None if age is None else min(age + seconds, LONG),
            deadline=sooner(incident.deadline),
        )
    return incident, tuple(r._replace(drain=sooner(r.drain)) for r in retired)


def back_up(state: State) -> State:
    """Copy the rows."""
    names = [name for name in Backup._fields if name != "machines"]
    rows = {name: getattr(state, name) for name in names}
    machines = frozenset(m.name for m in state.machines)
    return state._replace(backup=Backup(**rows, machines=machines))


def restore(state: State) -> State:
    """Put the copy of the rows back: SEF forgets what it has done since."""
    backup = state.backup
    assert backup is not None
    rows = backup._asdict()
    known = rows.pop("machines")
    return state._replace(
        **rows,
        backup=None,
        is_postponed=False,
        machines=tuple(
            m._replace(is_unrecorded=m.is_ours and m.name not in known) for m in state.machines
        ),
        targets=tuple(t._replace(is_settled=t.holder != backup.primary) for t in state.targets),
    )
