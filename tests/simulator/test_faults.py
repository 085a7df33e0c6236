"""Pools without capacity, and injected faults of calls."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from botocore.exceptions import BotoCoreError

from sef.simulator.client import Simulation, SimulationError
from tests.simulator.ec2_calls import client, launch, refused, state
from tests.waiting import until

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


def test_a_pool_without_spot_capacity_still_launches_on_demand(
    ec2: "EC2Client", simulation: Simulation
) -> None:
    simulation.set_pool("m5.large.us-east-1a", capacity=False)
    assert refused(lambda: launch(ec2)) == ("InsufficientInstanceCapacity", 500)
    assert launch(ec2, spot=False)
    assert launch(ec2, "m5.large.us-east-1b")


def test_a_pool_launches_as_many_instances_as_it_has_room_for(
    ec2: "EC2Client", simulation: Simulation
) -> None:
    def several(least: int, most: int, token: str) -> int:
        answer = ec2.run_instances(
            LaunchTemplate={"LaunchTemplateName": "sef-default"},
            InstanceType="m5.large",
            Placement={"AvailabilityZone": "us-east-1a"},
            InstanceMarketOptions={"MarketType": "spot"},
            ClientToken=token,
            MinCount=least,
            MaxCount=most,
        )
        return len(answer["Instances"])

    simulation.set_pool("m5.large.us-east-1a", room=3)
    assert several(1, 2, "first") == 2
    assert refused(lambda: several(2, 2, "too-many")) == ("InsufficientInstanceCapacity", 500)
    assert several(1, 5, "last") == 1
    assert refused(lambda: launch(ec2)) == ("InsufficientInstanceCapacity", 500)
    assert (several(1, 2, "first"), several(1, 5, "last")) == (2, 1)
    [pool] = [p for p in simulation.pools() if p.pool == "m5.large.us-east-1a"]
    assert (pool.capacity, pool.room) == (False, 0)
    simulation.set_pool("m5.large.us-east-1a", capacity=True)
    assert several(1, 5, "more") == 5


@pytest.mark.parametrize(
    ("code", "status"),
    [("MaxSpotInstanceCountExceeded", 400), ("UnauthorizedOperation", 403)],
)
def test_a_pool_refuses_one_market_with_a_named_error(
    ec2: "EC2Client", simulation: Simulation, code: str, status: int
) -> None:
    simulation.add_fault("RunInstances", pool="m5.large.us-east-1a", market="spot", error_code=code)
    assert refused(lambda: launch(ec2)) == (code, status)
    assert launch(ec2, spot=False)
    assert launch(ec2, "m5.xlarge.us-east-1a")


def test_a_throttle_ends_after_its_count(ec2: "EC2Client", simulation: Simulation) -> None:
    simulation.throttle("DescribeInstances", count=2)
    for _ in range(2):
        assert refused(ec2.describe_instances) == ("RequestLimitExceeded", 503)
    assert launch(ec2)
    assert ec2.describe_instances()["Reservations"]
    assert simulation.faults() == []


def test_boto3_retries_a_throttled_call(simulation: Simulation) -> None:
    simulation.throttle("DescribeRegions", count=1)
    assert client(simulation, tries=2).describe_regions()["Regions"]


def test_a_call_with_a_lost_reply_is_made_once(ec2: "EC2Client", simulation: Simulation) -> None:
    token = str(uuid4())
    simulation.add_fault("RunInstances", count=1, lose_reply=True)
    with pytest.raises(BotoCoreError):
        launch(ec2, token=token)
    made = [i.id for i in simulation.instances() if i.client_token == token]
    assert [launch(ec2, token=token)] == made


def test_boto3_repeats_a_lost_call_with_the_same_token(simulation: Simulation) -> None:
    before = len(simulation.instances())
    simulation.add_fault("RunInstances", count=1, lose_reply=True)
    launch(client(simulation, tries=2))
    assert len(simulation.instances()) == before + 1


def test_a_slow_call_does_not_block_other_calls(ec2: "EC2Client", simulation: Simulation) -> None:
    simulation.add_fault("RunInstances", count=1, delay_seconds=5)
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(launch, ec2)
        until(lambda: simulation.faults() == [])
        ec2.describe_instances()
        assert not slow.done()
        assert slow.result()


def test_an_invisible_instance_can_be_neither_tagged_nor_terminated(
    ec2: "EC2Client", simulation: Simulation
) -> None:
    simulation.set_options(visible_after_seconds=60)
    new = launch(ec2)
    tags: Any = [{"Key": "sef:agent", "Value": "a"}]
    not_found = ("InvalidInstanceID.NotFound", 400)
    assert refused(lambda: ec2.create_tags(Resources=[new], Tags=tags)) == not_found
    assert refused(lambda: ec2.terminate_instances(InstanceIds=[new])) == not_found
    simulation.set_options(visible_after_seconds=0)
    assert state(ec2, new) == "running"
    ec2.terminate_instances(InstanceIds=[new])
    assert state(ec2, new) == "terminated"


def test_an_invalid_value_is_rejected_with_one_line(simulation: Simulation) -> None:
    with pytest.raises(SimulationError, match="invalid pool large; expected"):
        simulation.set_pool("large", capacity=False)
    with pytest.raises(SimulationError, match="needs error_code"):
        simulation.add_fault("RunInstances")
    with pytest.raises(SimulationError, match="seconds must be from 0 to 31536000"):
        simulation.set_options(pending_seconds=-1)
    with pytest.raises(SimulationError, match="there is no instance i-none"):
        simulation.terminate("i-none")
