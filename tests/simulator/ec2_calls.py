"""Calls of boto3 to the simulated EC2, for tests."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from sef.simulator.client import Simulation
from tests.waiting import LIMIT

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


def client(simulation: Simulation, *, tries: int, region: str = "us-east-1") -> "EC2Client":
    return boto3.client(
        "ec2",
        endpoint_url=simulation.endpoint,
        region_name=region,
        aws_access_key_id="simulated",
        aws_secret_access_key="simulated",
        config=Config(
            connect_timeout=LIMIT,
            read_timeout=LIMIT,
            retries={"total_max_attempts": tries},
            proxies={},
        ),
    )


def launch(
    ec2: "EC2Client",
    pool: str = "m5.large.us-east-1a",
    *,
    token: str | None = None,
    spot: bool = True,
    **more: Any,
) -> str:
    """Launch from the default template and return the instance's id."""
    kind, _, zone = pool.rpartition(".")
    parameters: dict[str, Any] = {
        "LaunchTemplate": {"LaunchTemplateName": "sef-default"},
        "InstanceType": kind,
        "Placement": {"AvailabilityZone": zone},
        "MinCount": 1,
        "MaxCount": 1,
    } | more
    if spot:
        parameters["InstanceMarketOptions"] = {"MarketType": "spot"}
    if token:
        parameters["ClientToken"] = token
    return ec2.run_instances(**parameters)["Instances"][0]["InstanceId"]


def instance(ec2: "EC2Client", instance_id: str) -> Any:
    answer = ec2.describe_instances(InstanceIds=[instance_id])
    return answer["Reservations"][0]["Instances"][0]


def state(ec2: "EC2Client", instance_id: str) -> str:
    return str(instance(ec2, instance_id)["State"]["Name"])


def refused(call: Callable[[], object]) -> tuple[str, int]:
    """Make a call that EC2 refuses; return the error code and the HTTP status."""
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]
