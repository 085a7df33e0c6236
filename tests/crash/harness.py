"""Run a real backend, kill it at a failpoint, start it again, and check its state."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests
from sqlalchemy import delete, update

from sef import failpoints
from sef.clock import utc_now
from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG
from sef.db import tables
from sef.db.statements import upsert
from sef.jobs import RECONCILE
from tests.crash.fork_server import ForkServer
from tests.harness import ALIVE, POOL, TrackedSimulation, World
from tests.web.server import Server

SECONDS = 60
"""Time limit of each wait; a busy machine is slow."""
POLL = 0.1
"""Seconds between two looks: one costs as much as a pass of the jobs."""
KEPT_TABLES = ("deployment", "leases")
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class NotReached(Exception):
    """The backend did not reach the armed occurrence of a failpoint.

    Jobs and requests may share the steps differently in each run.
    """


class Stage:
    """A database, a simulated EC2, and a backend that survives many crashes.

    The processes and SIGKILL are real. Only waits are shortened: the stage deletes the lease of a
    killed process, which would expire some seconds later, and `Story.later` moves times in the
    rows into the past.
    """

    def __init__(
        self,
        world: World,
        simulation: TrackedSimulation,
        fork_server: ForkServer,
        database_url: str,
        folder: Path,
    ) -> None:
        self.world = world
        self._simulation = simulation
        self._fork_server = fork_server
        self._database_url = database_url
        self._folder = folder
        self._armed = folder / "armed"
        self._armed.write_text("")
        self._environment: Mapping[str, str] = {}
        self._server: Server | None = None
        self.crashes = 0

    def prepare(self, environment: Mapping[str, str]) -> None:
        """Remove all traces of the previous story, and make sure that the backend runs."""
        self._simulation.restore()
        with self.world.connect() as connection, connection.begin():
            for table in tables.metadata.sorted_tables:
                if table.name not in KEPT_TABLES:
                    connection.execute(delete(table))
        for instance in self.world.simulation.instances():
            if instance.state in ALIVE:
                self.world.simulation.terminate(instance.id)
        if environment != self._environment:
            self.close()
            self._environment = environment
        self.crashes = 0
        if self._server is None:
            self._start()

    def arm(self, point: str) -> None:
        self._reached.unlink(missing_ok=True)
        self._armed.write_text(point)

    def disarm(self) -> None:
        self._armed.write_text("")

    @property
    def reached(self) -> Sequence[str]:
        """Return the failpoints that were reached since `arm`."""
        return self._reached.read_text().split() if self._reached.exists() else []

    @property
    def _reached(self) -> Path:
        return self._armed.with_suffix(".reached")

    def request(self, method: str, path: str, **more: Any) -> requests.Response | None:
        """Return the response; None if the backend was killed before. It is running again then."""
        assert self._server is not None
        try:
            return requests.request(method, self._server.url + path, timeout=SECONDS, **more)
        except requests.RequestException:
            self.revive()
            return None

    def revive(self) -> None:
        """Start the backend again if it was killed.

        A failed request can be noticed before the end of the process.
        """
        assert self._server is not None
        if self._server.ended(within=30):
            self.crashes += 1
            self.disarm()
            self._start()

    def hold_jobs(self) -> None:
        """Keep the jobs from running, so that requests take the same steps each time."""
        until = utc_now() + timedelta(seconds=30)
        row = {"name": RECONCILE, "holder": "the test", "expires_at": until, "version": 1}
        with self.world.connect() as connection, connection.begin():
            upsert(connection, tables.leases, [row])

    def free_jobs(self) -> None:
        self.world.write(delete(tables.leases).where(tables.leases.c.name == RECONCILE))

    def is_dead(self) -> bool:
        return self._server is not None and self._server.ended()

    def _start(self) -> None:
        self.world.write(delete(tables.leases))
        self._server = Server(
            self._folder,
            self._database_url,
            start=self._fork_server.start,
            **{
                "SEF_CLOUD": "aws",
                "SEF_VAR": str(self.world.simulation.health()["state"]),
                "SEF_EC2_ENDPOINT": self.world.simulation.endpoint,
                "AWS_ACCESS_KEY_ID": "simulated",
                "AWS_SECRET_ACCESS_KEY": "simulated",
                "SEF_LAUNCH_TEMPLATE": "sef-default",
                "SEF_RUN_JOBS": "true",
                "SEF_RECONCILE_INTERVAL_SECONDS": "0.25",
                "SEF_STANDBY_CHECK_INTERVAL_SECONDS": "0.5",
                "SEF_DRAIN_SECONDS": "0",
                failpoints.VARIABLE: str(self._armed),
                **self._environment,
            },
        )

    def log(self) -> str:
        return (self._folder / "server.log").read_text()[-3000:]

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


class Story:
    """A scenario as one agent passes it, with at most one crash, at `point`."""

    def __init__(self, stage: Stage, name: str, point: str) -> None:
        self.stage = stage
        self.world = stage.world
        self.agent_id = f"{name}-{uuid4().hex[:8]}"
        self._point = point
        self._url = f"/api/agents/{self.agent_id}"
        self._began = time.time()
        self._sent: list[Mapping[str, Any]] = []
        self.gone: set[str] = set()

    @property
    def agent(self) -> Any:
        return self.world.agent(self.agent_id)

    @property
    def epoch(self) -> int:
        return int(self.agent.epoch)

    @property
    def standby(self) -> Any:
        return self.world.standby(self.agent_id)

    def rows(self, table: str) -> list[Any]:
        return self.world.rows(table, self.agent_id)

    def fleet_events(self, event_type: str) -> list[Any]:
        """Return the events that belong to no agent."""
        events = self.world.rows("system_events", None)
        return [e for e in events if e.event_type == event_type and e.agent_id is None]

    def standby_is(self, status: str) -> Any:
        """Return the standby if it has this status, else None."""
        standby = self.standby
        return standby if standby is not None and standby.status == status else None

    @property
    def relief(self) -> Any:
        """Return the replica that launches beside the standby, else None."""
        replicas = self.rows("replica_instances")
        return next((replica for replica in replicas if replica.relief_agent_id), None)

    def launched(self) -> Any:
        """Return the standby if it has an instance, else None."""
        standby = self.standby
        return standby if standby is not None and standby.instance_id else None

    def has_another_than(self, replica: Any) -> bool:
        standby = self.standby
        return standby is None or standby.id != replica.id

    def with_others(self, count: int) -> list["Story"]:
        """Return this story and `count` more, each with its own agent."""
        return [self, *(Story(self.stage, f"another-{n}", "") for n in range(count))]

    # Before the crash

    def primary(self, **fields: Any) -> str:
        """Launch an instance and register it as the agent's primary."""
        instance_id = self.world.launch()
        self.put(instance_id=instance_id, pool_id=POOL, **fields)
        return instance_id

    def arm(self) -> None:
        """Arm the failpoint. Until `later`, the jobs do not run."""
        self.stage.hold_jobs()
        self.stage.arm(self._point)

    # Requests; a request is repeated only if the first try had no effect

    def put(self, **fields: Any) -> None:
        self._ask("PUT", "", lambda: False, json=fields)

    def signal(self, signal_type: str, instance_id: str | None = None) -> None:
        payload = {"signal_type": signal_type, "timestamp": time.time()}
        if instance_id is not None:
            payload["instance_id"] = instance_id
        known = len(self.world.rows("spot_interruption_events", self.agent_id))
        self._ask(
            "POST",
            "/interruption",
            lambda: len(self.world.rows("spot_interruption_events", self.agent_id)) > known,
            json=payload,
        )
        self._sent.append(payload)

    def operate(self, call: str, had_effect: Callable[[], bool]) -> None:
        self._ask("POST", f"/{call}", had_effect)

    def operate_with_key(self, call: str, refused: str | None = None) -> None:
        """Repeat a call with one Idempotency-Key until it is answered, as a client does."""
        key = {"Idempotency-Key": uuid4().hex}
        while True:
            answer = self.stage.request("POST", f"{self._url}/{call}", headers=key)
            if answer is None:
                self.later("idempotency_keys", claimed_until=HOUR)
                continue
            if refused is None:
                assert answer.status_code == 200, answer.text
            else:
                assert answer.json()["reason"] == refused
            return

    def report(self, seconds_ago: float, instance_id: str | None = None) -> None:
        payload = {**self._report(seconds_ago), "instance_id": instance_id}
        self._ask("POST", "/pricing", lambda: False, json=payload)

    def report_in_a_batch(self, seconds_ago: float) -> None:
        batch = {"reports": [{"agent_id": self.agent_id, **self._report(seconds_ago)}]}
        while True:
            answer = self.stage.request("POST", "/api/pricing/batch", json=batch)
            if answer is not None:
                assert answer.json()["rejected"] == []
                return

    def _report(self, seconds_ago: float) -> Mapping[str, Any]:
        return {"spot_price": 0.05, "pool_id": POOL, "timestamp": self._began - seconds_ago}

    def adopt(self, instance_id: str, role: str) -> None:
        """Adopt an instance; a repeat changes nothing, and is refused once the instance ended."""

        def is_ending() -> bool:
            def has(table: str, *statuses: str) -> bool:
                rows = [r for r in self.rows(table) if r.instance_id == instance_id]
                return any(not statuses or row.status in statuses for row in rows)

            if self.world.state(instance_id) not in ALIVE:
                return True
            if has("retirements"):
                return has("ordered_ends")
            return has("replica_instances", "releasing", "terminated")

        body = {"instance_id": instance_id, "role": role}
        had_effect = is_ending if role == "surplus" else lambda: False
        self._ask("POST", "/adopt", had_effect, json=body)

    def launch_orphans(self, count: int, attempt: str = "orphan-1") -> list[str]:
        """Launch instances with SEF's tags that no row refers to, and make them look old."""
        [deployment] = self.world.rows("deployment", None)
        orphans = [self.world.launch() for _ in range(count)]
        for instance_id in orphans:
            self.world.simulation.age(instance_id, 600)
        values = {MANAGED_TAG: deployment.name, AGENT_TAG: self.agent_id, ATTEMPT_TAG: attempt}
        tags: Any = [{"Key": key, "Value": value} for key, value in values.items()]
        # In one call, so that a pass of sef_orphans finds all of them or none.
        self.world.client.create_tags(Resources=orphans, Tags=tags)
        return orphans

    def _ask(self, method: str, path: str, had_effect: Callable[[], bool], **more: Any) -> None:
        while True:
            answer = self.stage.request(method, self._url + path, **more)
            if answer is not None:
                assert answer.status_code == 200, answer.text
                return
            if had_effect():
                return  # the backend's jobs must do the rest

    # Time

    def later(self, table: str, **columns: timedelta | None) -> None:
        """Let time pass: move columns of the agent's rows into the past, or clear them."""
        source = tables.metadata.tables[table]
        key = source.c.id if table == "agents" else source.c.agent_id
        for row in self.world.rows(table, self.agent_id):
            values = {
                name: None if back is None else (getattr(row, name) or utc_now()) - back
                for name, back in columns.items()
            }
            self.world.write(update(source).where(key == self.agent_id).values(values))
        self.stage.free_jobs()

    def calls_were_long_ago(self) -> None:
        """Let the agent's calls of RunInstances look minutes old, so that its launch is slow."""
        attempts = tables.launch_attempts
        replicas = [replica.id for replica in self.rows("replica_instances")]
        is_called = attempts.c.replica_id.in_(replicas) & attempts.c.called_at.is_not(None)
        long_ago = utc_now() - timedelta(minutes=2)
        self.world.write(update(attempts).where(is_called).values(called_at=long_ago))
        self.later("agents", not_before=None)

    def until(self, holds: Callable[[], Any]) -> Any:
        """Wait until a condition holds, also across a crash, and return its result."""
        deadline = time.monotonic() + SECONDS
        while not (result := holds()):
            assert time.monotonic() < deadline, "the condition never became true"
            if self.stage.is_dead():
                self.stage.revive()
            time.sleep(POLL)
        return result

    # Checks

    def settled(self, *, epoch: int, standbys: int = 0) -> None:
        """Wait until the backend has finished its work and all invariants hold."""
        last: list[AssertionError] = []

        def holds() -> bool:
            try:
                self._check(epoch, standbys)
            except AssertionError as error:
                last[:] = [error]
                return False
            return True

        try:
            self.until(holds)
        except AssertionError:
            raise last[0] from None

    def _check(self, epoch: int, standbys: int) -> None:
        world, agent_id = self.world, self.agent_id
        world.check(agent_id, gone=self.gone)
        agent = world.agent(agent_id)
        assert agent.epoch == epoch
        epochs = [event.details["epoch"] for event in world.promotions(agent_id)]
        assert sorted(epochs) == list(range(2, epoch + 1)), "one promotion for each epoch"
        if agent.instance_id not in self.gone:
            assert world.state(agent.instance_id) == "running", "the primary runs"
        assert all(a.status != "open" for a in world.attempts(agent_id)), (
            "no result of a launch is unknown"
        )
        unfinished = world.replicas(agent_id, "launching", "releasing")
        assert not unfinished
        assert len(world.replicas(agent_id, "ready")) == standbys
        closed = {incident.status for incident in world.rows("incidents", agent_id)}
        assert closed <= {"done", "released", "ignored"}
        assert all(
            r.terminated_at or r.terminate_after is None
            for r in world.rows("retirements", agent_id)
        )

    def terminated_as_an_orphan(self, instance_id: str) -> None:
        """Wait until SEF has terminated an orphan, and check that it wrote one event."""
        [event] = self.until(lambda: self.world.events("orphan_terminated", self.agent_id))
        assert event.details["instance_id"] == instance_id
        assert self.world.state(instance_id) == "terminated"

    def await_crash(self) -> None:
        """Wait for the crash: its effect can be visible before the process has died.

        Raises:
            NotReached: the backend did not crash.
        """
        deadline = time.monotonic() + 15
        while self._point and not self.stage.crashes:
            if time.monotonic() > deadline:
                raise NotReached
            if self.stage.is_dead():
                self.stage.revive()
            time.sleep(POLL)

    def check_repeats(self) -> None:
        """Send all signals again, and check that they change nothing."""
        before = self._effects()
        for payload in self._sent:
            self._ask("POST", "/interruption", lambda: False, json=payload)
        after = self._effects()
        assert after == before, f"{self.agent_id}: a repeat had an effect: {before} -> {after}"

    def _effects(self) -> Any:
        world, agent_id = self.world, self.agent_id
        return (
            world.agent(agent_id).epoch,
            {(i.id, i.state) for i in world.tagged(agent_id)},
            {(i.id, i.status) for i in world.rows("incidents", agent_id)},
            {(r.id, r.status) for r in world.replicas(agent_id)},
        )
