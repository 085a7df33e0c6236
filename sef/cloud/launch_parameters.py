"""The parameters of RunInstances: for one attempt, and for several that differ in tags alone."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, REPLICA_TAG, LaunchConfiguration
from sef.terms import Pool


def launch_parameters(
    source: LaunchConfiguration, pool: Pool, *, spot: bool, tags: Mapping[str, str]
) -> dict[str, Any]:
    """The parameters of RunInstances for one attempt, without its token.

    Tags of the source are kept; ours are set at launch, so that an instance is never without.
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
    if pool.zone in source.subnets:
        parameters["SubnetId"] = source.subnets[pool.zone]
    else:
        parameters["Placement"] = {"AvailabilityZone": pool.zone}
    if spot:
        parameters["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {
                "SpotInstanceType": "one-time",
                "InstanceInterruptionBehavior": "terminate",
            },
        }
    return parameters


def batch_parameters(parameters: Mapping[str, Any], token: str) -> dict[str, Any]:
    """The parameters of one attempt for a call that launches several, found by its own token.

    The tags of the agent and its replica are left out: they are set once EC2 has answered.
    """
    tags = {
        tag["Key"]: tag["Value"]
        for specification in parameters["TagSpecifications"]
        for tag in specification["Tags"]
        if tag["Key"] not in (AGENT_TAG, REPLICA_TAG)
    } | {ATTEMPT_TAG: token}
    # EC2 tells the tags that were copied in any order.
    in_order = [{"Key": key, "Value": tags[key]} for key in sorted(tags)]
    return dict(parameters) | {
        "TagSpecifications": [{"ResourceType": "instance", "Tags": in_order}]
    }


def launch_fingerprint(parameters: Mapping[str, Any]) -> str:
    """Equal for attempts that one call can launch together: pool, market and all else is equal."""
    told = json.dumps(batch_parameters(parameters, ""), sort_keys=True)
    return sha256(told.encode()).hexdigest()[:32]
