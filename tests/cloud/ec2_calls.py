"""Launches and look-ups in the simulated EC2, for tests."""

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sef.cloud.ec2 import Ec2
from sef.cloud.launch_parameters import launch_parameters
from sef.cloud.likeness import LaunchConfiguration
from sef.terms import Pool

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client

HERE = Pool("m5.large", "us-east-1a")
TEMPLATE = {"LaunchTemplate": {"LaunchTemplateName": "sef-default", "Version": "$Default"}}
SOURCE = LaunchConfiguration("the default template", TEMPLATE, "m5.large")


def launch(ec2: Ec2, *, pool: Pool = HERE, spot: bool = True, **tags: str) -> str:
    """Launch an instance; the tag `sef:agent` is given as `sef_agent`."""
    named = {key.replace("_", ":"): value for key, value in tags.items()} or {"Name": "a test"}
    return ec2.run(launch_parameters(SOURCE, pool, spot=spot, tags=named), str(uuid4()))


def described(client: "EC2Client", instance_id: str) -> Any:
    return client.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]


def tags_of(parameters: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (tag["Key"], tag["Value"])
        for spec in parameters["TagSpecifications"]
        for tag in spec["Tags"]
    ]
