"""EC2, by boto3: the few calls that SEF makes, in its own terms."""

import time
from base64 import b64decode
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from sef.cloud.clients import Clients
from sef.cloud.errors import NOT_FOUND, CloudError, translated
from sef.terms import Pool

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef, InstanceTypeDef

MANAGED_TAG = "sef:managed"
AGENT_TAG = "sef:agent"
REPLICA_TAG = "sef:replica"
ATTEMPT_TAG = "sef:attempt"

GONE = frozenset({"shutting-down", "terminated", "stopping", "stopped"})
"""States that an instance does not come back from by itself."""

ENDED = frozenset({"shutting-down", "terminated"})
"""States that it does not come back from at all."""

ALIVE = frozenset({"pending", "running"})

FILTER_VALUES = 200
"""So many values one filter of EC2 may have."""


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as EC2 tells of it; what an answer leaves out is None, and no evidence."""

    id: str
    ec2_state: str | None
    pool: Pool | None
    launched_at: datetime | None
    tags: Mapping[str, str]

    @property
    def is_gone(self) -> bool:
        return self.ec2_state in GONE

    @property
    def has_ended(self) -> bool:
        return self.ec2_state in ENDED

    @property
    def is_alive(self) -> bool:
        return self.ec2_state in ALIVE


@dataclass(frozen=True, slots=True)
class LaunchConfiguration:
    """What a new instance is made like: parameters of RunInstances without place and market."""

    described_as: str
    parameters: Mapping[str, Any]
    instance_type: str | None
    subnets: Mapping[str, str] = field(default_factory=dict)
    """Subnet by zone. Empty: the default VPC, where the zone is enough."""
    primary_pool: Pool | None = None
    """Where the primary runs, as EC2 knows it."""


class Ec2:
    """EC2 in one region.

    Every method raises `CloudError` when EC2 refuses, cannot be reached or does not answer, or
    answers without what was asked for.
    """

    def __init__(self, client: "EC2Client") -> None:
        self._client = client
        self.region = client.meta.region_name

    @classmethod
    def connect(cls, *, region: str = "", endpoint: str = "", simulated: bool = False) -> "Ec2":
        """With credentials as boto3 finds them; the simulated EC2 asks for none."""
        return cls(Clients(region, endpoint, simulated).ec2)

    def run(self, parameters: Mapping[str, Any], token: str) -> str:
        """Launch one instance and return its id; the same token never launches a second."""
        return self.run_several(parameters, token, 1)[0]

    def run_several(self, parameters: Mapping[str, Any], token: str, most: int) -> list[str]:
        """Launch as many instances as there is room for, up to `most`, and return their ids.

        The same token never launches more. `UserData` is in base64, as EC2 tells it and as it can
        be stored.
        """
        if "UserData" in parameters:
            # boto3 encodes it once more.
            parameters = {**parameters, "UserData": b64decode(parameters["UserData"])}
        with translated():
            answer = self._client.run_instances(
                **parameters, ClientToken=token, MinCount=1, MaxCount=most
            )
            ids = [instance["InstanceId"] for instance in answer["Instances"]]
            if not ids:
                raise KeyError("Instances")
            return ids

    def instances(self, ids: Collection[str]) -> dict[str, Instance]:
        """Those of the instances that EC2 shows. By filter: one unknown id fails no others.

        One that is not shown is not gone for that: an answer may lag, or be incomplete.
        """
        if not ids:
            return {}
        found = self._describe([{"Name": "instance-id", "Values": sorted(ids)}])
        return {instance.id: instance for instance in found}

    def launched_by(self, token: str) -> list[Instance]:
        """The instances that a call has launched, by their tag."""
        return list(self._describe([{"Name": f"tag:{ATTEMPT_TAG}", "Values": [token]}]))

    def has_tag(self, instance_id: str, key: str) -> bool:
        """Whether EC2 finds the instance by a tag, also where it does not tell the tags."""
        wanted: list[FilterTypeDef] = [
            {"Name": "instance-id", "Values": [instance_id]},
            {"Name": "tag-key", "Values": [key]},
        ]
        return any(self._describe(wanted))

    def managed_by(self, name: str) -> list[Instance]:
        """All instances that the SEF of this name has launched and that EC2 still shows."""
        return list(self._describe([{"Name": f"tag:{MANAGED_TAG}", "Values": [name]}]))

    def terminate(self, instance_id: str) -> bool:
        """Terminate; False for one that EC2 does not know: not yet, or not any more."""
        try:
            with translated():
                self._client.terminate_instances(InstanceIds=[instance_id])
        except CloudError as error:
            if error.code not in NOT_FOUND:
                raise
            return False
        return True

    def tag(self, instance_id: str, tags: Mapping[str, str]) -> None:
        with translated():
            self._client.create_tags(
                Resources=[instance_id],
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )

    def like_instance(self, instance_id: str) -> LaunchConfiguration | None:
        """A source like a running instance; None when EC2 does not show it."""
        instance = next(self._found([{"Name": "instance-id", "Values": [instance_id]}]), None)
        if instance is None:
            return None
        with translated():
            user_data = self._client.describe_instance_attribute(
                InstanceId=instance_id, Attribute="userData"
            )
            return self._source(instance, user_data["UserData"].get("Value"))

    def _source(self, instance: "InstanceTypeDef", user_data: str | None) -> LaunchConfiguration:
        # One that is ending has lost these. From one that runs they are not to be missing: its
        # successor would come up in another network.
        for name in ("VpcId", "SecurityGroups") if instance["State"]["Name"] in ALIVE else ():
            if name not in instance:
                raise KeyError(name)
        tags = [
            {"Key": tag["Key"], "Value": tag["Value"]}
            for tag in instance.get("Tags", [])
            if not tag["Key"].startswith(("aws:", "sef:"))
        ]
        profile = instance.get("IamInstanceProfile", {}).get("Arn")
        optional = {
            "KeyName": instance.get("KeyName"),
            "SecurityGroupIds": [g["GroupId"] for g in instance.get("SecurityGroups", [])],
            "IamInstanceProfile": {"Arn": profile} if profile else None,
            "UserData": user_data,
            "EbsOptimized": instance.get("EbsOptimized") or None,
            "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}] if tags else None,
        }
        vpc = instance.get("VpcId")
        return LaunchConfiguration(
            f"instance {instance['InstanceId']}",
            {"ImageId": instance["ImageId"]} | {k: v for k, v in optional.items() if v},
            instance["InstanceType"],
            self._subnets(vpc) if vpc else {},
            Pool(instance["InstanceType"], instance["Placement"]["AvailabilityZone"]),
        )

    def like_template(self, template: str, vpc_of: str | None = None) -> LaunchConfiguration:
        """A source like a launch template, given as id or name and optionally `:version`.

        Args:
            template: as in `lt-0abc`, `web`, or `web:3`; the default version if none is said.
            vpc_of: an instance in whose VPC to launch; the default VPC without one.
        """
        name, _, version = template.partition(":")
        by: dict[str, Any] = {
            "LaunchTemplateId" if name.startswith("lt-") else "LaunchTemplateName": name
        }
        with translated():
            versions = self._client.describe_launch_template_versions(
                **by, Versions=[version or "$Default"]
            )
            data = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
        like = None if vpc_of is None else self.like_instance(vpc_of)
        return LaunchConfiguration(
            f"launch template {template}",
            {"LaunchTemplate": by | {"Version": version or "$Default"}},
            data.get("InstanceType") or (like.instance_type if like else None),
            like.subnets if like else {},
            like.primary_pool if like else None,
        )

    def zones(self) -> list[str]:
        with translated():
            answer = self._client.describe_availability_zones(
                Filters=[{"Name": "state", "Values": ["available"]}]
            )
            return [
                zone["ZoneName"]
                for zone in answer["AvailabilityZones"]
                if zone.get("ZoneType", "availability-zone") == "availability-zone"
            ]

    def spot_prices(self, instance_types: Collection[str], now: datetime) -> dict[str, Decimal]:
        """The current spot price of every pool of these types, by pool id."""
        latest: dict[str, tuple[datetime, Decimal]] = {}
        if not instance_types:
            return {}  # EC2 would tell those of every type
        with translated():
            for page in self._client.get_paginator("describe_spot_price_history").paginate(
                InstanceTypes=sorted(instance_types),  # type: ignore[arg-type]
                ProductDescriptions=["Linux/UNIX"],
                StartTime=now,
                EndTime=now,
            ):
                for entry in page["SpotPriceHistory"]:
                    pool = str(Pool(entry["InstanceType"], entry["AvailabilityZone"]))
                    told = (entry["Timestamp"], Decimal(entry["SpotPrice"]))
                    latest[pool] = max(latest.get(pool, told), told)
        return {pool: price for pool, (_, price) in latest.items()}

    def _subnets(self, vpc: str) -> dict[str, str]:
        """One subnet for each zone, that with the most free addresses."""
        answer = self._client.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
        roomy = sorted(answer["Subnets"], key=lambda subnet: subnet["AvailableIpAddressCount"])
        return {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in roomy}

    def _describe(self, filters: "list[FilterTypeDef]") -> Iterator[Instance]:
        for found in self._found(filters):
            launched_at = found.get("LaunchTime")
            kind = found.get("InstanceType")
            zone = found.get("Placement", {}).get("AvailabilityZone")
            yield Instance(
                found["InstanceId"],
                found.get("State", {}).get("Name"),
                Pool(kind, zone) if kind and zone else None,
                launched_at.astimezone(UTC) if launched_at else None,
                {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])},
            )

    def _found(self, filters: "list[FilterTypeDef]") -> "Iterator[InstanceTypeDef]":
        """What EC2 tells of the instances that fit; one without its id says nothing."""
        with translated():
            pages = list(self._client.get_paginator("describe_instances").paginate(Filters=filters))
            reservations = [reservation for page in pages for reservation in page["Reservations"]]
        for reservation in reservations:
            for found in reservation.get("Instances", []):
                if "InstanceId" in found:
                    yield found


T = TypeVar("T")
Calls = list[dict[str, Any]]


def timed(calls: Calls, operation: str, instance_id: str, call: Callable[[], T]) -> T:
    """Make the call; add to `calls` what it was, how many milliseconds it took, and its error.

    Raises:
        CloudError: with the same in its `call`.
    """
    began = time.monotonic()
    told: dict[str, Any] = {"operation": operation, "instance_id": instance_id, "error": None}
    calls.append(told)
    try:
        return call()
    except CloudError as error:
        error.call = told
        told["error"] = error.code
        raise
    finally:
        told["ms"] = round((time.monotonic() - began) * 1000)
