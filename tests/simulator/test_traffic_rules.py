"""Route 53's rules and rates, and target groups with several ports, in the simulated EC2."""

from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from sef.cloud.clients import Clients
from sef.simulator.client import Simulation
from tests.simulator.ec2_calls import launch


@pytest.fixture
def clients(simulation: Simulation) -> Clients:
    return Clients("us-east-1", simulation.endpoint, simulated=True)


def zone_of(clients: Clients) -> tuple[str, str]:
    domain = f"{uuid4().hex[:8]}.example"
    zone = clients.route53.create_hosted_zone(Name=domain, CallerReference=domain)
    return zone["HostedZone"]["Id"], domain


def send(clients: Clients, zone_id: str, *changes: tuple[str, str, str, str]) -> None:
    batch: Any = [
        {
            "Action": action,
            "ResourceRecordSet": {
                "Name": name,
                "Type": kind,
                "TTL": 60,
                "ResourceRecords": [{"Value": value}],
            },
        }
        for action, name, kind, value in changes
    ]
    clients.route53.change_resource_record_sets(
        HostedZoneId=zone_id, ChangeBatch={"Changes": batch}
    )


def names_in(clients: Clients, zone_id: str, **query: Any) -> list[str]:
    listing = clients.route53.list_resource_record_sets(HostedZoneId=zone_id, **query)
    return [r["Name"] for r in listing["ResourceRecordSets"] if r["Type"] in ("A", "CNAME")]


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ("CNAME", "A", "RRSet of type A with DNS name www.{} is not permitted because a conflict"),
        ("A", "CNAME", "RRSet of type CNAME with DNS name www.{} is not permitted as it conflicts"),
    ],
)
def test_an_a_record_beside_a_cname_is_refused(
    clients: Clients, first: str, second: str, text: str
) -> None:
    zone_id, domain = zone_of(clients)
    values = {"A": "10.0.0.1", "CNAME": "other.example"}
    send(clients, zone_id, ("CREATE", f"www.{domain}", first, values[first]))
    with pytest.raises(ClientError) as refused:
        send(clients, zone_id, ("CREATE", f"www.{domain}", second, values[second]))
    error = refused.value.response["Error"]
    assert error["Code"] == "InvalidChangeBatch"
    assert text.format(f"{domain}.") in error["Message"]
    # A batch may delete the one and create the other.
    send(
        clients,
        zone_id,
        ("DELETE", f"www.{domain}", first, values[first]),
        ("CREATE", f"www.{domain}", second, values[second]),
    )


def test_a_refused_batch_names_each_reason_and_changes_nothing(clients: Clients) -> None:
    zone_id, domain = zone_of(clients)
    send(clients, zone_id, ("CREATE", f"a.{domain}", "A", "10.0.0.1"))
    with pytest.raises(ClientError) as refused:
        send(
            clients,
            zone_id,
            ("CREATE", f"b.{domain}", "A", "10.0.0.2"),
            ("CREATE", f"a.{domain}", "A", "10.0.0.2"),
            ("DELETE", f"c.{domain}", "A", "10.0.0.2"),
        )
    message = refused.value.response["Error"]["Message"]
    assert message == (
        f"[Tried to create resource record set [name='a.{domain}.', type='A'] but it already "
        f"exists, Tried to delete resource record set [name='c.{domain}.', type='A'] but it was "
        "not found]"
    )
    assert names_in(clients, zone_id) == [f"a.{domain}."]


@pytest.mark.parametrize("asterisk", ["*", "\\052"])
def test_an_asterisk_is_taken_in_both_forms_and_shown_escaped(
    clients: Clients, asterisk: str
) -> None:
    zone_id, domain = zone_of(clients)
    send(clients, zone_id, ("CREATE", f"{asterisk}.{domain}", "A", "10.0.0.1"))
    assert names_in(clients, zone_id) == [f"\\052.{domain}."]
    assert names_in(clients, zone_id, StartRecordName=f"*.{domain}") == [f"\\052.{domain}."]
    send(clients, zone_id, ("DELETE", f"*.{domain}", "A", "10.0.0.1"))


def test_requests_beyond_the_rate_are_throttled(simulation: Simulation, clients: Clients) -> None:
    zone_id, _ = zone_of(clients)
    simulation.set_options(route53_per_second=5)
    codes = []
    for _ in range(8):
        try:
            clients.route53.get_hosted_zone(Id=zone_id)
        except ClientError as error:
            codes.append(error.response["Error"]["Code"])
    simulation.set_options(route53_per_second=0)
    assert codes == ["Throttling"] * 3


def test_a_zone_takes_one_change_at_a_time(simulation: Simulation, clients: Clients) -> None:
    (one, domain), (other, other_domain) = zone_of(clients), zone_of(clients)
    simulation.set_options(route53_change_seconds=30)
    send(clients, one, ("CREATE", f"a.{domain}", "A", "10.0.0.1"))
    send(clients, other, ("CREATE", f"a.{other_domain}", "A", "10.0.0.1"))
    with pytest.raises(ClientError, match="PriorRequestNotComplete"):
        send(clients, one, ("CREATE", f"b.{domain}", "A", "10.0.0.1"))
    simulation.set_options(route53_change_seconds=0)


def test_an_instance_has_each_port_on_its_own(simulation: Simulation, clients: Clients) -> None:
    instance = launch(clients.ec2)
    vpc = clients.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    made = clients.elbv2.create_target_group(
        Name=f"g-{uuid4().hex[:8]}", Protocol="HTTP", Port=80, VpcId=vpc
    )
    arn = made["TargetGroups"][0]["TargetGroupArn"]

    def ports() -> dict[int, str]:
        health = clients.elbv2.describe_target_health(TargetGroupArn=arn)
        return {
            t["Target"]["Port"]: t["TargetHealth"]["State"]
            for t in health["TargetHealthDescriptions"]
        }

    clients.elbv2.register_targets(TargetGroupArn=arn, Targets=[{"Id": instance}])
    assert ports() == {80: "healthy"}
    simulation.set_options(healthy_after_seconds=1000)
    clients.elbv2.register_targets(TargetGroupArn=arn, Targets=[{"Id": instance, "Port": 9090}])
    assert ports() == {80: "initial", 9090: "initial"}
    clients.elbv2.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": instance, "Port": 7}])
    clients.elbv2.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": instance}])
    assert ports() == {9090: "initial"}
