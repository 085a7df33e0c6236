"""The calls that SEF makes, with real boto3 over the socket to the simulated EC2."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest

from sef.cloud.ec2 import ATTEMPT_TAG, MANAGED_TAG, Ec2, LaunchConfiguration
from sef.cloud.errors import CloudError, Remedy
from sef.cloud.launch_parameters import launch_parameters
from sef.simulator.client import Simulation
from sef.terms import Pool

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client

HERE = Pool("m5.large", "us-east-1a")
TEMPLATE = {"LaunchTemplate": {"LaunchTemplateName": "sef-default", "Version": "$Default"}}
SOURCE = LaunchConfiguration("the default template", TEMPLATE, "m5.large")


@pytest.fixture(scope="module")
def ec2(shared_simulation: tuple[Any, Simulation]) -> Ec2:
    endpoint = shared_simulation[1].endpoint
    return Ec2.connect(region="us-east-1", endpoint=endpoint, simulated=True)


@pytest.fixture(scope="module")
def client(shared_simulation: tuple[Any, Simulation]) -> "EC2Client":
    return boto3.client(
        "ec2",
        endpoint_url=shared_simulation[1].endpoint,
        region_name="us-east-1",
        aws_access_key_id="simulated",
        aws_secret_access_key="simulated",
    )


@pytest.fixture(autouse=True)
def _calm(simulation: Simulation) -> Iterator[None]:
    yield
    simulation.set_options(visible_after_seconds=0, refuse_token_of_terminated=True)


def launch(ec2: Ec2, *, pool: Pool = HERE, spot: bool = True, **tags: str) -> str:
    told = {key.replace("_", ":"): value for key, value in tags.items()} or {"Name": "a test"}
    return ec2.run(launch_parameters(SOURCE, pool, spot=spot, tags=told), str(uuid4()))


def described(client: "EC2Client", instance_id: str) -> Any:
    return client.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]


def tags_of(parameters: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (tag["Key"], tag["Value"])
        for spec in parameters["TagSpecifications"]
        for tag in spec["Tags"]
    ]


@pytest.mark.parametrize(
    ("code", "calls"), [("InsufficientInstanceCapacity", 1), ("InternalError", 2)]
)
def test_boto3_retries_an_internal_error_but_not_a_lack_of_capacity(
    ec2: Ec2, simulation: Simulation, code: str, calls: int
) -> None:
    simulation.add_fault("RunInstances", error_code=code, http_status=500, count=3)
    with pytest.raises(CloudError, match=code):
        launch(ec2)
    assert [rule["count"] for rule in simulation.faults()] == [3 - calls]


class TestLaunchParameters:
    @pytest.mark.parametrize("spot", [True, False])
    @pytest.mark.parametrize(
        ("subnets", "place"),
        [
            ({}, {"Placement": {"AvailabilityZone": "us-east-1a"}}),
            ({"us-east-1a": "subnet-a", "us-east-1b": "subnet-b"}, {"SubnetId": "subnet-a"}),
        ],
        ids=["by zone", "by subnet"],
    )
    def test_place_and_market(
        self, spot: bool, subnets: dict[str, str], place: dict[str, Any]
    ) -> None:
        source = LaunchConfiguration(
            "it", {"ImageId": "ami-1", "KeyName": "k"}, "c5.large", subnets
        )
        parameters = launch_parameters(source, HERE, spot=spot, tags={"sef:agent": "a"})
        market = {
            "InstanceMarketOptions": {
                "MarketType": "spot",
                "SpotOptions": {
                    "SpotInstanceType": "one-time",
                    "InstanceInterruptionBehavior": "terminate",
                },
            }
        }
        assert parameters == {
            "ImageId": "ami-1",
            "KeyName": "k",
            "InstanceType": "m5.large",
            "TagSpecifications": [
                {"ResourceType": "instance", "Tags": [{"Key": "sef:agent", "Value": "a"}]}
            ],
            **place,
            **(market if spot else {}),
        }

    def test_tags_of_the_source_are_kept_and_the_source_is_not_changed(self) -> None:
        spec = [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "web"}]}]
        source = LaunchConfiguration(
            "it", {"ImageId": "ami-1", "TagSpecifications": spec}, "m5.large"
        )
        for _ in range(2):
            made = launch_parameters(source, HERE, spot=True, tags={"sef:agent": "a"})
            assert tags_of(made) == [("team", "web"), ("sef:agent", "a")]
        assert source.parameters["TagSpecifications"] == spec

    def test_a_tag_of_sef_replaces_the_same_tag_of_the_source(self) -> None:
        """EC2 refuses a launch in which a key is there twice."""
        spec = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "by hand"}]}]
        source = LaunchConfiguration(
            "it", {"ImageId": "ami-1", "TagSpecifications": spec}, "m5.large"
        )
        made = launch_parameters(source, HERE, spot=True, tags={"Name": "sef a"})
        assert [key for key, _ in tags_of(made)] == ["Name"]


class TestRunning:
    def test_a_repeated_token_returns_the_same_instance(self, ec2: Ec2) -> None:
        parameters = launch_parameters(SOURCE, HERE, spot=True, tags={"Name": "once"})
        token = str(uuid4())
        assert ec2.run(parameters, token) == ec2.run(parameters, token)

    def test_an_instance_has_the_requested_pool_market_and_tags(
        self, ec2: Ec2, client: "EC2Client"
    ) -> None:
        made = described(client, launch(ec2, pool=Pool("c5.large", "us-east-1c"), sef_agent="x"))
        assert made["InstanceType"] == "c5.large"
        assert made["Placement"]["AvailabilityZone"] == "us-east-1c"
        assert made["InstanceLifecycle"] == "spot"
        assert {"Key": "sef:agent", "Value": "x"} in made["Tags"]
        assert "InstanceLifecycle" not in described(client, launch(ec2, spot=False))

    def test_a_lost_answer_is_unknown_until_the_token_is_repeated(
        self, ec2: Ec2, simulation: Simulation
    ) -> None:
        parameters = launch_parameters(SOURCE, HERE, spot=True, tags={"Name": "lost"})
        token = str(uuid4())
        simulation.add_fault("RunInstances", count=2, lose_reply=True)
        with pytest.raises(CloudError) as caught:
            ec2.run(parameters, token)
        assert caught.value.remedy is Remedy.WAIT
        made = [i.id for i in simulation.instances() if i.client_token == token]
        assert [ec2.run(parameters, token)] == made

    def test_a_lack_of_capacity_leads_to_the_next_pool(
        self, ec2: Ec2, simulation: Simulation
    ) -> None:
        simulation.set_pool(str(HERE), capacity=False)
        with pytest.raises(CloudError) as caught:
            launch(ec2)
        assert caught.value.code == "InsufficientInstanceCapacity"
        assert caught.value.remedy is Remedy.NEXT_POOL
        assert launch(ec2, spot=False)

    @pytest.mark.parametrize(
        "user_data",
        [
            b"#!/bin/sh\necho hello\n",
            "#cloud-config\n# grüezi ☂\n".encode(),
            bytes(range(256)),
            b"",
            b"\r\n \t",
        ],
        ids=["script", "utf-8", "every byte", "none", "white"],
    )
    def test_user_data_arrives_byte_for_byte(
        self, ec2: Ec2, client: "EC2Client", user_data: bytes
    ) -> None:
        first = client.run_instances(
            LaunchTemplate={"LaunchTemplateName": "sef-default"},
            UserData=user_data,  # type: ignore[arg-type]
            MinCount=1,
            MaxCount=1,
        )["Instances"][0]["InstanceId"]
        source = ec2.like_instance(first)
        assert source is not None
        second = ec2.run(
            launch_parameters(source, HERE, spot=True, tags={"Name": "copy"}), str(uuid4())
        )
        for instance_id in (first, second):
            told = client.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")[
                "UserData"
            ].get("Value", "")
            assert base64.b64decode(told) == user_data

    def test_terminate_can_be_repeated(self, ec2: Ec2) -> None:
        made = launch(ec2)
        for _ in range(2):
            ec2.terminate(made)
        assert ec2.instances([made])[made].is_gone

    def test_terminate_accepts_an_unknown_instance(self, ec2: Ec2) -> None:
        ec2.terminate("i-0123456789abcdef0")

    def test_a_refused_terminate_needs_an_operator(self, ec2: Ec2, simulation: Simulation) -> None:
        made = launch(ec2)
        simulation.add_fault("TerminateInstances", error_code="UnauthorizedOperation")
        with pytest.raises(CloudError) as caught:
            ec2.terminate(made)
        assert caught.value.remedy is Remedy.OPERATOR


class TestLooking:
    def test_unknown_ids_do_not_hide_known_instances(self, ec2: Ec2) -> None:
        made = launch(ec2)
        found = ec2.instances([made, "i-0123456789abcdef0", "i-0", "not-an-id"])
        assert set(found) == {made}
        assert found[made].ec2_state == "running"
        assert found[made].pool == HERE
        assert not found[made].is_gone
        assert abs(found[made].launched_at - datetime.now(UTC)) < timedelta(seconds=30)
        assert found[made].tags["Name"] == "a test"
        assert ec2.instances([]) == {}

    def test_a_launch_is_found_by_its_token(self, ec2: Ec2) -> None:
        token = str(uuid4())
        made = launch(ec2, sef_attempt=token)
        assert ATTEMPT_TAG == "sef:attempt"
        assert [found.id for found in ec2.launched_by(token)] == [made]
        assert ec2.launched_by(str(uuid4())) == []

    def test_a_terminated_launch_is_still_found_by_its_token(self, ec2: Ec2) -> None:
        token = str(uuid4())
        made = launch(ec2, sef_attempt=token)
        ec2.terminate(made)
        assert [(found.id, found.is_gone) for found in ec2.launched_by(token)] == [(made, True)]

    def test_only_the_instances_of_one_deployment_are_found(self, ec2: Ec2) -> None:
        name = f"sef-{uuid4().hex[:12]}"
        mine = {launch(ec2, sef_managed=name) for _ in range(3)}
        launch(ec2, sef_managed="sef-another")
        launch(ec2)
        assert MANAGED_TAG == "sef:managed"
        assert {i.id for i in ec2.managed_by(name)} == mine

    def test_zones_are_listed(self, ec2: Ec2) -> None:
        assert sorted(ec2.zones()) == [f"us-east-1{letter}" for letter in "abcdef"]

    def test_spot_prices_are_the_current_prices_of_every_pool(
        self, ec2: Ec2, simulation: Simulation
    ) -> None:
        simulation.set_pool("r5.xlarge.us-east-1b", price=Decimal("0.0777"))
        prices = ec2.spot_prices({"r5.xlarge", "c5.xlarge"}, datetime.now(UTC))
        assert prices["r5.xlarge.us-east-1b"] == Decimal("0.0777")
        assert len(prices) == 12
        assert {pool.rpartition(".")[0] for pool in prices} == {"r5.xlarge", "c5.xlarge"}
        simulation.set_pool("r5.xlarge.us-east-1b", price=Decimal("0.0888"))
        again = ec2.spot_prices({"r5.xlarge"}, datetime.now(UTC))
        assert again["r5.xlarge.us-east-1b"] == Decimal("0.0888")

    def test_a_type_without_prices_has_none(self, ec2: Ec2) -> None:
        assert ec2.spot_prices({"p4d.24xlarge"}, datetime.now(UTC)) == {}

    def test_no_types_have_no_prices(self, ec2: Ec2) -> None:
        assert ec2.spot_prices(set(), datetime.now(UTC)) == {}


class TestLikeAnInstance:
    def test_an_unknown_instance_has_no_configuration(self, ec2: Ec2) -> None:
        assert ec2.like_instance("i-0123456789abcdef0") is None

    def test_a_configuration_keeps_settings_and_tags_but_not_the_tags_of_sef(
        self, ec2: Ec2, client: "EC2Client"
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

    def test_a_terminated_instance_still_has_a_configuration(self, ec2: Ec2) -> None:
        """That is when one is needed: AWS has taken the primary already."""
        made = launch(ec2)
        ec2.terminate(made)
        source = ec2.like_instance(made)
        assert source is None or source.parameters["ImageId"]

    def test_subnets_are_from_the_vpc_of_the_instance(self, ec2: Ec2, client: "EC2Client") -> None:
        vpc = client.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
        subnets = {
            zone: client.create_subnet(
                VpcId=vpc, CidrBlock=f"10.8.{number}.0/24", AvailabilityZone=zone
            )["Subnet"]["SubnetId"]
            for number, zone in enumerate(("us-east-1a", "us-east-1b"))
        }
        small = client.create_subnet(
            VpcId=vpc, CidrBlock="10.8.9.0/28", AvailabilityZone="us-east-1b"
        )["Subnet"]["SubnetId"]
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


class TestLikeATemplate:
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
        self, ec2: Ec2, template: tuple[str, str], by_id: bool, suffix: str, version: str, kind: str
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
        self, ec2: Ec2, template: tuple[str, str]
    ) -> None:
        source = ec2.like_template(template[1], vpc_of=launch(ec2))
        assert sorted(source.subnets) == [f"us-east-1{letter}" for letter in "abcdef"]

    @pytest.mark.parametrize("named", ["no-such", "lt-0123456789abcdef0", "sef-default:99"])
    def test_a_missing_template_needs_an_operator(self, ec2: Ec2, named: str) -> None:
        with pytest.raises(CloudError) as caught:
            ec2.like_template(named)
        assert caught.value.remedy is Remedy.OPERATOR


def test_an_unreachable_ec2_is_retried() -> None:
    away = Ec2.connect(region="us-east-1", endpoint="http://127.0.0.1:9", simulated=True)
    with pytest.raises(CloudError) as caught:
        away.zones()
    assert caught.value.remedy is Remedy.WAIT


def test_a_missing_region_is_named_as_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(CloudError) as caught:
        Ec2.connect()
    assert caught.value.code == "NoRegionError"
