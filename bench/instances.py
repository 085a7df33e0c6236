"""Instances in the simulated EC2, launched by calls for many."""

from typing import Any

from botocore.config import Config

from sef.simulator.client import Simulation
from tests.harness import client_of

LAUNCHED_AT_ONCE = 500


def connect(simulation: Simulation) -> Any:
    return client_of(simulation.endpoint, Config(read_timeout=60))  # to launch many takes long


def launch(ec2: Any, pool: str, size: int) -> list[str]:
    """So many spot instances in a pool; their ids."""
    found: list[str] = []
    while len(found) < size:
        many = min(LAUNCHED_AT_ONCE, size - len(found))
        answer = ec2.run_instances(
            LaunchTemplate={"LaunchTemplateName": "sef-default"},
            Placement={"AvailabilityZone": pool.rpartition(".")[2]},
            InstanceMarketOptions={"MarketType": "spot"},
            MinCount=many,
            MaxCount=many,
        )
        found += [instance["InstanceId"] for instance in answer["Instances"]]
    return found
