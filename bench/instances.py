"""Instances in the simulated EC2, launched by calls for many."""

from typing import Any

import boto3

from sef.cloud.simulation import Simulation

LAUNCHED_AT_ONCE = 500


def connect(simulation: Simulation) -> Any:
    return boto3.client(
        "ec2",
        endpoint_url=simulation.endpoint,
        region_name="us-east-1",
        aws_access_key_id="simulated",
        aws_secret_access_key="simulated",
    )


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
