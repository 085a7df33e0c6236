"""Build the parameters of RunInstances, for one attempt or for a batch that shares a call."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, REPLICA_TAG
from sef.cloud.likeness import LaunchConfiguration, is_burstable
from sef.terms import Pool


def launch_parameters(
    source: LaunchConfiguration, pool: Pool, *, spot: bool, tags: Mapping[str, str]
) -> dict[str, Any]:
    """Return the parameters of RunInstances for one attempt, without its client token.

    The tags of the source are kept, unless `tags` has the same key. RunInstances itself sets all
    tags, so an instance is never without its tags.
    """
    kept = {
        tag["Key"]: tag["Value"]
        for specification in source.parameters.get("TagSpecifications", [])
        for tag in specification["Tags"]
    }
    all_tags = [{"Key": key, "Value": value} for key, value in (kept | dict(tags)).items()]
    parameters = dict(source.parameters) | {
        "InstanceType": pool.instance_type,
        "TagSpecifications": [{"ResourceType": "instance", "Tags": all_tags}],
    }
    if not is_burstable(pool.instance_type):
        parameters.pop("CreditSpecification", None)  # EC2 refuses it for another type
    parameters |= _place(source, pool, parameters)
    placement = {**source.parameters.get("Placement", {}), **parameters.pop("Placement", {})}
    if source.primary_pool is not None and pool.zone != source.primary_pool.zone:
        # A cluster placement group is in one zone, and SEF does not ask for its kind.
        placement.pop("GroupName", None)
    if placement:
        parameters["Placement"] = placement
    if spot:
        parameters["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {
                "SpotInstanceType": "one-time",
                "InstanceInterruptionBehavior": "terminate",
            },
        }
    return parameters


def _place(source: LaunchConfiguration, pool: Pool, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the network; remove from `parameters` what they replace."""
    subnet_id = source.subnets.get(pool.zone)
    if subnet_id is None:
        return {"Placement": {"AvailabilityZone": pool.zone}}
    parameters.pop("Placement", None)
    subnet = source.network.subnet(subnet_id) if source.network else None
    ipv6 = {}
    if source.image.needs_ipv6 and subnet is not None and subnet.has_ipv6:
        ipv6 = {"Ipv6AddressCount": 1}
    if parameters.get("NetworkInterfaces"):
        first, *others = parameters["NetworkInterfaces"]
        return {"NetworkInterfaces": [{**first, "SubnetId": subnet_id}, *others]}
    if source.wants_public_address and subnet is not None and subnet.gives_public is False:
        # A public address can only be asked for at the launch, of the interface.
        groups = parameters.pop("SecurityGroupIds", None)
        interface = {
            "DeviceIndex": 0,
            "SubnetId": subnet_id,
            "AssociatePublicIpAddress": True,
            **({"Groups": groups} if groups else {}),
            **ipv6,
        }
        return {"NetworkInterfaces": [interface]}
    return {"SubnetId": subnet_id, **ipv6}


def batch_parameters(parameters: Mapping[str, Any], token: str) -> dict[str, Any]:
    """Return the parameters of a call that launches several instances.

    The call's token becomes the attempt tag of each instance. The tags of agent and replica are
    left out: SEF sets them after EC2 has answered.
    """
    tags = {
        tag["Key"]: tag["Value"]
        for specification in parameters["TagSpecifications"]
        for tag in specification["Tags"]
        if tag["Key"] not in (AGENT_TAG, REPLICA_TAG)
    } | {ATTEMPT_TAG: token}
    # EC2 returns tags in no fixed order; sorted, equal attempts have equal parameters.
    sorted_tags = [{"Key": key, "Value": tags[key]} for key in sorted(tags)]
    return dict(parameters) | {
        "TagSpecifications": [{"ResourceType": "instance", "Tags": sorted_tags}]
    }


def launch_fingerprint(parameters: Mapping[str, Any]) -> str:
    """Return a hash that is equal for attempts that one call can launch together.

    Such attempts differ only in the tags that SEF sets.
    """
    text = json.dumps(batch_parameters(parameters, ""), sort_keys=True)
    return sha256(text.encode()).hexdigest()[:32]
