"""Read from EC2 what a new instance is to be like: an instance, or a launch template.

A look-up that EC2 refuses for lack of a right is left out and noted: a standby without a copied
option is better than none, and the subnet of the primary is known without DescribeSubnets.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sef.cloud.errors import DENIED, CloudError, translated
from sef.cloud.likeness import (
    LaunchConfiguration,
    Network,
    Subnet,
    is_burstable,
    like,
    subnet_of,
    zones_of,
)

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_ec2.type_defs import InstanceTypeDef


USER_DATA_GAP = "its user data is not copied"
"""Beginning of the gap for user data that EC2 refuses to show."""


def like_instance(
    client: "EC2Client", instance: "InstanceTypeDef", *, is_alive: bool
) -> LaunchConfiguration:
    """Return the configuration of a described instance.

    An ending instance has no VPC and no security groups. If they are missing for a running
    instance, the answer is incomplete: its successor would be launched in another network.

    Raises:
        KeyError: a field is missing that each instance, or each running one, has.
        CloudError: EC2 did not return a usable answer.
    """
    for name in ("VpcId", "SecurityGroups") if is_alive else ():
        if name not in instance:
            raise KeyError(name)
    gaps: list[str] = []
    user_data = _user_data(client, instance["InstanceId"], gaps)
    vpc, own = instance.get("VpcId"), instance.get("SubnetId")
    zone = instance["Placement"]["AvailabilityZone"]
    network = _network(client, vpc, own, zone, gaps) if vpc else None
    cpu_credits = None
    if is_alive and is_burstable(instance["InstanceType"]):
        cpu_credits = _cpu_credits(client, instance["InstanceId"], gaps)
    return like(instance, network, user_data, cpu_credits, gaps)


def like_template(
    client: "EC2Client", template: str, neighbour: LaunchConfiguration | None
) -> LaunchConfiguration:
    """Return the configuration of a launch template; see `Ec2.like_template`."""
    name, _, version = template.partition(":")
    key = "LaunchTemplateId" if name.startswith("lt-") else "LaunchTemplateName"
    reference: dict[str, Any] = {key: name}
    with translated():
        versions = client.describe_launch_template_versions(
            **reference, Versions=[version or "$Default"]
        )
        data = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    parameters: dict[str, Any] = {"LaunchTemplate": reference | {"Version": version or "$Default"}}
    interfaces = data.get("NetworkInterfaces", [])
    if interfaces:
        # EC2 refuses a subnet beside the interfaces of a template, so they are repeated with
        # the subnet: "Network interfaces and an instance-level subnet ID may not be specified
        # on the same request" (https://github.com/aws/aws-cli/issues/613).
        parameters["NetworkInterfaces"] = [dict(one) for one in interfaces]
    named = f"launch template {template}"
    if neighbour is not None:
        kind = data.get("InstanceType") or neighbour.instance_type
        return replace(
            LaunchConfiguration(named, parameters, kind),
            subnets=neighbour.subnets,
            primary_pool=neighbour.primary_pool,
            network=neighbour.network,
            addresses=neighbour.addresses,
        )
    own = interfaces[0].get("SubnetId") if interfaces else None
    network = _network_of(client, own) if own else None
    return LaunchConfiguration(
        named,
        parameters,
        data.get("InstanceType"),
        zones_of(network) if network else {},
        network=network,
    )


def _user_data(client: "EC2Client", instance_id: str, gaps: list[str]) -> str | None:
    try:
        with translated():
            answer = client.describe_instance_attribute(
                InstanceId=instance_id, Attribute="userData"
            )
            return answer["UserData"].get("Value")
    except CloudError as error:
        _note_gap(gaps, error, USER_DATA_GAP)
        return None


def _network_of(client: "EC2Client", own: str) -> Network | None:
    """Return the network around a subnet; None if EC2 refuses to show it."""
    try:
        with translated():
            [subnet] = client.describe_subnets(SubnetIds=[own])["Subnets"]
        return _network(client, subnet["VpcId"], own, subnet["AvailabilityZone"], [])
    except CloudError as error:
        _note_gap([], error, "")
        return None


def _network(client: "EC2Client", vpc: str, own: str | None, zone: str, gaps: list[str]) -> Network:
    """Return the subnets of a VPC, or only the known one if EC2 refuses to list them."""
    try:
        with translated():
            answer = client.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
            subnets = [subnet_of(subnet) for subnet in answer["Subnets"]]
    except CloudError as error:
        _note_gap(gaps, error, f"standbys are launched in {own} in {zone} only")
        subnets = [Subnet(own, zone)] if own else []
    return Network(vpc, own, tuple(sorted(subnets, key=lambda subnet: subnet.id)))


def _cpu_credits(client: "EC2Client", instance_id: str, gaps: list[str]) -> str | None:
    """Return the credit option of a burstable instance; None if EC2 does not return it.

    No launch waits for it: EC2 uses the default of the account then.
    """
    try:
        with translated():
            answer = client.describe_instance_credit_specifications(InstanceIds=[instance_id])
            found = answer["InstanceCreditSpecifications"]
            return found[0].get("CpuCredits") if found else None
    except CloudError as error:
        if error.code in DENIED:
            _note_gap(gaps, error, "its credit option is not copied")
        return None


def _note_gap(gaps: list[str], error: CloudError, consequence: str) -> None:
    """Note what is left out because a right is missing; raise any other error."""
    if error.code not in DENIED:
        raise error
    gaps.append(f"{consequence}: {error}")
