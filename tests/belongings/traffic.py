"""Agents with records in one hosted zone and targets in one group, for the stories of traffic."""

from collections import Counter
from typing import Any
from uuid import uuid4

from sef.cloud.clients import Clients
from smart_emergency_fallback import SmartEmergencyFallback
from tests.harness import POOL, World, clients_of


class Zone:
    """A hosted zone, private by default, and its A records."""

    def __init__(self, world: World, domain: str = "", *, private: bool = True) -> None:
        self.client = clients_of(world.simulation.endpoint).route53
        self.domain = domain or f"{uuid4().hex[:8]}.example"
        vpc = world.client.describe_vpcs()["Vpcs"][0]["VpcId"]
        more: Any = {"VPC": {"VPCRegion": "us-east-1", "VPCId": vpc}} if private else {}
        made = self.client.create_hosted_zone(
            Name=self.domain,
            CallerReference=uuid4().hex,
            HostedZoneConfig={"PrivateZone": private},
            **more,
        )
        self.long_id = made["HostedZone"]["Id"]
        self.id = self.long_id.rpartition("/")[2]

    def name(self, label: str) -> str:
        return f"{label}.{self.domain}" if label else self.domain

    def write(self, label: str, *values: str, kind: str = "A", **more: Any) -> None:
        content: Any = {"TTL": 60, "ResourceRecords": [{"Value": value} for value in values]}
        record: Any = {"Name": self.name(label), "Type": kind, **(content | more)}
        if "AliasTarget" in more:
            del record["TTL"], record["ResourceRecords"]
        change: Any = {"Action": "UPSERT", "ResourceRecordSet": record}
        self.client.change_resource_record_sets(
            HostedZoneId=self.id, ChangeBatch={"Changes": [change]}
        )

    def values(self, label: str) -> list[str]:
        """Return the values of an A record, in their order."""
        return self.records().get(self.name(label), [])

    def records(self) -> dict[str, list[str]]:
        """Return the values of each A record, by name."""
        listing = self.client.list_resource_record_sets(HostedZoneId=self.id)
        return {
            record["Name"].replace("\\052", "*").rstrip("."): [
                value["Value"] for value in record.get("ResourceRecords", [])
            ]
            for record in listing["ResourceRecordSets"]
            if record["Type"] == "A"
        }


class Group:
    """A target group of instances, with port 80."""

    def __init__(self, world: World, vpc: str = "") -> None:
        self.client = clients_of(world.simulation.endpoint).elbv2
        vpc = vpc or world.client.describe_vpcs()["Vpcs"][0]["VpcId"]
        made = self.client.create_target_group(
            Name=f"g-{uuid4().hex[:8]}", Protocol="HTTP", Port=80, VpcId=vpc
        )
        self.arn = made["TargetGroups"][0]["TargetGroupArn"]

    def register(self, instance_id: str, *ports: int) -> None:
        targets: Any = [{"Id": instance_id, "Port": port} for port in ports or (80,)]
        self.client.register_targets(TargetGroupArn=self.arn, Targets=targets)

    def deregister(self, instance_id: str, *ports: int) -> None:
        targets: Any = [{"Id": instance_id, "Port": port} for port in ports]
        self.client.deregister_targets(TargetGroupArn=self.arn, Targets=targets)

    def put_behind_load_balancer(self, world: World, *zones: str) -> None:
        """Let a load balancer that is enabled in these Availability Zones use the group."""
        zone_filter: Any = [{"Name": "availability-zone", "Values": list(zones)}]
        subnets = world.client.describe_subnets(Filters=zone_filter)["Subnets"]
        made = self.client.create_load_balancer(
            Name=f"l-{uuid4().hex[:8]}",
            Subnets=[subnet["SubnetId"] for subnet in subnets if subnet["DefaultForAz"]],
        )
        self.client.create_listener(
            LoadBalancerArn=made["LoadBalancers"][0]["LoadBalancerArn"],
            Protocol="HTTP",
            Port=80,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": self.arn}],
        )

    def targets(self) -> set[tuple[str, int]]:
        health = self.client.describe_target_health(TargetGroupArn=self.arn)
        described = [
            target["Target"]
            for target in health["TargetHealthDescriptions"]
            if target["TargetHealth"]["State"] != "draining"
        ]
        return {(target["Id"], target["Port"]) for target in described}

    def ports(self, instance_id: str) -> set[int]:
        return {port for registered, port in self.targets() if registered == instance_id}


class Fleet:
    """Agents with primaries in one zone and group, and instances that can follow them."""

    def __init__(self, world: World, sef: SmartEmergencyFallback, size: int, *targets: str) -> None:
        self._sef = sef
        self.zone, self.group = Zone(world), Group(world)
        self.agents = [f"web-{number:03d}" for number in range(size)]
        instances = launch(world, 2 * size)
        reservations = world.client.describe_instances(InstanceIds=instances)["Reservations"]
        self._addresses = {
            instance["InstanceId"]: instance["PrivateIpAddress"]
            for reservation in reservations
            for instance in reservation["Instances"]
        }
        self.old = dict(zip(self.agents, instances[:size], strict=True))
        self.new = dict(zip(self.agents, instances[size:], strict=True))
        for agent, primary in self.old.items():
            self.zone.write(agent, self.address(primary))
            self.group.register(primary)
            dns = {"zone_id": self.zone.id, "name": self.zone.name(agent)}
            given = {"dns": dns, "target_groups": [{"arn": self.group.arn}]}
            cutover = {name: given[name] for name in targets or given}
            fields = {"instance_id": primary, "pool_id": POOL, "cutover": cutover}
            sef.register_agent(agent, fields)

    def address(self, instance_id: str) -> str:
        return self._addresses[instance_id]

    def name_new_primaries(self) -> None:
        """Name the other instance of each agent: the targets follow in the next pass."""
        for agent, instance_id in self.new.items():
            self._sef.register_agent(agent, {"instance_id": instance_id, "pool_id": POOL})

    def moved(self) -> list[str]:
        """Return the agents whose record has the address of the new primary."""
        records = self.zone.records()
        wanted = {a: [self.address(instance)] for a, instance in self.new.items()}
        return [a for a in self.agents if records.get(self.zone.name(a)) == wanted[a]]


def launch(world: World, count: int) -> list[str]:
    kind, _, zone = POOL.rpartition(".")
    answer = world.client.run_instances(
        LaunchTemplate={"LaunchTemplateName": "sef-default"},
        InstanceType=kind,  # type: ignore[arg-type]
        Placement={"AvailabilityZone": zone},
        MinCount=count,
        MaxCount=count,
    )
    return [instance["InstanceId"] for instance in answer["Instances"]]


def counted(world: World) -> tuple[Clients, Counter[str]]:
    """Return new clients, and the number of their calls by action."""
    clients = Clients("us-east-1", world.simulation.endpoint, simulated=True)
    calls: Counter[str] = Counter()
    for client in (clients.ec2, clients.elbv2, clients.route53):
        client.meta.events.register("before-call", lambda model, **_: calls.update([model.name]))
    return clients, calls
