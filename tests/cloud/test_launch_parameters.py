"""Which launches one RunInstances call can make, and with what parameters."""

from typing import Any

import pytest

from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, MANAGED_TAG, REPLICA_TAG, LaunchConfiguration
from sef.cloud.launch_parameters import batch_parameters, launch_fingerprint, launch_parameters
from sef.terms import Pool

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


def named(*tags: tuple[str, str]) -> dict[str, Any]:
    told = [{"Key": key, "Value": value} for key, value in tags]
    return {"TagSpecifications": [{"ResourceType": "instance", "Tags": told}]}


@pytest.mark.parametrize(
    ("other", "is_alike"),
    [
        pytest.param(parameters("b"), True, id="of another agent"),
        pytest.param(
            parameters("b", **named(("stage", "live"), ("team", "shop"))),
            True,
            id="tags told in another order",
        ),
        pytest.param(parameters("b", pool=Pool("m5.large", "us-east-1b")), False, id="zone"),
        pytest.param(parameters("b", pool=Pool("m5.xlarge", "us-east-1a")), False, id="type"),
        pytest.param(parameters("b", spot=False), False, id="market"),
        pytest.param(parameters("b", ImageId="ami-2"), False, id="image"),
        pytest.param(parameters("b", UserData="Yg=="), False, id="user data"),
        pytest.param(parameters("b", **named(("Name", "b"))), False, id="a tag of the source"),
    ],
)
def test_launches_that_differ_only_in_tags_of_sef_have_one_fingerprint(
    other: dict[str, Any], is_alike: bool
) -> None:
    assert (launch_fingerprint(parameters()) == launch_fingerprint(other)) is is_alike


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
