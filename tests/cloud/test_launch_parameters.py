"""The parameters of RunInstances, for one attempt and for a batch that shares a call."""

from typing import Any

import pytest

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG, REPLICA_TAG
from sef.cloud.launch_parameters import batch_parameters, launch_fingerprint, launch_parameters
from sef.cloud.likeness import LaunchConfiguration
from sef.terms import Pool
from tests.cloud.ec2_calls import tags_of

HERE = Pool("m5.large", "us-east-1a")


def parameters(
    agent_id: str = "a", *, pool: Pool = HERE, spot: bool = True, **more: Any
) -> dict[str, Any]:
    tags = {
        MANAGED_TAG: "sef-of-a-test",
        AGENT_TAG: agent_id,
        REPLICA_TAG: f"replica-of-{agent_id}",
        ATTEMPT_TAG: f"replica-of-{agent_id}-1",
    }
    kept = [{"Key": "team", "Value": "shop"}, {"Key": "stage", "Value": "live"}]
    like = {"ImageId": "ami-1", "TagSpecifications": [{"ResourceType": "instance", "Tags": kept}]}
    source = LaunchConfiguration("an instance", like | more, "m5.large")
    return launch_parameters(source, pool, spot=spot, tags=tags)


def tagged(*tags: tuple[str, str]) -> dict[str, Any]:
    listed = [{"Key": key, "Value": value} for key, value in tags]
    return {"TagSpecifications": [{"ResourceType": "instance", "Tags": listed}]}


@pytest.mark.parametrize(
    ("other", "is_equal"),
    [
        pytest.param(parameters("b"), True, id="of another agent"),
        pytest.param(
            parameters("b", **tagged(("stage", "live"), ("team", "shop"))),
            True,
            id="tags in another order",
        ),
        pytest.param(parameters("b", pool=Pool("m5.large", "us-east-1b")), False, id="zone"),
        pytest.param(parameters("b", pool=Pool("m5.xlarge", "us-east-1a")), False, id="type"),
        pytest.param(parameters("b", spot=False), False, id="market"),
        pytest.param(parameters("b", ImageId="ami-2"), False, id="image"),
        pytest.param(parameters("b", UserData="Yg=="), False, id="user data"),
        pytest.param(parameters("b", **tagged(("Name", "b"))), False, id="a tag of the source"),
    ],
)
def test_launches_that_differ_only_in_tags_of_sef_have_one_fingerprint(
    other: dict[str, Any], is_equal: bool
) -> None:
    assert (launch_fingerprint(parameters()) == launch_fingerprint(other)) is is_equal


def test_a_batched_call_has_the_common_tags_and_its_own_token() -> None:
    made = batch_parameters(parameters(), "call-1")
    tags = {tag["Key"]: tag["Value"] for tag in made["TagSpecifications"][0]["Tags"]}
    assert tags == {
        MANAGED_TAG: "sef-of-a-test",
        ATTEMPT_TAG: "call-1",
        "team": "shop",
        "stage": "live",
    }
    assert {k: v for k, v in made.items() if k != "TagSpecifications"} == {
        k: v for k, v in parameters().items() if k != "TagSpecifications"
    }


@pytest.mark.parametrize("spot", [True, False])
@pytest.mark.parametrize(
    ("subnets", "place"),
    [
        ({}, {"Placement": {"AvailabilityZone": "us-east-1a"}}),
        ({"us-east-1a": "subnet-a", "us-east-1b": "subnet-b"}, {"SubnetId": "subnet-a"}),
    ],
    ids=["by zone", "by subnet"],
)
def test_parameters_have_the_place_and_the_market(
    spot: bool, subnets: dict[str, str], place: dict[str, Any]
) -> None:
    source = LaunchConfiguration("it", {"ImageId": "ami-1", "KeyName": "k"}, "c5.large", subnets)
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


def test_tags_of_the_source_are_kept_and_the_source_is_not_changed() -> None:
    spec = [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "web"}]}]
    source = LaunchConfiguration("it", {"ImageId": "ami-1", "TagSpecifications": spec}, "m5.large")
    for _ in range(2):
        made = launch_parameters(source, HERE, spot=True, tags={"sef:agent": "a"})
        assert tags_of(made) == [("team", "web"), ("sef:agent", "a")]
    assert source.parameters["TagSpecifications"] == spec


def test_a_tag_of_sef_replaces_the_same_tag_of_the_source() -> None:
    """EC2 refuses a launch in which a key is there twice."""
    spec = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "by hand"}]}]
    source = LaunchConfiguration("it", {"ImageId": "ami-1", "TagSpecifications": spec}, "m5.large")
    made = launch_parameters(source, HERE, spot=True, tags={"Name": "sef a"})
    assert [key for key, _ in tags_of(made)] == ["Name"]
