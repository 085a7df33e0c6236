"""Add ordinary events to the random stories: the ones that an operator and time bring.

Primaries are put back, taken out of service and learned again; instances are stopped and started
in the console; targets are mistyped, corrected, removed and added; a SQLite database is restored
from a backup; time jumps by days and weeks.
"""

import shutil
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from sef.cloud.ec2 import ATTEMPT_TAG
from tests.failover.cutover.cutover_targets import Belongings
from tests.harness import ALIVE, POOL, REBALANCE, TERMINATION
from tests.soak.belongings import BOUND, MOBILE, Guardian
from tests.soak.rules import StoryRules

LONGEST_STORY = timedelta(days=400)
"""The longest time that a story skips."""

NO_ADDRESS = "eipalloc-0123456789abcdef0"
"""The id of an Elastic IP that does not exist."""

workers = st.integers(0, 1)
fuses = st.one_of(st.none(), st.none(), st.integers(1, 30))


@dataclass
class Told:
    """The expectations of a story that belong to the rows, and return with a backup of the rows."""

    epochs: dict[str, int] = field(default_factory=dict)
    accepted: set[tuple[str, str]] = field(default_factory=set)
    observed: dict[Any, Any] = field(default_factory=dict)
    owed: list[Any] = field(default_factory=list)
    keys: list[Any] = field(default_factory=list)


