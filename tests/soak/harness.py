"""Provide real databases, the simulated EC2 and workers that can die for the random stories.

One `Ground` serves many stories, each with empty tables; a `Stage` serves one story.
"""

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from botocore.config import Config

from sef import failpoints
from sef.cloud.clients import Clients
from sef.cloud.ec2 import Ec2
from sef.config import Settings, variable
from sef.db.database import Database
from sef.errors import Refused, SefError
from sef.failover.instances.limits import MAY_RUN
from sef.simulator.client import SimulatedInstance, Simulation, SimulationError
from sef.simulator.process import ensure_running
from sef.terms import NotificationSeverity
from smart_emergency_fallback import SmartEmergencyFallback
from tests.db.rows import empty
from tests.harness import Crash, World, client_of
from tests.mariadb import MariaDB
from tests.webhook_receiver import Receiver

log = logging.getLogger("sef")

SECOND_POOL = "m5a.large.us-east-1a"

READ_SECONDS = 1.0
DELAY_SECONDS = 1.2
"""Longer than the client waits: EC2 completes the call after the client has given up."""

STORIES_PER_SIMULATION = 30
"""Stories before a new simulated EC2 is started: with many old instances, a restart is slow."""


class Ground:
    """A database server and a folder for simulated EC2s."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.home = Path(tempfile.mkdtemp(prefix="sef-soak-"))
        self.server: MariaDB | None = None
        self.url = f"sqlite:///{self.home / 'sef.db'}"
        if database == "mariadb":
            self.server = MariaDB()
            self.server.start()
            self.server.execute("CREATE DATABASE soak CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
            self.url = self.server.url("soak")
        tables = Database(self.url)
        tables.create_tables()
        tables.dispose()
        self.receiver = Receiver()
        self._stories = 0
        self.simulation: Simulation | None = None

    def begin(self) -> Simulation:
        """Empty the tables, and return an EC2 without faults."""
        empty(self.url)
        if self._stories % STORIES_PER_SIMULATION == 0:
            self._stop_simulation()
            self.simulation = self.run_simulation()
        self._stories += 1
        assert self.simulation is not None
        clear(self.simulation)
        self.receiver.got.clear()
        self.receiver.taken.clear()
        self.receiver.status = 200
        return self.simulation

    @property
    def var(self) -> Path:
        return self.home / f"ec2-{self._stories // STORIES_PER_SIMULATION}"

    def run_simulation(self) -> Simulation:
        return ensure_running(self.var, pending_seconds=0)

    def _stop_simulation(self) -> None:
        if self.simulation is not None:
            with suppress(SimulationError):
                self.simulation.stop()

    def close(self) -> None:
        self._stop_simulation()
        self.receiver.stop()
        if self.server is not None:
            self.server.remove()
        shutil.rmtree(self.home, ignore_errors=True)


class Stage(World):
    """The world of one story, with two workers that can die at any failpoint."""

    def __init__(self, ground: Ground, ahead: Sequence[float], tally: Counter[str]) -> None:
        simulation = ground.begin()
        settings = Settings(
            var=ground.var,
            database_url=ground.url,
            run_jobs=False,
            simulator_pending_seconds=0,
            enable_wait_seconds=0,
            # Of the zone to which targets are bound, one pool beside that of the first primaries.
            spot_pools=",".join([*(f"m5.large.us-east-1{z}" for z in "abcdef"), SECOND_POOL]),
            notification_urls=f"json://127.0.0.1:{ground.receiver.port}",
            notification_min_severity=NotificationSeverity.INFO,
            allowed_private_networks="127.0.0.0/8",
        )
        super().__init__(simulation, settings)
        self.ground = ground
        self.url = ground.url
        self.tally = tally
        self.logged_error: str | None = None
        self.is_delayed = False
        self._dead: set[int] = set()
        self.limits: dict[str, int] = {}
        self.limited: list[Limited] = []
        self._ahead = ahead
        self._ice: _Ice | None = None
        self._fuse: int | None = None
        self._fuse_lock = threading.Lock()
        failpoints.reached = self._reach
        self.on_termination: Callable[[list[str]], None] = lambda _: None
        client = failpoints.instrument(_impatient(simulation.endpoint))
        client.meta.events.register("before-call.ec2.TerminateInstances", self._terminate)
        self._ec2 = Ec2(client)
        self._clients = Clients("us-east-1", simulation.endpoint, simulated=True)
        self._listener = _Listener(self)
        log.addHandler(self._listener)
        log.propagate = False  # thousands of steps log too much to read
        self.workers = [self._worker(number) for number in range(len(ahead))]

    def _worker(self, number: int) -> SmartEmergencyFallback:
        return self.sef(self._ec2, clients=self._clients, ahead=self._ahead[number], **self.limits)

    def _terminate(self, params: Any, **_: Any) -> None:
        self.on_termination([v for k, v in params["body"].items() if k.startswith("InstanceId")])

    def restart(self, number: int) -> None:
        self.workers[number].close()
        self.workers[number] = self._worker(number)
        self.tally["restarts"] += 1

    def limit(self, **limits: int) -> None:
        """Restart the workers with these limits; without arguments, with the default limits."""
        self.limits = limits
        self.tally["limits hit"] += sum(limited.was_hit for limited in self.limited)
        self.limited = [Limited(name, most, self) for name, most in limits.items()]
        for number in range(len(self.workers)):
            self.restart(number)

    @contextmanager
    def frozen(
        self, number: int, do: Callable[[SmartEmergencyFallback], Any], places: int
    ) -> Iterator[Future[Any]]:
        """Freeze a worker at one of its next calls to AWS or COMMITs, until the block ends.

        It does not freeze within a transaction, because other workers would wait for its locks. The
        place is counted, not timed, so that it is the same when the story is repeated. The test
        with SIGSTOP is tests/failover/instances/test_frozen_worker.py.
        """
        self._ice = ice = _Ice(places)
        with ThreadPoolExecutor(1) as threads:
            late = threads.submit(self.attempt, number, do)
            while not late.done() and not ice.is_frozen.wait(0.005):
                pass
            self._ice = None
            self.tally["frozen"] += ice.is_frozen.is_set()
            try:
                yield late
            finally:
                ice.thaws.set()
        self.restart_dead()

    def arm_crash(self, fuse: int | None) -> None:
        """Kill the worker that reaches the failpoint of this number, counted from now."""
        with self._fuse_lock:
            self._fuse = fuse

    def _reach(self, name: str) -> None:
        ice = self._ice
        if ice is not None and not name.endswith(":before-commit"):
            ice.touch()
        with self._fuse_lock:
            if self._fuse is None:
                return
            self._fuse -= 1
            if self._fuse > 0:
                return
            self._fuse = None
        self.tally["crashes"] += 1
        raise Crash(name)

    def attempt(self, number: int, do: Callable[[SmartEmergencyFallback], Any]) -> Any:
        """Return the answer of a worker; None if it rejects the call, fails or dies.

        Call `restart_dead` after a worker has died.
        """
        try:
            return do(self.workers[number])
        except Crash:
            self._dead.add(number)
        except (SefError, Refused):
            self.tally["refusals"] += 1
        return None

    def restart_dead(self) -> None:
        """Restart the workers that have died; none of their threads may still run."""
        while self._dead:
            self.restart(self._dead.pop())

    def kill_ec2(self) -> None:
        os.kill(self.simulation.health()["pid"], signal.SIGKILL)
        while True:
            with suppress(SimulationError):
                self.simulation.health()
                time.sleep(0.01)
                continue
            break
        self.tally["EC2 killed"] += 1
        self.simulation = self.ground.simulation = self.ground.run_simulation()

    def forget_connections(self) -> None:
        """Close the connections of the test itself; SEF's workers must notice by themselves."""
        self._engine.dispose()

    def instances(self) -> dict[str, SimulatedInstance]:
        return {i.id: i for i in self.simulation.instances()}

    def clear(self) -> None:
        """Remove all faults, and wait until delayed calls are complete."""
        waits = any(fault["delay_seconds"] for fault in self.simulation.faults())
        clear(self.simulation)
        if self.is_delayed and not waits:
            time.sleep(DELAY_SECONDS)
        self.is_delayed = False

    def close(self) -> None:
        failpoints.reached = None
        log.removeHandler(self._listener)
        log.propagate = True
        super().close()


