"""Call EC2: the few boto3 calls that SEF makes, with results in SEF's own types."""

import time
from base64 import b64decode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from sef.cloud.clients import Clients
from sef.cloud.errors import NOT_FOUND, CloudError, translated
from sef.cloud.launch_sources import like_instance, like_template
from sef.cloud.likeness import LaunchConfiguration
from sef.terms import Market, Pool

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef, InstanceTypeDef

MANAGED_TAG = "sef:managed"
AGENT_TAG = "sef:agent"
REPLICA_TAG = "sef:replica"
ATTEMPT_TAG = "sef:attempt"
"""Keys of the tags of an instance that SEF launched; see docs/architecture.md."""

GONE = frozenset({"shutting-down", "terminated", "stopping", "stopped"})
"""States that an instance never leaves by itself."""

ENDED = frozenset({"shutting-down", "terminated"})
"""States that an instance never leaves at all."""

ALIVE = frozenset({"pending", "running"})
"""States of an instance that runs or is about to run."""

FILTER_VALUES = 200
"""Maximum number of values of one filter, set by EC2."""

T = TypeVar("T")

Calls = list[dict[str, Any]]
"""Calls to EC2 that change something, as `timed` records them for events."""


@dataclass(frozen=True, slots=True)
class Device:
    """A volume or a network interface that is attached to an instance.

    Attributes:
        is_deleted: EC2 deletes it when the instance is terminated (DeleteOnTermination).
    """

    id: str
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as EC2 describes it.

    A field that the answer leaves out is None, which proves nothing about the instance.
    """

    id: str
    ec2_state: str | None
    pool: Pool | None
    launched_at: datetime | None
    tags: Mapping[str, str]
    market: Market | None = None
    spot_request_id: str | None = None
    devices: Sequence[Device] = ()

    @property
    def is_gone(self) -> bool:
        return self.ec2_state in GONE

    @property
    def has_ended(self) -> bool:
        return self.ec2_state in ENDED

    @property
    def is_alive(self) -> bool:
        return self.ec2_state in ALIVE


class Ec2:
    """EC2 in one region.

    Every method raises `CloudError` if EC2 refuses the call, cannot be reached, does not answer,
    or leaves out an expected element of the answer.
    """

    def __init__(self, client: "EC2Client") -> None:
        self._client = client
        self.region = client.meta.region_name

    @classmethod
    def connect(cls, *, region: str = "", endpoint: str = "", simulated: bool = False) -> "Ec2":
        """Connect with the credentials that boto3 finds; the simulated EC2 needs none."""
        return cls(Clients(region, endpoint, simulated).ec2)

    def run(self, parameters: Mapping[str, Any], token: str) -> str:
        """Launch one instance and return its id. A repeated token launches no second instance."""
        return self.run_several(parameters, token, 1)[0]

    def run_several(self, parameters: Mapping[str, Any], token: str, most: int) -> list[str]:
        """Launch as many instances as the pool has capacity for, up to `most`; return their ids.

        A repeated token launches no further instances. `UserData` is in base64, as EC2 returns it
        and as it is stored.
        """
        if "UserData" in parameters:
            # boto3 encodes it again.
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
        """Return the instances that EC2 shows, by id.

        A missing instance is not proof that it is gone: an answer may lag or be incomplete. The
        call uses a filter, because an unknown id as a parameter fails the whole call.
        """
        if not ids:
            return {}
        instances = self._describe([{"Name": "instance-id", "Values": sorted(ids)}])
        return {instance.id: instance for instance in instances}

    def launched_by(self, token: str) -> list[Instance]:
        """Return the instances that a call launched, found by their attempt tag."""
        return list(self._describe([{"Name": f"tag:{ATTEMPT_TAG}", "Values": [token]}]))

    def has_tag(self, instance_id: str, key: str) -> bool:
        """Return True if EC2 finds the instance by this tag, even if its answers lack the tags."""
        wanted: list[FilterTypeDef] = [
            {"Name": "instance-id", "Values": [instance_id]},
            {"Name": "tag-key", "Values": [key]},
        ]
        return any(self._describe(wanted))

    def managed_by(self, name: str) -> list[Instance]:
        """Return the instances that the deployment `name` launched and that EC2 still shows."""
        return list(self._describe([{"Name": f"tag:{MANAGED_TAG}", "Values": [name]}]))

    def terminate(self, instance_id: str) -> bool:
        """Terminate an instance; return False if EC2 does not know it, not yet or not any more."""
        try:
            with translated():
                self._client.terminate_instances(InstanceIds=[instance_id])
        except CloudError as error:
            if error.code not in NOT_FOUND:
                raise
            return False
        return True

    def tag(self, instance_id: str, tags: Mapping[str, str]) -> None:
        """Add tags to an instance; a tag with the same key is replaced."""
        with translated():
            self._client.create_tags(
                Resources=[instance_id],
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )

    def set_attributes(self, instance_id: str, attributes: Mapping[str, Any]) -> None:
        """Set attributes of an instance with one interface, such as SourceDestCheck.

        https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyInstanceAttribute.html
        """
        for name, value in attributes.items():
            changes: dict[str, Any] = {name: {"Value": value}}  # one attribute in each call
            with translated():
                self._client.modify_instance_attribute(InstanceId=instance_id, **changes)

    def like_instance(self, instance_id: str) -> LaunchConfiguration | None:
        """Return the configuration of an instance; None if EC2 does not show it.

        If EC2 refuses to show the user data or the subnets for lack of a right, the configuration
        is made of what is known, and its `gaps` say so.
        """
        instance = next(self._described([{"Name": "instance-id", "Values": [instance_id]}]), None)
        if instance is None:
            return None
        with translated():
            return like_instance(self._client, instance, is_alive=_is_alive(instance))

    def like_template(
        self, template: str, neighbour: LaunchConfiguration | None = None
    ) -> LaunchConfiguration:
        """Return the configuration of a launch template.

        Args:
            template: id or name, optionally with a version: `lt-0abc`, `web` or `web:3`. Without a
                version, the template's default version is meant.
            neighbour: the instance whose VPC is used; None: the VPC of the template's subnet, or
                else the default VPC.
        """
        return like_template(self._client, template, neighbour)

    def zones(self) -> list[str]:
        """Return the names of the available zones, without local and wavelength zones."""
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
        """Return the current spot price of every pool of these types, by pool id."""
        latest: dict[str, tuple[datetime, Decimal]] = {}
        if not instance_types:
            return {}  # without types, EC2 would return the prices of every type
        with translated():
            for page in self._client.get_paginator("describe_spot_price_history").paginate(
                InstanceTypes=sorted(instance_types),  # type: ignore[arg-type]
                ProductDescriptions=["Linux/UNIX"],
                StartTime=now,
                EndTime=now,
            ):
                for entry in page["SpotPriceHistory"]:
                    pool = str(Pool(entry["InstanceType"], entry["AvailabilityZone"]))
                    change = (entry["Timestamp"], Decimal(entry["SpotPrice"]))
                    latest[pool] = max(latest.get(pool, change), change)
        return {pool: price for pool, (_, price) in latest.items()}

    def _describe(self, filters: "list[FilterTypeDef]") -> Iterator[Instance]:
        for described in self._described(filters):
            launched_at = described.get("LaunchTime")
            kind = described.get("InstanceType")
            zone = described.get("Placement", {}).get("AvailabilityZone")
            yield Instance(
                described["InstanceId"],
                described.get("State", {}).get("Name"),
                Pool(kind, zone) if kind and zone else None,
                launched_at.astimezone(UTC) if launched_at else None,
                {tag["Key"]: tag["Value"] for tag in described.get("Tags", [])},
                # EC2 leaves the field out for an on-demand instance.
                Market.SPOT if described.get("InstanceLifecycle") == "spot" else Market.ON_DEMAND,
                described.get("SpotInstanceRequestId"),
                tuple(_devices(described)),
            )

    def _described(self, filters: "list[FilterTypeDef]") -> "Iterator[InstanceTypeDef]":
        """Yield the matching instances. An instance without an id is unusable and left out."""
        with translated():
            pages = list(self._client.get_paginator("describe_instances").paginate(Filters=filters))
            reservations = [reservation for page in pages for reservation in page["Reservations"]]
        for reservation in reservations:
            for described in reservation.get("Instances", []):
                if "InstanceId" in described:
                    yield described


def _devices(described: "InstanceTypeDef") -> Iterator[Device]:
    for mapping in described.get("BlockDeviceMappings", []):
        volume = mapping.get("Ebs", {})
        if "VolumeId" in volume:
            yield Device(volume["VolumeId"], bool(volume.get("DeleteOnTermination")))
    for interface in described.get("NetworkInterfaces", []):
        if "NetworkInterfaceId" in interface:
            attachment = interface.get("Attachment", {})
            yield Device(
                interface["NetworkInterfaceId"], bool(attachment.get("DeleteOnTermination"))
            )


def _is_alive(instance: "InstanceTypeDef") -> bool:
    return instance["State"]["Name"] in ALIVE


def timed(calls: Calls, operation: str, instance_id: str, call: Callable[[], T]) -> T:
    """Make a call, and append its operation, instance, milliseconds and error code to `calls`.

    Raises:
        CloudError: EC2 refused the call or did not answer; its `call` is the same entry.
    """
    began = time.monotonic()
    entry: dict[str, Any] = {"operation": operation, "instance_id": instance_id, "error": None}
    calls.append(entry)
    try:
        return call()
    except CloudError as error:
        error.call = entry
        entry["error"] = error.code
        raise
    finally:
        entry["ms"] = round((time.monotonic() - began) * 1000)
