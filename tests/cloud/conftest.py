"""SEF's calls to the simulated EC2, and a boto3 client beside them."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sef.cloud.clients import Clients
from sef.cloud.ec2 import Ec2
from sef.simulator.client import Simulation

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


@pytest.fixture(scope="session")
def shared_ec2(shared_simulation: tuple[Path, Simulation]) -> Ec2:
    endpoint = shared_simulation[1].endpoint
    return Ec2.connect(region="us-east-1", endpoint=endpoint, simulated=True)


@pytest.fixture
def ec2(simulation: Simulation, shared_ec2: Ec2) -> Ec2:
    """The shared `Ec2`, in a test after which the simulated EC2 is reset."""
    return shared_ec2


@pytest.fixture(scope="session")
def client(shared_simulation: tuple[Path, Simulation]) -> "EC2Client":
    return Clients("us-east-1", shared_simulation[1].endpoint, simulated=True).ec2
