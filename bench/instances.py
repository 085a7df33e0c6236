"""Launch many instances in the simulated EC2."""

from typing import Any

from botocore.config import Config

from sef.simulator.client import Simulation
from tests.harness import client_of

LAUNCHES_PER_CALL = 500


def connect(simulation: Simulation) -> Any:
    return client_of(simulation.endpoint, Config(read_timeout=60))  # a launch of many takes long


def launch(ec2: Any, pool: str, size: int) -> list[str]:
    """Launch `size` spot instances in a pool; return their ids."""
    ids: list[str] = []
    while len(ids) < size:
        count = min(LAUNCHES_PER_CALL, size - len(ids))
        answer = ec2.run_instances(
            LaunchTemplate={"LaunchTemplateName": "sef-default"},
            Placement={"AvailabilityZone": pool.rpartition(".")[2]},
            InstanceMarketOptions={"MarketType": "spot"},
            MinCount=count,
            MaxCount=count,
        )
        ids += [instance["InstanceId"] for instance in answer["Instances"]]
    return ids
