"""What belongs to an agent in the simulated cloud, and who has it."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any
from uuid import uuid4

from sef.cloud.clients import Clients
from smart_emergency_fallback import SmartEmergencyFallback
from tests.harness import World, clients_of

ZONE = "us-east-1a"
SAME_ZONE = ["m5.large.us-east-1a", "m5a.large.us-east-1a"]
"""Pools between which volumes and interfaces can be moved."""


class Belongings:
    """One of each, on the agent's first primary; `targets` is what the agent is told of them."""

    def __init__(self, world: World, primary: str) -> None:
        self._world = world
        clients = clients_of(world.simulation.endpoint)
        self.ec2, self.elbv2, self.route53 = clients.ec2, clients.elbv2, clients.route53
        first = self.interface(primary)
        subnet = first["SubnetId"]

        address = self.ec2.allocate_address(Domain="vpc")
        self.allocation_id, self.public_ip = address["AllocationId"], address["PublicIp"]
        self.ec2.associate_address(
            AllocationId=self.allocation_id, NetworkInterfaceId=first["NetworkInterfaceId"]
        )

        block = self.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["CidrBlock"]
        taken = self.ec2.describe_network_interfaces()["NetworkInterfaces"]
        used = {a["PrivateIpAddress"] for eni in taken for a in eni["PrivateIpAddresses"]}
        # From the end: moto gives its instances those at the beginning, also if they are taken.
        addresses = (str(address) for address in reversed(list(ip_network(block).hosts())))
        self.private_ip = next(address for address in addresses if address not in used)
        self.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=first["NetworkInterfaceId"], PrivateIpAddresses=[self.private_ip]
        )

        made = self.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
        self.interface_id = made["NetworkInterfaceId"]
        self.ec2.attach_network_interface(
            NetworkInterfaceId=self.interface_id, InstanceId=primary, DeviceIndex=1
        )

        zone = self.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailabilityZone"]
        self.volume_id = self.ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
        self.ec2.attach_volume(VolumeId=self.volume_id, InstanceId=primary, Device="/dev/sdf")

        name = f"web-{uuid4().hex[:8]}"
        group = self.elbv2.create_target_group(
            Name=name, Protocol="HTTP", Port=80, VpcId=first["VpcId"], TargetType="instance"
        )
        self.arn = group["TargetGroups"][0]["TargetGroupArn"]
        self.elbv2.register_targets(TargetGroupArn=self.arn, Targets=[{"Id": primary}])

        domain = f"{name}.example"
        zone_made = self.route53.create_hosted_zone(Name=domain, CallerReference=name)
        self.zone_id = zone_made["HostedZone"]["Id"].rpartition("/")[2]
        self.name = f"www.{domain}"
        self.say(first["PrivateIpAddress"], "CREATE", ttl=30)

        self.targets: dict[str, Any] = {
            "elastic_ip": self.allocation_id,
            "private_ip": self.private_ip,
            "network_interface": {"id": self.interface_id},
            "volumes": [{"id": self.volume_id, "device": "/dev/sdf"}],
            "target_groups": [{"arn": self.arn}],
            "dns": {"zone_id": self.zone_id, "name": self.name},
        }

    def say(self, address: str, action: Any = "UPSERT", ttl: int = 30) -> None:
        record: Any = {
            "Name": self.name,
            "Type": "A",
            "TTL": ttl,
            "ResourceRecords": [{"Value": address}],
        }
        self.route53.change_resource_record_sets(
            HostedZoneId=self.zone_id,
            ChangeBatch={"Changes": [{"Action": action, "ResourceRecordSet": record}]},
        )

    def interface(self, instance_id: str) -> Any:
        found = self._world.described(instance_id)["NetworkInterfaces"]
        return next(i for i in found if i["Attachment"]["DeviceIndex"] == 0)

    def held(self, instance_id: str) -> set[str]:
        """Which of them an instance has."""
        address = self.ec2.describe_addresses(AllocationIds=[self.allocation_id])["Addresses"][0]
        interface = self.ec2.describe_network_interfaces(NetworkInterfaceIds=[self.interface_id])
        attachment = interface["NetworkInterfaces"][0].get("Attachment", {})
        volume = self.ec2.describe_volumes(VolumeIds=[self.volume_id])["Volumes"][0]
        first = self.interface(instance_id)
        addresses = {a["PrivateIpAddress"] for a in first["PrivateIpAddresses"]}
        holds = {
            "elastic_ip": address.get("NetworkInterfaceId") == first["NetworkInterfaceId"],
            "private_ip": self.private_ip in addresses,
            "network_interface": attachment.get("InstanceId") == instance_id,
            "volumes": [a["InstanceId"] for a in volume["Attachments"]] == [instance_id],
            "target_groups": instance_id in self.registered(),
            "dns": self.said() == [first["PrivateIpAddress"]],
        }
        return {name for name, has in holds.items() if has}

    def registered(self) -> list[str]:
        told = self.elbv2.describe_target_health(TargetGroupArn=self.arn)
        return [target["Target"]["Id"] for target in told["TargetHealthDescriptions"]]

    def record(self) -> Any:
        told = self.route53.list_resource_record_sets(HostedZoneId=self.zone_id)
        [found] = [r for r in told["ResourceRecordSets"] if r["Name"].strip(".") == self.name]
        return found

    def said(self) -> list[str]:
        return [value["Value"] for value in self.record()["ResourceRecords"]]


ALL = {"elastic_ip", "private_ip", "network_interface", "volumes", "target_groups", "dns"}


def owner(
    world: World, *names: str, pools: list[str] = SAME_ZONE, **settings: Any
) -> tuple[SmartEmergencyFallback, str, Belongings]:
    """An agent with one of each target, or those that are named, on a primary of its own."""
    sef = world.sef(spot_pools=",".join(pools), **settings)
    primary = world.primary(sef)
    belongings = Belongings(world, primary)
    targets = {name: belongings.targets[name] for name in names or belongings.targets}
    sef.register_agent("a", {"cutover": targets})
    return sef, primary, belongings


def cutover_of(sef: SmartEmergencyFallback) -> Any:
    return sef.get_agent_status("a")["cutover"]


def steps_of(sef: SmartEmergencyFallback) -> dict[str, str]:
    """What has become of each kind of step."""
    return {str(step["kind"]): str(step["status"]) for step in cutover_of(sef)["steps"]}


def hooked(world: World, on: str, do: Callable[..., None]) -> Clients:
    """Return clients of their own, on which `do` runs once, at an event of boto3.

    The event is one such as `before-call.*.AssociateAddress`.
    """
    clients = Clients("us-east-1", world.simulation.endpoint, simulated=True)
    happened: list[bool] = []

    def once(**details: Any) -> None:
        if not happened:
            happened.append(True)
            do(**details)

    for client in (clients.ec2, clients.elbv2, clients.route53):
        client.meta.events.register(on, once)
    return clients
