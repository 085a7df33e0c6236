"""Answers of EC2 that are incomplete, lag behind, or come in pages."""

import time
from typing import TYPE_CHECKING, Any

import pytest

from sef.simulator.client import Simulation
from tests.simulator.ec2_calls import instance, launch, refused, state

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


@pytest.mark.parametrize(
    ("element", "field"),
    [
        ("tagSet", "Tags"),
        ("placement", "Placement"),
        ("availabilityZone", "Placement"),
        ("launchTime", "LaunchTime"),
        ("instanceLifecycle", "InstanceLifecycle"),
        ("instanceState", "State"),
        ("instanceType", "InstanceType"),
        ("instanceId", "InstanceId"),
    ],
)
def test_an_answer_lacks_an_element_for_a_number_of_calls(
    ec2: "EC2Client", simulation: Simulation, element: str, field: str
) -> None:
    tags: Any = [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "web"}]}]
    new = launch(ec2, TagSpecifications=tags)
    whole = instance(ec2, new)
    simulation.add_fault("DescribeInstances", omit=[element], count=1)
    lacking = instance(ec2, new)
    if element == "availabilityZone":
        assert "AvailabilityZone" not in lacking[field]
    else:
        assert field not in lacking
    assert instance(ec2, new) == whole


def test_an_answer_lacks_a_list_or_has_it_empty(ec2: "EC2Client", simulation: Simulation) -> None:
    new = launch(ec2)
    simulation.add_fault("DescribeInstances", omit=["reservationSet"], count=1)
    assert "Reservations" not in ec2.describe_instances()
    simulation.add_fault("DescribeInstances", omit=["item"], count=1)
    assert ec2.describe_instances()["Reservations"] == []
    assert state(ec2, new) == "running"


def test_an_answer_shows_a_past_moment(ec2: "EC2Client", simulation: Simulation) -> None:
    first = launch(ec2)
    state(ec2, first)
    then = time.time()
    second = launch(ec2)
    ec2.create_tags(Resources=[first], Tags=[{"Key": "team", "Value": first}])
    simulation.terminate(first)
    both: Any = [{"Name": "instance-id", "Values": [first, second]}]
    by_tag: Any = [{"Name": "tag:team", "Values": [first]}]
    simulation.add_fault("DescribeInstances", as_of=then, count=2)
    [lagging] = ec2.describe_instances(Filters=both)["Reservations"]
    [shown] = lagging["Instances"]
    assert (shown["InstanceId"], shown["State"]["Name"]) == (first, "running")
    assert "team" not in {tag["Key"] for tag in shown["Tags"]}
    assert ec2.describe_instances(Filters=by_tag)["Reservations"] == []
    # The next copy is up to date.
    assert state(ec2, first) == "terminated"
    assert state(ec2, second) == "running"
    assert ec2.describe_instances(Filters=by_tag)["Reservations"] != []


def test_answers_lag_by_a_number_of_seconds(ec2: "EC2Client", simulation: Simulation) -> None:
    new = launch(ec2)
    simulation.add_fault("*", lag_seconds=60)
    assert refused(lambda: instance(ec2, new))[0] == "InvalidInstanceID.NotFound"
    ec2.terminate_instances(InstanceIds=[new])  # only answers lag
    simulation.clear_faults()
    assert state(ec2, new) == "terminated"


@pytest.mark.parametrize(("size", "pages"), [(0, [0, 3]), (1, [1, 1, 1]), (2, [2, 1])])
def test_an_answer_comes_in_pages_of_which_the_first_may_be_empty(
    ec2: "EC2Client", simulation: Simulation, size: int, pages: list[int]
) -> None:
    ids = sorted(launch(ec2) for _ in range(3))
    simulation.add_fault("DescribeInstances", page_size=size)
    filters: Any = [{"Name": "instance-id", "Values": ids}]
    answers = list(ec2.get_paginator("describe_instances").paginate(Filters=filters))
    assert [len(page["Reservations"]) for page in answers] == pages
    found = [i["InstanceId"] for p in answers for r in p["Reservations"] for i in r["Instances"]]
    assert sorted(found) == ids
