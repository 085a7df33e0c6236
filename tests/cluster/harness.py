"""Run backends on a cluster under load, and check that no fault loses data."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import select, text

from sef.config import Settings
from sef.db.tables import metadata
from sef.prices.series import CleaningRules, Observation, clean_series
from sef.simulator.client import Simulation
from sef.terms import Source
from tests.cluster.galera import Node
from tests.db.rows import stored_points, transaction
from tests.harness import World
from tests.web.server import Server

DATABASE = "sef"
POOL = "m5.large.us-east-1a"
START = datetime(2024, 3, 1, tzinfo=UTC)
BACKENDS = 3
WRITERS = 6
SERIES = 3
SERVED_WITHIN = 15
"""Maximum seconds from a fault until every client is served again."""
SETTLES_WITHIN = 60
CALL_SECONDS = 12


class Stage:
    """Three nodes, three backends, and clients that report prices."""

    def __init__(self, nodes: list[Node], var: Path, simulation: Simulation, folder: Path) -> None:
        self.nodes = nodes
        self._var = var
        self._folder = folder
        settings = Settings(var=var, database_url=nodes[0].url(DATABASE), run_jobs=False)
        self.backends = [self._backend(number) for number in range(BACKENDS)]
        self.world = World(simulation, settings)
        self._sent: defaultdict[str, list[Observation]] = defaultdict(list)
        self._numbers = [count() for _ in range(WRITERS)]
        self._prefers: dict[int, int] = {}
        self._served: dict[int, list[float]] = defaultdict(list)
        self._stories = count()

    def _backend(self, number: int) -> Server:
        # Each backend prefers another node. So all nodes get writes, which is the harder case.
        order = self.nodes[number:] + self.nodes[:number]
        hosts = "".join(f"&host=127.0.0.1:{node.port}" for node in order)
        folder = self._folder / f"backend-{number}"
        folder.mkdir(exist_ok=True)
        return Server(
            folder,
            f"mysql+mysqlconnector://root@/{DATABASE}?charset=utf8mb4&collation=utf8mb4_bin{hosts}",
            SEF_VAR=str(self._var),
            SEF_RUN_JOBS="true",
            SEF_CLEANUP_INTERVAL_SECONDS="5",
            SEF_LAUNCH_TEMPLATE="sef-default",
        )

    def restart_backend(self, number: int) -> None:
        self.backends[number] = self._backend(number)

    @contextmanager
    def under_load(self) -> Iterator[None]:
        """Let clients report prices; each repeats a report until a backend acknowledges it."""
        is_over = threading.Event()
        with ThreadPoolExecutor(WRITERS) as threads:
            writers = [threads.submit(self._report, number, is_over) for number in range(WRITERS)]
            try:
                time.sleep(1)
                yield
            finally:
                is_over.set()
            for writer in writers:
                writer.result()

    def _report(self, writer: int, is_over: threading.Event) -> None:
        """Report prices of a series that has two writers, so that backends and nodes conflict."""
        agent_id = f"prices-{writer % SERIES}"
        for number in self._numbers[writer]:
            if is_over.is_set():
                return
            is_replica = writer >= SERIES
            # Pairs that are 20 s apart, and every ten pairs a gap to fill.
            second = number * 97 + number // 10 * 700 + is_replica * 20
            observation = Observation(
                Source.REPLICA if is_replica else Source.PRIMARY,
                START + timedelta(seconds=second),
                Decimal(400 + number % 37 + is_replica) / 10000,
            )
            body = {
                "spot_price": float(observation.price),
                "pool_id": POOL,
                "timestamp": observation.at.isoformat(),
                "is_replica": observation.source is Source.REPLICA,
            }
            self._until_served(f"/api/agents/{agent_id}/pricing", body, first=writer)
            self._served[writer].append(time.monotonic())
            self._sent[agent_id].append(observation)

    def _until_served(self, path: str, body: Any, *, first: int = 0) -> dict[str, Any]:
        """Call one backend after the other, as a load balancer does, until one succeeds."""
        deadline = time.monotonic() + 2 * SETTLES_WITHIN
        for turn in count(self._prefers.get(first, first)):
            backend = self.backends[turn % BACKENDS]
            try:
                answer = requests.post(backend.url + path, json=body, timeout=CALL_SECONDS)
            except requests.RequestException as error:
                failure: Any = error
            else:
                if answer.status_code == 200:
                    self._prefers[first] = turn % BACKENDS
                    served: dict[str, Any] = answer.json()
                    return served
                failure = answer.text
                assert answer.status_code == 503, (
                    f"{path}: {answer.status_code} {failure}\n{backend.last_log_lines()}"
                )
            assert time.monotonic() < deadline, f"{path} was never served: {failure}"
            time.sleep(0.05)
        raise AssertionError

    def agents_with_instances(self, number: int) -> dict[str, str]:
        """Register some agents, each with a running instance; return the instance ids."""
        instances = {}
        for _ in range(number):
            agent_id = f"web-{next(self._stories)}"
            body = {"instance_id": self.world.launch(POOL), "pool_id": POOL}
            answer = requests.put(
                f"{self.backends[0].url}/api/agents/{agent_id}", json=body, timeout=CALL_SECONDS
            )
            assert answer.ok, answer.text
            instances[agent_id] = body["instance_id"]
        return instances

    def terminate(self, instances: Mapping[str, str]) -> None:
        """Send a termination notice for each instance to all backends at the same time."""
        body = {"signal_type": "termination-notice", "timestamp": datetime.now(UTC).isoformat()}
        with ThreadPoolExecutor(len(instances) * BACKENDS) as threads:
            calls = [
                threads.submit(
                    self._until_served,
                    f"/api/agents/{agent_id}/interruption",
                    body | {"instance_id": instance_id},
                    first=first,
                )
                for agent_id, instance_id in instances.items()
                for first in range(BACKENDS)
            ]
            for call in calls:
                call.result()

    def check_service(self, fault_at: float) -> None:
        """Check that every client was served again within the time limit after the fault."""
        for writer, moments in self._served.items():
            after = [moment - fault_at for moment in moments if moment > fault_at]
            gaps = [later - earlier for earlier, later in zip([0.0, *after], after, strict=False)]
            assert gaps, f"writer {writer} was not served after the fault"
            assert max(gaps) <= SERVED_WITHIN, f"writer {writer} waited {max(gaps):.1f} s"

    def check_everything(self, ids: Iterable[str]) -> None:
        """Check that every acknowledged report is stored once, and that no launch is doubled."""
        eventually(self._check_that_all_nodes_are_back)
        self.world.close()  # a stopped node may have had its connections
        for agent_id, sent in self._sent.items():
            expected = clean_series(sent, CleaningRules())
            for node in self.nodes:
                stored = stored_points(node.url(DATABASE), agent_id, POOL)
                assert stored == expected, f"{agent_id} on node {node.number}"
        # The periodic jobs still run: wait for what they are about to finish.
        for agent_id in ids:
            eventually(partial(self._check_agent, agent_id))
        eventually(self._check_that_the_nodes_agree)

    def _check_that_all_nodes_are_back(self) -> None:
        # A node that was frozen needs a moment to notice that the cluster removed it.
        for node in self.nodes:
            assert node.status("wsrep_cluster_size") == str(len(self.nodes))
            assert node.status("wsrep_local_state_comment") == "Synced"

    def _check_agent(self, agent_id: str) -> None:
        unfinished = [row for row in self.world.rows("incidents", agent_id) if row.open_agent_id]
        assert not unfinished
        assert not self.world.replicas(agent_id, "launching", "releasing")
        assert self.world.agent(agent_id).epoch == 2
        self.world.check(agent_id)

    def _check_that_the_nodes_agree(self) -> None:
        tables = [table for table in metadata.sorted_tables if table.name != "leases"]
        for table in tables:
            contents = []
            for node in self.nodes:
                with transaction(node.url(DATABASE)) as connection:
                    connection.execute(text("SET SESSION wsrep_sync_wait = 1"))
                    contents.append(
                        {tuple(map(str, row)) for row in connection.execute(select(table))}
                    )
            assert contents[0] == contents[1] == contents[2], table.name

    def close(self) -> None:
        for backend in self.backends:
            backend.stop()
        self.world.close()


def eventually(check: Callable[[], None]) -> None:
    """Repeat a check until it passes, for as long as work may take to finish."""
    deadline = time.monotonic() + SETTLES_WITHIN
    while True:
        try:
            check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return
