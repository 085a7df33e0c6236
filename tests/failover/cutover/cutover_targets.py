"""Cutover targets in the simulated cloud, and the instance that each of them is with."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any
from uuid import uuid4

from sef.cloud.clients import Clients
from smart_emergency_fallback import SmartEmergencyFallback
from tests.harness import TERMINATION, World, clients_of

SAME_ZONE = ["m5.large.us-east-1a", "m5a.large.us-east-1a"]
"""Pools between which volumes and interfaces can be moved."""

ALL = {"elastic_ip", "private_ip", "network_interface", "volumes", "target_groups", "dns"}
"""Fields of the targets that each instance can have; routes are for routers only."""


class Belongings:
    """Targets on the agent's first primary: one of each field in `names`, or of `ALL`.

    `targets` has them in the form in which they are registered.
    """

    def __init__(self, world: World, primary: str, *names: str) -> None:
        self._world = world
        self._primary = primary
        clients = clients_of(world.simulation.endpoint)
        self.ec2, self.elbv2, self.route53 = clients.ec2, clients.elbv2, clients.route53
        self._first_interface = self.interface(primary)
        create: dict[str, Callable[[], Any]] = {
            "elastic_ip": self._create_elastic_ip,
            "private_ip": self._create_private_ip,
            "network_interface": self._create_interface,
            "volumes": self._create_volume,
            "target_groups": self._create_group,
            "dns": self._create_record,
            "routes": self._create_routes,
        }
        wanted = [name for name in create if name in (names or ALL)]
        self.targets: dict[str, Any] = {name: create[name]() for name in wanted}

    def _create_elastic_ip(self) -> Any:
        address = self.ec2.allocate_address(Domain="vpc")
        self.allocation_id, self.public_ip = address["AllocationId"], address["PublicIp"]
        self.ec2.associate_address(
            AllocationId=self.allocation_id,
            NetworkInterfaceId=self._first_interface["NetworkInterfaceId"],
        )
        return self.allocation_id

    def _create_private_ip(self) -> Any:
        block = self._subnet()["CidrBlock"]
        interfaces = self.ec2.describe_network_interfaces()["NetworkInterfaces"]
        used = {a["PrivateIpAddress"] for eni in interfaces for a in eni["PrivateIpAddresses"]}
        # From the end: moto gives its instances the first addresses, even if they are used.
        addresses = (str(address) for address in reversed(list(ip_network(block).hosts())))
        self.private_ip = next(address for address in addresses if address not in used)
        self.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=self._first_interface["NetworkInterfaceId"],
            PrivateIpAddresses=[self.private_ip],
        )
        return self.private_ip

    def _create_interface(self) -> Any:
        subnet = self._first_interface["SubnetId"]
        created = self.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
        self.interface_id = created["NetworkInterfaceId"]
        self.ec2.attach_network_interface(
            NetworkInterfaceId=self.interface_id, InstanceId=self._primary, DeviceIndex=1
        )
        return {"id": self.interface_id}

    def _create_volume(self) -> Any:
        zone = self._subnet()["AvailabilityZone"]
        self.volume_id = self.ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
        self.ec2.attach_volume(VolumeId=self.volume_id, InstanceId=self._primary, Device="/dev/sdf")
        return [{"id": self.volume_id, "device": "/dev/sdf"}]

    def _create_group(self) -> Any:
        group = self.elbv2.create_target_group(
            Name=f"web-{uuid4().hex[:8]}",
            Protocol="HTTP",
            Port=80,
            VpcId=self._first_interface["VpcId"],
            TargetType="instance",
        )
        self.arn = group["TargetGroups"][0]["TargetGroupArn"]
        self.elbv2.register_targets(TargetGroupArn=self.arn, Targets=[{"Id": self._primary}])
        return [{"arn": self.arn}]

    def add_load_balancer(self, *zones: str) -> None:
        """Put a load balancer with subnets in these zones in front of the target group."""
        subnets = self.ec2.describe_subnets(
            Filters=[{"Name": "default-for-az", "Values": ["true"]}]
        )["Subnets"]
        balancer = self.elbv2.create_load_balancer(
            Name=f"lb-{uuid4().hex[:8]}",
            Subnets=[s["SubnetId"] for s in subnets if s["AvailabilityZone"] in zones],
            Scheme="internal",
        )["LoadBalancers"][0]
        self.elbv2.create_listener(
            LoadBalancerArn=balancer["LoadBalancerArn"],
            Protocol="HTTP",
            Port=80,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": self.arn}],
        )

    def _create_routes(self) -> Any:
        vpc = self._first_interface["VpcId"]
        self.table_id = self.ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        destination = "10.99.0.0/16"
        self.ec2.create_route(
            RouteTableId=self.table_id,
            DestinationCidrBlock=destination,
            NetworkInterfaceId=self._first_interface["NetworkInterfaceId"],
        )
        self.ec2.modify_instance_attribute(
            InstanceId=self._primary, SourceDestCheck={"Value": False}
        )
        return [{"route_table_id": self.table_id, "destination_cidr": destination}]

    def _create_record(self) -> Any:
        domain = f"web-{uuid4().hex[:8]}.example"
        zone = self.route53.create_hosted_zone(
            Name=domain,
            CallerReference=domain,
            HostedZoneConfig={"PrivateZone": True},
            VPC={"VPCRegion": "us-east-1", "VPCId": self._first_interface["VpcId"]},
        )
        self.zone_id = zone["HostedZone"]["Id"].rpartition("/")[2]
        self.name = f"www.{domain}"
        self.write_record(self._first_interface["PrivateIpAddress"])
        return {"zone_id": self.zone_id, "name": self.name}

    def _subnet(self) -> Any:
        subnet = self._first_interface["SubnetId"]
        return self.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]

    def write_record(self, address: str, ttl: int = 30) -> None:
        record: Any = {
            "Name": self.name,
            "Type": "A",
            "TTL": ttl,
            "ResourceRecords": [{"Value": address}],
        }
        self.route53.change_resource_record_sets(
            HostedZoneId=self.zone_id,
            ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]},
        )

    def interface(self, instance_id: str) -> Any:
        """Return the first network interface of an instance."""
        interfaces = self._world.described(instance_id)["NetworkInterfaces"]
        return next(i for i in interfaces if i["Attachment"]["DeviceIndex"] == 0)

    def held(self, instance_id: str) -> set[str]:
        """Return the fields of the targets that are with an instance."""
        is_with: dict[str, Callable[[str], bool]] = {
            "elastic_ip": self._has_elastic_ip,
            "private_ip": self._has_private_ip,
            "network_interface": self._has_interface,
            "volumes": self._has_volume,
            "target_groups": lambda instance_id: instance_id in self.registered(),
            "dns": self._has_record,
            "routes": self._has_routes,
        }
        return {name for name in self.targets if is_with[name](instance_id)}

    def _has_elastic_ip(self, instance_id: str) -> bool:
        address = self.ec2.describe_addresses(AllocationIds=[self.allocation_id])["Addresses"][0]
        first = self.interface(instance_id)["NetworkInterfaceId"]
        return bool(address.get("NetworkInterfaceId") == first)

    def _has_private_ip(self, instance_id: str) -> bool:
        addresses = self.interface(instance_id)["PrivateIpAddresses"]
        return self.private_ip in {a["PrivateIpAddress"] for a in addresses}

    def _has_interface(self, instance_id: str) -> bool:
        interface = self.ec2.describe_network_interfaces(NetworkInterfaceIds=[self.interface_id])
        attachment = interface["NetworkInterfaces"][0].get("Attachment", {})
        return bool(attachment.get("InstanceId") == instance_id)

    def _has_volume(self, instance_id: str) -> bool:
        volume = self.ec2.describe_volumes(VolumeIds=[self.volume_id])["Volumes"][0]
        return [a["InstanceId"] for a in volume["Attachments"]] == [instance_id]

    def _has_routes(self, instance_id: str) -> bool:
        [table] = self.ec2.describe_route_tables(RouteTableIds=[self.table_id])["RouteTables"]
        destination = self.targets["routes"][0]["destination_cidr"]
        first = self.interface(instance_id)["NetworkInterfaceId"]
        return [
            route.get("NetworkInterfaceId")
            for route in table["Routes"]
            if route["DestinationCidrBlock"] == destination
        ] == [first]

    def _has_record(self, instance_id: str) -> bool:
        values = [value["Value"] for value in self.record()["ResourceRecords"]]
        return values == [self.interface(instance_id)["PrivateIpAddress"]]

    def registered(self) -> list[str]:
        """Return the instances that are registered in the target group; none that are draining."""
        health = self.elbv2.describe_target_health(TargetGroupArn=self.arn)
        return [
            target["Target"]["Id"]
            for target in health["TargetHealthDescriptions"]
            if target["TargetHealth"]["State"] != "draining"
        ]

    def record(self) -> Any:
        records = self.route53.list_resource_record_sets(HostedZoneId=self.zone_id)
        [record] = [r for r in records["ResourceRecordSets"] if r["Name"].strip(".") == self.name]
        return record


def owner(
    world: World, *names: str, pools: list[str] = SAME_ZONE, **settings: Any
) -> tuple[SmartEmergencyFallback, str, Belongings]:
    """Return SEF with an agent, its primary, and its targets: those of `names`, or one of each."""
    sef = world.sef(spot_pools=",".join(pools), **settings)
    primary = world.primary(sef)
    belongings = Belongings(world, primary, *names)
    sef.register_agent("a", {"cutover": belongings.targets})
    return sef, primary, belongings


def fail_over(world: World, sef: SmartEmergencyFallback, primary: str, **signal: Any) -> str:
    """Send a termination notice for the primary; return the new primary."""
    answer = world.signal(sef, TERMINATION, instance_id=primary, **signal)
    return str(answer["new_instance_id"])


def cutover_of(sef: SmartEmergencyFallback) -> Any:
    return sef.get_agent_status("a")["cutover"]


def steps_of(sef: SmartEmergencyFallback) -> dict[str, str]:
    """Return the status of each kind of step."""
    return {str(step["kind"]): str(step["status"]) for step in cutover_of(sef)["steps"]}


def hooked(world: World, on: str, do: Callable[..., None]) -> Clients:
    """Return new clients that run `do` once, at an event of boto3.

    Args:
        on: the event, such as `before-call.*.AssociateAddress`.
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