class Limited:
    """A limit, and the count of instances at the time when it was set."""

    def __init__(self, name: str, most: int, stage: Stage) -> None:
        self.name = name
        self.was_hit = False
        self._most = most
        self._since = stage.clock()
        self._before = self._running(stage)

    def check(self, stage: Stage) -> None:
        """Check that the limit holds, and that an event reports each agent that waits for it."""
        reported = {e.details["limit"] for e in stage.rows("system_events", None) if _is_limit(e)}
        for agent in stage.rows("agents", None):
            if variable(self.name) in (agent.put_off_because or ""):
                assert variable(self.name) in reported, f"{agent.id} waits, without an event"
                self.was_hit = True
        if self.name == "max_instances":
            assert self._running(stage) <= max(self._most, self._before), "too many instances"
            return
        since = max(self._since, stage.clock() - timedelta(hours=1))
        agents = {r.id: r.agent_id for r in stage.rows("replica_instances", None)}
        launched = Counter(
            agents[attempt.replica_id]
            for attempt in stage.rows("launch_attempts", None)
            if attempt.created_at > since and attempt.status != "refused"
        )
        assert max(launched.values(), default=0) <= self._most, f"too many launches: {launched}"

    @staticmethod
    def _running(stage: Stage) -> int:
        replicas = stage.rows("replica_instances", None)
        known = [r for r in replicas if r.instance_id and r.status in MAY_RUN]
        return len(known) + sum(a.status == "open" for a in stage.rows("launch_attempts", None))


def _is_limit(event: Any) -> bool:
    return bool(event.event_type == "limit_reached")


class _Ice:
    """A barrier that blocks the caller whose number is `places`."""

    def __init__(self, places: int) -> None:
        self.is_frozen, self.thaws = threading.Event(), threading.Event()
        self._left = places
        self._lock = threading.Lock()

    def touch(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return
        self.is_frozen.set()
        assert self.thaws.wait(60)


class _Listener(logging.Handler):
    """Record exceptions that a job catches and logs: a story must fail on them too."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(logging.ERROR)
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and not isinstance(record.exc_info[1], SefError):
            self._stage.logged_error = logging.Formatter().format(record)


def clear(simulation: Simulation) -> None:
    """Remove all faults, and give every pool capacity."""
    simulation.clear_faults()
    simulation.set_options(
        pending_seconds=0,
        visible_after_seconds=0,
        refuse_token_of_terminated=True,
        draining_seconds=0,  # its clock is the real one, not that of the story
        spot_return_seconds=0,
    )
    for pool in simulation.pools():
        if pool.room is not None:
            simulation.set_pool(pool.pool, capacity=True)


def _impatient(endpoint: str) -> Any:
    """Return a client like SEF's own, but with one try and a short time-out, to save time."""
    config = Config(read_timeout=READ_SECONDS, retries={"total_max_attempts": 1})
    return client_of(endpoint, config)
