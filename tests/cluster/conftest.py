"""Provide the cluster, the simulated EC2, and several backends on both."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sef.simulator.client import Simulation
from sef.simulator.process import ensure_running
from tests.cluster import galera
from tests.cluster.galera import Node
from tests.cluster.harness import DATABASE, Stage
from tests.conftest import ON_CI

NO_GALERA = "Galera is not installed (sudo apt install galera-4 mariadb-server-core)"


@pytest.fixture(scope="session")
def nodes() -> Iterator[list[Node]]:
    if galera.find() is None:
        if ON_CI:
            pytest.fail(NO_GALERA, pytrace=False)
        pytest.skip(NO_GALERA)
    with galera.cluster() as nodes:
        nodes[0].execute(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        yield nodes


@pytest.fixture(scope="session")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Simulation]]:
    var = tmp_path_factory.mktemp("simulated-ec2")
    simulation = ensure_running(var, pending_seconds=1)
    yield var, simulation
    simulation.stop()


@pytest.fixture(scope="session")
def stage(
    nodes: list[Node],
    simulation: tuple[Path, Simulation],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    stage = Stage(nodes, *simulation, tmp_path_factory.mktemp("backends"))
    try:
        yield stage
    finally:
        stage.close()


def pytest_report_header() -> str:
    return f"galera: {galera.find() or 'none found'}, {os.cpu_count()} processors"
