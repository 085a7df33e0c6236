"""RunInstances launches in the wanted pool and market, and completes a request from a template."""

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sef.simulator.client import Simulation
from tests.simulator.ec2_calls import client, instance, launch, refused

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


def test_an_instance_has_the_requested_type_zone_and_market(ec2: "EC2Client") -> None:
    found = instance(ec2, launch(ec2, "c5.large.us-east-1c"))
    assert found["InstanceType"] == "c5.large"
    assert found["Placement"]["AvailabilityZone"] == "us-east-1c"
    assert found["InstanceLifecycle"] == "spot"
    assert "InstanceLifecycle" not in instance(ec2, launch(ec2, spot=False))


def test_a_default_subnet_selects_its_zone(ec2: "EC2Client", simulation: Simulation) -> None:
    filters: Any = [{"Name": "default-for-az", "Values": ["true"]}]
    subnets = {
        s["AvailabilityZone"]: s["SubnetId"]
        for s in ec2.describe_subnets(Filters=filters)["Subnets"]
    }
    assert sorted(subnets) == [f"us-east-1{letter}" for letter in "abcdef"]
    parameters: dict[str, Any] = {"Placement": {}, "SubnetId": subnets["us-east-1d"]}
    found = instance(ec2, launch(ec2, **parameters))
    assert found["Placement"]["AvailabilityZone"] == "us-east-1d"
    simulation.set_pool("m5.large.us-east-1d", capacity=False)
    assert refused(lambda: launch(ec2, **parameters))[0] == "InsufficientInstanceCapacity"


def test_a_template_completes_a_request(ec2: "EC2Client") -> None:
    ec2.create_launch_template(
        LaunchTemplateName="full",
        LaunchTemplateData={
            "ImageId": "ami-12345678",
            "InstanceType": "r5.large",
            "Placement": {"AvailabilityZone": "us-east-1e"},
            "InstanceMarketOptions": {"MarketType": "spot"},
            "TagSpecifications": [
                {"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "web"}]}
            ],
        },
    )
    answer = ec2.run_instances(
        LaunchTemplate={"LaunchTemplateName": "full", "Version": "$Latest"},
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "sef:agent", "Value": "a"}]}
        ],
        MinCount=1,
        MaxCount=1,
    )
    found = instance(ec2, answer["Instances"][0]["InstanceId"])
    assert found["InstanceType"] == "r5.large"
    assert found["Placement"]["AvailabilityZone"] == "us-east-1e"
    assert found["InstanceLifecycle"] == "spot"
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert tags.items() >= {"team": "web", "sef:agent": "a"}.items()


def test_an_unknown_template_is_refused(ec2: "EC2Client") -> None:
    template = {"LaunchTemplateName": "no-such"}
    code, status = refused(lambda: launch(ec2, LaunchTemplate=template))
    assert code.startswith("InvalidLaunchTemplateName")
    assert status == 400


def test_instances_are_found_by_tag_and_state(ec2: "EC2Client") -> None:
    tag = {"Key": "sef:attempt", "Value": str(uuid4())}
    spec = [{"ResourceType": "instance", "Tags": [tag]}]
    kept, ended = (launch(ec2, TagSpecifications=spec) for _ in range(2))
    ec2.terminate_instances(InstanceIds=[ended])
    found = ec2.describe_instances(
        Filters=[
            {"Name": "tag:sef:attempt", "Values": [tag["Value"]]},
            {"Name": "instance-state-name", "Values": ["pending", "running"]},
        ]
    )
    assert [i["InstanceId"] for r in found["Reservations"] for i in r["Instances"]] == [kept]


def test_another_region_has_the_default_template_too(simulation: Simulation) -> None:
    there = client(simulation, tries=1, region="eu-west-1")
    assert instance(there, launch(there, "m5.large.eu-west-1b"))
