"""Test SEF with a clock, the simulated EC2 and the rows of a story, and check the invariants."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from sqlalchemy import Connection, Engine, Row, create_engine, event, insert, select

from sef.cloud.clients import Clients
from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG, REPLICA_TAG, Ec2
from sef.config import Settings
from sef.db import tables
from sef.simulator.client import SimulatedInstance, Simulation
from smart_emergency_fallback import SmartEmergencyFallback

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client

POOL = "m5.large.us-east-1a"
OTHERS = ["m5.large.us-east-1b", "m5.large.us-east-1c"]
ALIVE = {"pending", "running"}
ONCE = pytest.mark.parametrize("database_url", ["once"], indirect=True)
"""Mark a story in which the kind of the database makes no difference.

It runs on SQLite, which takes a fifth less time; `make test-mysql` runs it on MySQL.
"""
ON_MARIADB = pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
"""Mark a story of workers that race, or of a server: SQLite has neither row locks nor deadlocks."""
REBALANCE = "rebalance-recommendation"
TERMINATION = "termination-notice"


MakeSef = Callable[..., SmartEmergencyFallback]
"""The type of the fixture `make_sef`."""


class Clock:
    """A clock that a test advances. It starts at the present time, like EC2's launch times."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)
        self._lock = Lock()

    def __call__(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += timedelta(seconds=seconds)


class Crash(BaseException):
    """The simulated end of a process; SEF must not catch it."""


class TrackedSimulation(Simulation):
    """A client of the simulated EC2 that knows the state that its test has changed."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self._changed: set[str] = set()

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        if method != "GET":
            self._changed.add(path.partition("/")[0])
        return super()._ask(method, path, body)

    def restore(self) -> None:
        """Terminate and forget all instances, and undo what the test changed.

        Options are always reset: SEF sets them too, with a client of its own.
        """
        self.forget_instances()
        self.set_options(
            pending_seconds=0,
            visible_after_seconds=0,
            refuse_token_of_terminated=True,
            healthy_after_seconds=0,
            route53_per_second=0,
            route53_change_seconds=0,
            draining_seconds=0,  # the simulator's clock is the real one, not that of the story
            spot_return_seconds=0,
        )
        if "faults" in self._changed:
            self.clear_faults()
        if "pools" in self._changed:
            for pool in self.pools():
                if pool.room is not None:
                    self.set_pool(pool.pool, capacity=True)
        self._changed.clear()


class World:
    """The clock, the simulated EC2, the rows and the workers of one story."""

    def __init__(
        self,
        simulation: Simulation,
        settings: Settings,
    ) -> None:
        self.simulation = simulation
        self.clock = Clock()
        self.client = own_client_of(simulation.endpoint)
        # No wait, because the clock of the story stands still.
        changes = {"launch_template": "sef-default", "enable_wait_seconds": 0}
        self._settings = settings.model_copy(update=changes)
        self._engine: Engine = create_engine(settings.database_url)
        self._workers: list[SmartEmergencyFallback] = []

    def sef(
        self,
        cloud: Ec2 | None = None,
        *,
        clients: Clients | None = None,
        ahead: float = 0,
        **settings: Any,
    ) -> SmartEmergencyFallback:
        """Build another worker on the same database.

        Args:
            cloud: an EC2 that fails at a certain call, instead of the usual one.
            clients: the same for the resources of a cutover.
            ahead: seconds by which the clock of this worker is fast.
        """
        if "simulator_pending_seconds" in settings:
            self.simulation.set_options(pending_seconds=settings["simulator_pending_seconds"])
        sef = SmartEmergencyFallback(
            self._settings.database_url,
            settings=self._settings.model_copy(update=settings),
            # Shared clients: to build new ones would take most of the time of a story.
            cloud=cloud or ec2_of(self.simulation.endpoint),
            clients=clients or clients_of(self.simulation.endpoint),
            clock=lambda: self.clock() + timedelta(seconds=ahead),
        )
        self._workers.append(sef)
        return sef

    def primary(
        self, sef: SmartEmergencyFallback, agent_id: str = "a", pool: str = POOL, **more: Any
    ) -> str:
        """Launch an instance as an operator does, and register it as an agent's primary."""
        instance_id = self.launch(pool, **more)
        sef.register_agent(agent_id, {"instance_id": instance_id, "pool_id": pool})
        return instance_id

    def launch(self, pool: str = POOL, **more: Any) -> str:
        kind, _, zone = pool.rpartition(".")
        parameters: dict[str, Any] = {
            "LaunchTemplate": {"LaunchTemplateName": "sef-default"},
            "InstanceType": kind,
            "Placement": {"AvailabilityZone": zone},
            "InstanceMarketOptions": {"MarketType": "spot"},
            "MinCount": 1,
            "MaxCount": 1,
        } | more
        return self.client.run_instances(**parameters)["Instances"][0]["InstanceId"]

    def signal(
        self,
        sef: SmartEmergencyFallback,
        signal_type: str,
        agent_id: str = "a",
        *,
        at: datetime | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        payload = {"signal_type": signal_type, "timestamp": (at or self.clock()).isoformat()}
        return sef.handle_interruption(agent_id, payload | fields)

    def described(self, instance_id: str) -> Any:
        response = self.client.describe_instances(InstanceIds=[instance_id])
        return response["Reservations"][0]["Instances"][0]

    def state(self, instance_id: str) -> str:
        return next(i.state for i in self.simulation.instances() if i.id == instance_id)

    def pool_of(self, instance_id: str) -> str:
        return next(i.pool for i in self.simulation.instances() if i.id == instance_id)

    def tagged(self, agent_id: str = "a") -> list[SimulatedInstance]:
        """Return all instances that SEF ever launched for an agent, the oldest first.

        An instance of a shared call belongs to its replica's agent until it has the agent's tag.
        """
        return self._tagged(agent_id, self.simulation.instances())

    def _tagged(
        self, agent_id: str, instances: Collection[SimulatedInstance]
    ) -> list[SimulatedInstance]:
        names = [row.name for row in self.rows("deployment", None)]
        of_replicas = {replica.instance_id for replica in self.replicas(agent_id)}
        return [
            i
            for i in instances
            if i.tags.get(MANAGED_TAG) in names
            and (i.tags.get(AGENT_TAG) == agent_id if AGENT_TAG in i.tags else i.id in of_replicas)
            and ATTEMPT_TAG in i.tags
        ]

    def alive(self, agent_id: str = "a") -> list[SimulatedInstance]:
        return [i for i in self.tagged(agent_id) if i.state in ALIVE]

    def rows(self, table: str, agent_id: str | None = "a") -> list[Row[Any]]:
        source = tables.metadata.tables[table]
        statement = select(source)
        if agent_id is not None:
            column = source.c.id if table == "agents" else source.c.agent_id
            statement = statement.where(column == agent_id)
        with self._engine.connect() as connection:
            return list(connection.execute(statement))

    def connect(self) -> Connection:
        return self._engine.connect()

    def write(self, statement: Any, rows: Any = None) -> None:
        with self._engine.begin() as connection:
            connection.execute(statement, *([] if rows is None else [rows]))

    def past(
        self, count: int, terminations: int, pool: str = POOL, *, unannounced: bool = False
    ) -> None:
        """Insert incidents of a pool from a day ago, of which some ended with a termination.

        Each began with a rebalance recommendation, unless `unannounced`.
        """
        at = self.clock() - timedelta(days=1)
        self.write(
            insert(tables.incidents),
            [
                {
                    "id": f"past-{pool[-2:]}-{number}",
                    "agent_id": "another",
                    "subject": f"i-{number}",
                    "instance_id": f"i-{number}",
                    "pool_id": pool,
                    "status": "done",
                    "goal": "standby",
                    "reason": "long ago",
                    "rebalance_at": None if unannounced else at,
                    "termination_at": at if number < terminations else None,
                    "opened_at": at,
                    "closed_at": at,
                }
                for number in range(count)
            ],
        )

    def agent(self, agent_id: str = "a") -> Row[Any]:
        return self.rows("agents", agent_id)[0]

    def replicas(self, agent_id: str = "a", *statuses: str) -> list[Row[Any]]:
        rows = sorted(self.rows("replica_instances", agent_id), key=lambda r: r.created_at)
        return [r for r in rows if not statuses or r.status in statuses]

    def standby(self, agent_id: str = "a") -> Row[Any] | None:
        live = [r for r in self.replicas(agent_id, "launching", "ready") if r.live_agent_id]
        assert len(live) <= 1
        return live[0] if live else None

    def attempts(self, agent_id: str = "a") -> list[Row[Any]]:
        ids = {r.id for r in self.replicas(agent_id)}
        rows = [a for a in self.rows("launch_attempts", None) if a.replica_id in ids]
        return sorted(rows, key=lambda a: (a.created_at, a.attempt))

    def events(self, event_type: str, agent_id: str = "a") -> list[Row[Any]]:
        return [e for e in self.rows("system_events", agent_id) if e.event_type == event_type]

    def promotions(self, agent_id: str = "a") -> list[Row[Any]]:
        types = ("failover_completed", "switchover_completed")
        return [e for e in self.rows("system_events", agent_id) if e.event_type in types]

    def settle(self, sef: SmartEmergencyFallback, seconds: float = 0) -> None:
        """Let time pass, and run one pass of `sef_reconcile`."""
        self.clock.advance(seconds)
        sef.reconcile()

    def cloud(self, on: str, do: Callable[..., None]) -> Ec2:
        """Return an EC2 with its own client, which calls `do` at an event of boto3."""
        client = client_of(self.simulation.endpoint)
        client.meta.events.register(on, do)
        return Ec2(client)

    def check(self, agent_id: str = "a", gone: Collection[str] = ()) -> None:
        """Check the invariants that hold after every story.

        Args:
            agent_id: the agent of the story.
            gone: instances that the story itself terminated.
        """
        everything = self.simulation.instances()
        states = {i.id: i.state for i in everything}
        instances = {i.id: i for i in self._tagged(agent_id, everything)}
        replicas = self.replicas(agent_id)
        agent = self.agent(agent_id)
        self.standby(agent_id)  # checks that there is at most one

        claimed = {
            r.instance_id
            for r in replicas
            if r.status in ("launching", "ready", "promoted") and r.instance_id
        }
        running = {i.id for i in instances.values() if i.state in ALIVE}
        assert running == claimed - set(gone), "EC2 must run exactly the instances in the rows"

        for replica in replicas:
            launched = [
                i
                for i in instances.values()
                if i.tags.get(REPLICA_TAG) == replica.id
                or (REPLICA_TAG not in i.tags and i.id == replica.instance_id)
            ]
            assert len(launched) <= 1, f"{replica.id} has {len(launched)} instances"
            assert [i.id for i in launched] == (
                [replica.instance_id] if replica.instance_id else []
            )
            if replica.status == "ready" and replica.instance_id not in gone:
                assert launched[0].state == "running"
                assert launched[0].pool == replica.pool_id
                assert launched[0].market == replica.market
            if replica.status in ("terminated", "failed"):
                assert all(i.state not in ALIVE for i in launched)
            assert (replica.ready_at is not None) or replica.status not in ("ready", "promoted")

        tokens = [i.tags[ATTEMPT_TAG] for i in instances.values() if REPLICA_TAG in i.tags]
        assert len(tokens) == len(set(tokens)), "two instances have the same launch attempt"

        retired = [r for r in self.rows("retirements", agent_id) if r.terminated_at]
        assert agent.instance_id not in {r.instance_id for r in retired}
        for retirement in retired:
            assert states.get(retirement.instance_id) not in ALIVE

        epochs = [e.details["epoch"] for e in self.promotions(agent_id)]
        assert len(epochs) == len(set(epochs)), "two promotions have the same epoch"
        assert agent.epoch >= max(epochs, default=1)
        open_incidents = [i for i in self.rows("incidents", agent_id) if i.status == "open"]
        assert len(open_incidents) <= 1

    def close(self) -> None:
        for sef in self._workers:
            sef.close()
        self._engine.dispose()


@cache
def own_client_of(endpoint: str) -> "EC2Client":
    """Return the client of the tests themselves, in which no test injects errors."""
    return client_of(endpoint)


@cache
def clients_of(endpoint: str) -> Clients:
    return Clients("us-east-1", endpoint, simulated=True)


@cache
def ec2_of(endpoint: str) -> Ec2:
    return Ec2(clients_of(endpoint).ec2)


def client_of(endpoint: str, config: Config | None = None) -> "EC2Client":
    return boto3.client(
        "ec2",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="simulated",
        aws_secret_access_key="simulated",
        config=Config(connect_timeout=2, read_timeout=8, retries={"total_max_attempts": 1}).merge(
            config or Config()
        ),
    )


@contextmanager
def meanwhile(fragment: str, do: Callable[[], object]) -> Iterator[None]:
    """Call `do` once, just before this thread's first statement that contains `fragment`.

    So another worker acts between two steps at a fixed place, and the test needs no luck. The
    statement must be outside of transactions: the other worker would wait for their locks.
    """
    thread = get_ident()
    called: list[bool] = []

    def before(*arguments: Any) -> None:
        if not called and get_ident() == thread and fragment in arguments[2]:
            called.append(True)
            do()

    event.listen(Engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", before)
    assert called, f"no statement contained {fragment!r}"
