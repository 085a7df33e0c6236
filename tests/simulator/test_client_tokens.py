"""A client token launches its instances once."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sef.simulator.client import Simulation
from tests.simulator.ec2_calls import instance, launch, refused

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


def test_a_repeated_token_returns_the_same_instance(ec2: "EC2Client") -> None:
    token = str(uuid4())
    first = launch(ec2, token=token)
    assert launch(ec2, token=token) == first
    assert instance(ec2, first)["ClientToken"] == token
    found = ec2.describe_instances(Filters=[{"Name": "client-token", "Values": [token]}])
    assert [i["InstanceId"] for r in found["Reservations"] for i in r["Instances"]] == [first]


def test_a_repeated_token_returns_the_present_state(ec2: "EC2Client") -> None:
    token = str(uuid4())
    parameters: dict[str, Any] = {
        "LaunchTemplate": {"LaunchTemplateName": "sef-default"},
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": token,
    }
    first = ec2.run_instances(**parameters)
    again = ec2.run_instances(**parameters)
    assert again["ReservationId"] == first["ReservationId"]
    assert first["Instances"][0]["State"]["Name"] == "pending"
    assert again["Instances"][0]["State"]["Name"] == "running"


def test_a_token_with_other_parameters_is_refused(ec2: "EC2Client") -> None:
    token = str(uuid4())
    launch(ec2, token=token)
    assert refused(lambda: launch(ec2, token=token, spot=False)) == (
        "IdempotentParameterMismatch",
        400,
    )


def test_a_token_in_another_zone_is_another_token(ec2: "EC2Client") -> None:
    token = str(uuid4())
    first = launch(ec2, "m5.large.us-east-1a", token=token)
    assert launch(ec2, "m5.large.us-east-1b", token=token) != first


def test_a_token_launches_one_instance_in_parallel_calls(ec2: "EC2Client") -> None:
    token = str(uuid4())
    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(lambda _: launch(ec2, token=token), range(8)))
    assert len(ids) == 1


def test_the_token_of_a_terminated_instance_is_refused(
    ec2: "EC2Client", simulation: Simulation
) -> None:
    token = str(uuid4())
    first = launch(ec2, token=token)
    ec2.terminate_instances(InstanceIds=[first])
    assert refused(lambda: launch(ec2, token=token)) == ("IdempotentInstanceTerminated", 400)
    simulation.set_options(refuse_token_of_terminated=False)
    assert launch(ec2, token=token) == first


def test_a_refused_launch_does_not_spend_its_token(
    ec2: "EC2Client", simulation: Simulation
) -> None:
    token = str(uuid4())
    simulation.set_pool("m5.large.us-east-1a", capacity=False)
    assert refused(lambda: launch(ec2, token=token))[0] == "InsufficientInstanceCapacity"
    simulation.set_pool("m5.large.us-east-1a", capacity=True)
    assert launch(ec2, token=token)


def test_a_repeated_token_returns_its_instance_though_the_pool_is_full_now(
    ec2: "EC2Client", simulation: Simulation
) -> None:
    token = str(uuid4())
    first = launch(ec2, token=token)
    simulation.set_pool("m5.large.us-east-1a", capacity=False)
    assert launch(ec2, token=token) == first
