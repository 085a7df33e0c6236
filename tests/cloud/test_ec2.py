"""The calls that SEF makes, with real boto3 over the socket to the simulated EC2."""

import base64
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from sef.cloud.ec2 import ATTEMPT_TAG, MANAGED_TAG, Ec2
from sef.cloud.errors import CloudError, Remedy
from sef.cloud.launch_parameters import launch_parameters
from sef.simulator.client import Simulation
from sef.terms import Pool
from tests.cloud.ec2_calls import HERE, SOURCE, described, launch

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


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


def test_a_repeated_token_returns_the_same_instance(ec2: Ec2) -> None:
    parameters = launch_parameters(SOURCE, HERE, spot=True, tags={"Name": "once"})
    token = str(uuid4())
    assert ec2.run(parameters, token) == ec2.run(parameters, token)


def test_an_instance_has_the_requested_pool_market_and_tags(ec2: Ec2, client: "EC2Client") -> None:
    made = described(client, launch(ec2, pool=Pool("c5.large", "us-east-1c"), sef_agent="x"))
    assert made["InstanceType"] == "c5.large"
    assert made["Placement"]["AvailabilityZone"] == "us-east-1c"
    assert made["InstanceLifecycle"] == "spot"
    assert {"Key": "sef:agent", "Value": "x"} in made["Tags"]
    assert "InstanceLifecycle" not in described(client, launch(ec2, spot=False))


def test_a_lost_answer_is_unknown_until_the_token_is_repeated(
    ec2: Ec2, simulation: Simulation
) -> None:
    parameters = launch_parameters(SOURCE, HERE, spot=True, tags={"Name": "lost"})
    token = str(uuid4())
    simulation.add_fault("RunInstances", count=2, lose_reply=True)
    with pytest.raises(CloudError) as caught:
        ec2.run(parameters, token)
    assert caught.value.remedy is Remedy.WAIT
    made = [i.id for i in simulation.instances() if i.client_token == token]
    assert [ec2.run(parameters, token)] == made


def test_a_lack_of_capacity_leads_to_the_next_pool(ec2: Ec2, simulation: Simulation) -> None:
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
def test_user_data_arrives_byte_for_byte(ec2: Ec2, client: "EC2Client", user_data: bytes) -> None:
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
        stored = client.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")[
            "UserData"
        ].get("Value", "")
        assert base64.b64decode(stored) == user_data


def test_terminate_can_be_repeated(ec2: Ec2) -> None:
    made = launch(ec2)
    for _ in range(2):
        ec2.terminate(made)
    assert ec2.instances([made])[made].is_gone


def test_terminate_accepts_an_unknown_instance(ec2: Ec2) -> None:
    ec2.terminate("i-0123456789abcdef0")


def test_a_refused_terminate_needs_an_operator(ec2: Ec2, simulation: Simulation) -> None:
    made = launch(ec2)
    simulation.add_fault("TerminateInstances", error_code="UnauthorizedOperation")
    with pytest.raises(CloudError) as caught:
        ec2.terminate(made)
    assert caught.value.remedy is Remedy.OPERATOR


def test_unknown_ids_do_not_hide_known_instances(ec2: Ec2) -> None:
    made = launch(ec2)
    found = ec2.instances([made, "i-0123456789abcdef0", "i-0", "not-an-id"])
    assert set(found) == {made}
    assert found[made].ec2_state == "running"
    assert found[made].pool == HERE
    assert not found[made].is_gone
    assert abs(found[made].launched_at - datetime.now(UTC)) < timedelta(seconds=30)
    assert found[made].tags["Name"] == "a test"
    assert ec2.instances([]) == {}


def test_a_launch_is_found_by_its_token(ec2: Ec2) -> None:
    token = str(uuid4())
    made = launch(ec2, sef_attempt=token)
    assert ATTEMPT_TAG == "sef:attempt"
    assert [found.id for found in ec2.launched_by(token)] == [made]
    assert ec2.launched_by(str(uuid4())) == []


def test_a_terminated_launch_is_still_found_by_its_token(ec2: Ec2) -> None:
    token = str(uuid4())
    made = launch(ec2, sef_attempt=token)
    ec2.terminate(made)
    assert [(found.id, found.is_gone) for found in ec2.launched_by(token)] == [(made, True)]


def test_only_the_instances_of_one_deployment_are_found(ec2: Ec2) -> None:
    name = f"sef-{uuid4().hex[:12]}"
    mine = {launch(ec2, sef_managed=name) for _ in range(3)}
    launch(ec2, sef_managed="sef-another")
    launch(ec2)
    assert MANAGED_TAG == "sef:managed"
    assert {i.id for i in ec2.managed_by(name)} == mine


def test_zones_are_listed(ec2: Ec2) -> None:
    assert sorted(ec2.zones()) == [f"us-east-1{letter}" for letter in "abcdef"]


def test_spot_prices_are_the_current_prices_of_every_pool(ec2: Ec2, simulation: Simulation) -> None:
    simulation.set_pool("r5.xlarge.us-east-1b", price=Decimal("0.0777"))
    prices = ec2.spot_prices({"r5.xlarge", "c5.xlarge"}, datetime.now(UTC))
    assert prices["r5.xlarge.us-east-1b"] == Decimal("0.0777")
    assert len(prices) == 12
    assert {pool.rpartition(".")[0] for pool in prices} == {"r5.xlarge", "c5.xlarge"}
    simulation.set_pool("r5.xlarge.us-east-1b", price=Decimal("0.0888"))
    again = ec2.spot_prices({"r5.xlarge"}, datetime.now(UTC))
    assert again["r5.xlarge.us-east-1b"] == Decimal("0.0888")


def test_a_type_without_prices_has_none(ec2: Ec2) -> None:
    assert ec2.spot_prices({"p4d.24xlarge"}, datetime.now(UTC)) == {}


def test_no_types_have_no_prices(ec2: Ec2) -> None:
    assert ec2.spot_prices(set(), datetime.now(UTC)) == {}


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
