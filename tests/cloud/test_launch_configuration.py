"""The configuration of new instances, from an instance or from a launch template."""

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from sef.cloud.ec2 import Ec2
from sef.cloud.errors import CloudError, Remedy
from sef.cloud.launch_parameters import launch_parameters
from sef.terms import Pool
from tests.cloud.ec2_calls import described, launch, tags_of

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


def test_an_unknown_instance_has_no_configuration(ec2: Ec2) -> None:
    assert ec2.like_instance("i-0123456789abcdef0") is None


def test_a_configuration_keeps_settings_and_tags_but_not_the_tags_of_sef(
    ec2: Ec2, client: "EC2Client"
) -> None:
    name = f"like-{uuid4().hex[:8]}"
    client.create_key_pair(KeyName=name)
    group = client.create_security_group(GroupName=name, Description="d")["GroupId"]
    tags = {"team": "web", "sef:agent": "old", "sef:attempt": "old"}
    first = client.run_instances(
        LaunchTemplate={"LaunchTemplateName": "sef-default"},
        KeyName=name,
        SecurityGroupIds=[group],
        EbsOptimized=True,
        TagSpecifications=[
            {
                "ResourceType": "instance",
                "Tags": [{"Key": k, "Value": v} for k, v in tags.items()],
            }
        ],
        MinCount=1,
        MaxCount=1,
    )["Instances"][0]
    source = ec2.like_instance(first["InstanceId"])
    assert source is not None
    assert source.described_as == f"instance {first['InstanceId']}"
    assert source.instance_type == "m5.large"
    assert source.parameters["ImageId"] == first["ImageId"]
    assert source.parameters["KeyName"] == name
    assert source.parameters["SecurityGroupIds"] == [group]
    assert source.parameters["EbsOptimized"] is True
    assert tags_of(dict(source.parameters)) == [("team", "web")]


def test_a_terminated_instance_still_has_a_configuration(ec2: Ec2) -> None:
    """That is when one is needed: AWS has taken the primary already."""
    made = launch(ec2)
    ec2.terminate(made)
    source = ec2.like_instance(made)
    assert source is None or source.parameters["ImageId"]


def test_subnets_are_from_the_vpc_of_the_instance(ec2: Ec2, client: "EC2Client") -> None:
    vpc = client.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    subnets = {
        zone: client.create_subnet(
            VpcId=vpc, CidrBlock=f"10.8.{number}.0/24", AvailabilityZone=zone
        )["Subnet"]["SubnetId"]
        for number, zone in enumerate(("us-east-1a", "us-east-1b"))
    }
    small = client.create_subnet(VpcId=vpc, CidrBlock="10.8.9.0/28", AvailabilityZone="us-east-1b")[
        "Subnet"
    ]["SubnetId"]
    group = client.create_security_group(GroupName="in-vpc", Description="d", VpcId=vpc)
    first = client.run_instances(
        LaunchTemplate={"LaunchTemplateName": "sef-default"},
        SubnetId=subnets["us-east-1a"],
        SecurityGroupIds=[group["GroupId"]],
        MinCount=1,
        MaxCount=1,
    )["Instances"][0]["InstanceId"]

    source = ec2.like_instance(first)
    assert source is not None
    assert source.subnets == subnets  # the roomier of two
    assert small not in source.subnets.values()
    there = Pool("m5.large", "us-east-1b")
    parameters = launch_parameters(source, there, spot=True, tags={"Name": "copy"})
    assert parameters["SubnetId"] == subnets["us-east-1b"]
    assert "Placement" not in parameters
    made = described(client, ec2.run(parameters, str(uuid4())))
    assert made["VpcId"] == vpc
    assert made["SubnetId"] == subnets["us-east-1b"]
    assert made["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert [g["GroupId"] for g in made["SecurityGroups"]] == [group["GroupId"]]


@pytest.fixture(scope="module")
def template(client: "EC2Client") -> tuple[str, str]:
    """Id and name of one with three versions, of which the second is the default."""
    name = f"web-{uuid4().hex[:8]}"
    made = client.create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={"ImageId": "ami-12345678", "InstanceType": "c5.large"},
    )["LaunchTemplate"]["LaunchTemplateId"]
    for kind in ("c5.xlarge", "r5.large"):
        client.create_launch_template_version(
            LaunchTemplateId=made,
            LaunchTemplateData={"ImageId": "ami-12345678", "InstanceType": kind},  # type: ignore[typeddict-item]
        )
    client.modify_launch_template(LaunchTemplateId=made, DefaultVersion="2")
    return made, name


@pytest.mark.parametrize("by_id", [True, False], ids=["id", "name"])
@pytest.mark.parametrize(
    ("suffix", "version", "kind"),
    [
        (":1", "1", "c5.large"),
        (":2", "2", "c5.xlarge"),
        (":3", "3", "r5.large"),
        (":$Latest", "$Latest", "r5.large"),
        ("", "$Default", "c5.xlarge"),
        (":$Default", "$Default", "c5.xlarge"),
    ],
)
def test_a_template_is_found_by_id_or_name_and_version(
    ec2: Ec2, template: tuple[str, str], by_id: bool, suffix: str, version: str, kind: str
) -> None:
    key = "LaunchTemplateId" if by_id else "LaunchTemplateName"
    named = template[0 if by_id else 1]
    source = ec2.like_template(named + suffix)
    assert source.parameters == {"LaunchTemplate": {key: named, "Version": version}}
    assert source.instance_type == kind
    assert source.subnets == {}
    made = ec2.run(
        launch_parameters(source, Pool(kind, "us-east-1b"), spot=True, tags={"Name": "t"}),
        str(uuid4()),
    )
    assert ec2.instances([made])[made].pool == Pool(kind, "us-east-1b")


def test_a_template_can_launch_in_the_vpc_of_an_instance(
    ec2: Ec2, template: tuple[str, str]
) -> None:
    source = ec2.like_template(template[1], ec2.like_instance(launch(ec2)))
    assert sorted(source.subnets) == [f"us-east-1{letter}" for letter in "abcdef"]


@pytest.mark.parametrize("named", ["no-such", "lt-0123456789abcdef0", "sef-default:99"])
def test_a_missing_template_needs_an_operator(ec2: Ec2, named: str) -> None:
    with pytest.raises(CloudError) as caught:
        ec2.like_template(named)
    assert caught.value.remedy is Remedy.OPERATOR
