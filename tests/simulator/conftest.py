"""The simulated EC2 of the test process, and a boto3 client for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sef.simulator.client import Simulation
from tests.simulator.ec2_calls import client

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


@pytest.fixture
def simulation(simulation: Simulation) -> Iterator[Simulation]:
    """The simulated EC2 of the test process, reset with all options after a test."""
    yield simulation
    simulation.set_options(refuse_token_of_terminated=True)


@pytest.fixture(scope="session")
def shared_ec2(shared_simulation: tuple[Path, Simulation]) -> "EC2Client":
    """A client without retries, so that a test sees each answer of EC2."""
    return client(shared_simulation[1], tries=1)


@pytest.fixture
def ec2(simulation: Simulation, shared_ec2: "EC2Client") -> "EC2Client":
    """The shared client, in a test after which the simulated EC2 is reset."""
    return shared_ec2
