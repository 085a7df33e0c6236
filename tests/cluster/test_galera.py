"""Stop nodes and backends under load: no report is lost or doubled, and the service continues.

`make test-cluster` runs all of it; `make test-cluster ARGS="-m short"` the short form.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.harness import Stage

AWAY_SECONDS = 12
"""Longer than the time after which the cluster removes a silent node (5 s)."""


@contextmanager
def a_killed_node(stage: Stage) -> Iterator[None]:
    stage.nodes[0].kill()
    try:
        yield
    finally:
        stage.nodes[0].recover()


@contextmanager
def a_frozen_node(stage: Stage) -> Iterator[None]:
    stage.nodes[1].signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stage.nodes[1].signal(signal.SIGCONT)


@contextmanager
def a_node_cut_off_from_the_others(stage: Stage) -> Iterator[None]:
    """Clients still reach the node, but it must not serve them: its data may be out of date."""
    stage.nodes[2].isolate(True)
    try:
        yield
        assert stage.nodes[2].status("wsrep_cluster_status") == "non-Primary"
    finally:
        stage.nodes[2].isolate(False)


@contextmanager
def a_killed_backend(stage: Stage) -> Iterator[None]:
    stage.backends[0].kill()
    try:
        yield
    finally:
        stage.restart_backend(0)


@contextmanager
def a_frozen_backend(stage: Stage) -> Iterator[None]:
    stage.backends[1].freeze()
    try:
        yield
    finally:
        stage.backends[1].thaw()


Fault = Callable[[Stage], Iterator[None]]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(a_killed_node, marks=pytest.mark.short),
        pytest.param(a_node_cut_off_from_the_others, marks=pytest.mark.short),
        a_frozen_node,
        a_killed_backend,
        a_frozen_backend,
    ],
)
def test_a_fault_loses_no_data_and_the_service_continues(stage: Stage, fault: Fault) -> None:
    agents = stage.agents_with_instances(3)
    with stage.under_load():
        fault_at = time.monotonic()
        with fault(stage):
            stage.terminate(agents)
            time.sleep(max(0, fault_at + AWAY_SECONDS - time.monotonic()))
        time.sleep(1)
    stage.check_service(fault_at)
    stage.check_everything(agents)


def test_a_rolling_restart_loses_no_data_and_the_service_continues(stage: Stage) -> None:
    agents = stage.agents_with_instances(3)
    with stage.under_load():
        restarted_at = time.monotonic()
        for node, (agent_id, instance_id) in zip(stage.nodes, agents.items(), strict=True):
            node.stop()
            stage.terminate({agent_id: instance_id})
            node.start()
        for number in range(len(stage.backends)):
            stage.backends[number].stop()
            stage.restart_backend(number)
    stage.check_service(restarted_at)
    stage.check_everything(agents)