class OrdinaryEvents(StoryRules):
    """Rules that a story has besides faults, crashes and races."""

    def __init__(self) -> None:
        super().__init__()
        self.told = Told()
        self.taken: set[str] = set()
        self.forgotten: set[str] = set()
        """The client tokens of launches that restored rows may not know."""
        self.stopped: set[str] = set()
        """The instances that were ever stopped in the console."""
        self.belongings: dict[str, Belongings] = {}
        self.guardian: Guardian
        self.skipped = timedelta()

    def _register(
        self, worker: int, agent_id: str, changes: dict[str, Any], fuse: int | None
    ) -> Any:
        return self._do(worker, lambda sef: sef.register_agent(agent_id, changes), fuse)

    def _agent_of(self, which: int) -> str:
        return sorted(row.id for row in self.world.rows("agents", None))[which]

    @property
    def down(self) -> set[str]:
        """The instances that an operator has stopped, and not started again."""
        if not self.stopped:
            return set()
        states = self.world.instances()
        return {i for i in self.stopped if i in states and states[i].state not in ALIVE}

    # The primary

    @rule(worker=workers, which=st.integers(0, 2), nth=st.integers(0, 2), fuse=fuses)
    def put_back(self, worker: int, which: int, nth: int, fuse: int | None) -> None:
        """Name a former primary that still runs as the primary again."""
        agent_id, instances = self._agent_of(which), self.world.instances()
        former = [
            row.instance_id
            for row in self.world.rows("retirements", agent_id)
            if row.was_primary
            and row.instance_id in instances
            and instances[row.instance_id].state == "running"
        ]
        if former:
            changes = {"instance_id": former[nth % len(former)]}
            self.tally["put back"] += self._register(worker, agent_id, changes, fuse) is not None

    @rule(
        worker=workers,
        which=st.integers(0, 1),
        how=st.sampled_from(["put", "report", REBALANCE, TERMINATION]),
        seconds=st.sampled_from([0, 7, 301]),
        fuse=fuses,
    )
    def take_out_and_learn(
        self, worker: int, which: int, how: str, seconds: float, fuse: int | None
    ) -> None:
        """Take an agent out of service, and let it name its instance again some time later."""
        agent_id = self._agent_of(which)
        agent = self.world.agent(agent_id)
        if agent.instance_id is None or self.world.state(agent.instance_id) != "running":
            return
        if self._register(worker, agent_id, {"instance_id": None}, fuse) is None:
            return
        self.tally["taken out of service"] += 1
        self.world.clock.advance(seconds)
        self._do(1 - worker, lambda sef: sef.reconcile(), None)
        named = {"instance_id": agent.instance_id}
        at = self.world.clock().isoformat()
        if how == "report":
            price = {"spot_price": 0.031, "pool_id": POOL, "timestamp": at, "is_replica": False}
            self._report(1 - worker, agent_id, price | named, fuse)
        if how in (REBALANCE, TERMINATION):
            signal = named | {"signal_type": how, "timestamp": at}
            answer = self._do(1 - worker, lambda s: s.handle_interruption(agent_id, signal), fuse)
            if answer is not None:
                self.told.accepted.add((answer["incident_id"], how))
        learned = self.world.agent(agent_id).instance_id
        assert learned is None, f"{how} undid what an operator has said of {agent_id}"
        if learned is None:
            self._register(worker, agent_id, named, None)

    # The console

    @rule(which=st.integers(0, 2), whom=st.sampled_from(["primary", "standby", "former"]))
    def stop(self, which: int, whom: str) -> None:
        """Stop an instance in the console."""
        instance_id = self._instance(self._agent_of(which), whom)
        instances = self.world.instances()
        if instance_id is None or instance_id not in instances:
            return
        if instances[instance_id].state != "running":
            return
        try:
            self.world.client.stop_instances(InstanceIds=[instance_id])
        except (ClientError, BotoCoreError):
            return
        self.stopped.add(instance_id)
        self.tally["stopped in the console"] += 1

    @precondition(lambda self: self.stopped)
    @rule()
    def start(self) -> None:
        """Start all instances that were stopped in the console."""
        states = self.world.instances()
        stopped = [i for i in sorted(self.stopped) if i in states and states[i].state == "stopped"]
        for instance_id in stopped:
            try:
                self.world.client.start_instances(InstanceIds=[instance_id])
            except (ClientError, BotoCoreError):
                return
            self.tally["started in the console"] += 1

    # Targets

    @rule(
        worker=workers,
        which=st.integers(0, 2),
        what=st.sampled_from(["mistype", "correct", "correct", *MOBILE, *BOUND]),
        fuse=fuses,
    )
    def retarget(self, worker: int, which: int, what: str, fuse: int | None) -> None:
        """Mistype the Elastic IP, remove one target, or correct and add all targets."""
        agent_id = self._agent_of(which)
        if agent_id not in self.belongings:
            return
        cutover = self.targets_of(agent_id)
        if what == "mistype":
            cutover["elastic_ip"] = NO_ADDRESS
        elif what in cutover:
            del cutover[what]
        self._register(worker, agent_id, {"cutover": cutover}, fuse)
        self.tally["targets changed"] += 1

    def correct_targets(self) -> None:
        """Give each agent its right targets again."""
        for agent_id in self.belongings:
            agent, cutover = self.world.agent(agent_id), self.targets_of(agent_id)
            # The row has more fields, which are defaults.
            names = {} if agent.cutover is None else agent.cutover
            if names.get("elastic_ip") != cutover["elastic_ip"] or not names.keys() >= {*cutover}:
                self._register(0, agent_id, {"cutover": cutover}, None)

    def targets_of(self, agent_id: str) -> dict[str, Any]:
        """Return the right targets of an agent."""
        return dict(self.belongings[agent_id].targets)

    # Drills on all agents, and long times

    @precondition(lambda self: self.steps % 9 == 2)
    @rule(worker=workers, fuse=fuses)
    def drill_all(self, worker: int, fuse: int | None) -> None:
        """Let a drill of each agent fall due at once."""
        for which in range(2):
            self._register(worker, self._agent_of(which), {"drill_interval": 3600}, None)
        self.world.clock.advance(3601)
        self._do(worker, lambda sef: sef.plan_switchovers(), fuse)
        self._do(1 - worker, lambda sef: sef.reconcile(), None)
        self.tally["drills of all agents"] += 1

    @precondition(lambda self: self.steps % 9 == 4)
    @rule(worker=workers, days=st.sampled_from([1, 1, 7, 31, 100]), fuse=fuses)
    def skip_days(self, worker: int, days: int, fuse: int | None) -> None:
        """Let days pass; then the loop's jobs run once."""
        long = timedelta(days=days)
        if self.skipped + long > LONGEST_STORY:
            return
        self.skipped += long
        self.world.clock.advance(long.total_seconds())
        for job in ("reconcile", "detect_losses", "plan_switchovers"):
            self._do(worker, lambda sef, job=job: getattr(sef, job)(), fuse)
        self.tally["days skipped"] += days

    # Backups

    @precondition(lambda self: self.ground.server is None and self.steps % 9 == 7)
    @rule(
        worker=workers,
        which=st.integers(0, 2),
        what=st.sampled_from([TERMINATION, TERMINATION, "manual on", "auto-switch on"]),
        seconds=st.sampled_from([7, 61, 3601]),
    )
    def restore(self, worker: int, which: int, what: str, seconds: float) -> None:
        """Copy the SQLite database, work on, put the copy back, and adopt what has no row."""
        agent_id = self._agent_of(which)
        self._copy_database(self._file, self._copy)
        told = deepcopy(self.told)
        if what == TERMINATION:
            signal = {"signal_type": what, "timestamp": self.world.clock().isoformat()}
            self._do(worker, lambda sef: sef.handle_interruption(agent_id, signal), None)
        else:
            self._set_mode(worker, agent_id, what)
        self.world.clock.advance(seconds)
        self._do(1 - worker, lambda sef: sef.reconcile(), None)
        primaries = {row.id: row.instance_id for row in self.world.rows("agents", None)}
        self.world.clear()
        self._copy_database(self._copy, self._file)
        self.told = told
        # The restored rows do not know which instances have ended since the backup.
        instances = self.world.instances().values()
        self.taken |= {i.id for i in instances if i.state not in ALIVE | {"stopped"}}
        self.forgotten |= {i.tags[ATTEMPT_TAG] for i in instances if ATTEMPT_TAG in i.tags}
        self.tally["backups restored"] += 1
        for one, primary in primaries.items():
            self._make_primary_again(one, primary)
        self.adopt_surplus()

    def _make_primary_again(self, agent_id: str, served: str | None) -> None:
        """Make the instance that served before the restore the primary, as docs/restore.md says."""
        sef, agent = self.world.workers[0], self.world.agent(agent_id)
        if served is None or self.world.state(served) not in ALIVE:
            served = agent.instance_id
        standby = self.world.standby(agent_id)
        if served == agent.instance_id:
            self._name_targets_again(agent_id)
        elif standby is not None and standby.instance_id == served:
            sef.enable_manual_replica_mode(agent_id)
            self._do(0, lambda sef: sef.execute_manual_switch(agent_id), None)
        else:
            sef.register_agent(agent_id, {"instance_id": served})
            self.tally["primaries named after a restore"] += 1

    def _name_targets_again(self, agent_id: str) -> None:
        """Let the targets move again: the rows say that they are with the primary."""
        cutover = self.world.agent(agent_id).cutover
        if cutover is not None:
            sef = self.world.workers[0]
            sef.register_agent(agent_id, {"cutover": None})
            targets = self.belongings[agent_id].targets
            names = {name: cutover[name] for name in targets if cutover.get(name)}
            sef.register_agent(agent_id, {"cutover": names})

    def adopt_surplus(self) -> None:
        """Adopt the instances that no row knows as surplus, so that SEF terminates them."""
        sef = self.world.workers[0]
        for unknown in sef.unknown_instances():
            if "no row knows the launch" in unknown["reason"]:
                self.guardian.named.add(unknown["instance_id"])
                sef.adopt_instance(unknown["agent_id"], unknown["instance_id"], "surplus")
                self.tally["instances adopted"] += 1

    @property
    def _copy(self) -> Path:
        return self.ground.home / "backup.db"

    @property
    def _file(self) -> Path:
        return self.ground.home / "sef.db"

    def _copy_database(self, source: Path, copy: Path) -> None:
        """Stop both workers, copy a file of the database, and start them again."""
        for worker in self.world.workers:
            worker.close()
        self.world.forget_connections()
        # The last connection has written the log into the file.
        assert not self._file.with_name("sef.db-wal").exists()
        shutil.copy(source, copy)
        for number in range(len(self.world.workers)):
            self.world.restart(number)
