"""An instance is pending, runs, and ends, by itself or by the control API."""

import time
from typing import TYPE_CHECKING, Any

from sef.simulator.client import Simulation
from tests.simulator.ec2_calls import instance, launch, refused, state
from tests.waiting import until

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


def test_a_new_instance_is_pending_and_then_runs(ec2: "EC2Client", simulation: Simulation) -> None:
    simulation.set_options(pending_seconds=600)
    new = launch(ec2)
    assert state(ec2, new) == "pending"
    assert ec2.describe_instance_status(InstanceIds=[new])["InstanceStatuses"] == []
    simulation.age(new, 600)
    assert state(ec2, new) == "running"
    statuses = ec2.describe_instance_status(InstanceIds=[new])["InstanceStatuses"]
    assert [s["InstanceState"]["Name"] for s in statuses] == ["running"]


def test_a_terminated_instance_stays_terminated(ec2: "EC2Client", simulation: Simulation) -> None:
    simulation.set_options(pending_seconds=0.1)
    new = launch(ec2)
    ec2.terminate_instances(InstanceIds=[new])
    simulation.set_options(pending_seconds=0)
    assert state(ec2, new) == "terminated"


def test_the_control_api_terminates_an_instance_without_a_notice(
    ec2: "EC2Client", simulation: Simulation
) -> None:
    new = launch(ec2)
    simulation.terminate(new)
    assert instance(ec2, new)["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_a_forgotten_instance_leaves_no_trace(ec2: "EC2Client", simulation: Simulation) -> None:
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    old = launch(ec2, token="of-the-forgotten")
    ec2.associate_address(AllocationId=address, InstanceId=old)
    simulation.interrupt(old, terminate_after_seconds=0)
    simulation.forget_instances()
    assert refused(lambda: instance(ec2, old)) == ("InvalidInstanceID.NotFound", 400)
    assert simulation.instances() == []
    (shown,) = ec2.describe_addresses(AllocationIds=[address])["Addresses"]
    assert not shown.get("InstanceId")
    new = launch(ec2, token="of-the-forgotten")
    assert new != old
    assert [i.id for i in simulation.instances()] == [new]


def test_an_interrupted_instance_ends_after_the_given_time(
    ec2: "EC2Client", simulation: Simulation
) -> None:
    new = launch(ec2)
    began = time.time()
    simulation.interrupt(new, terminate_after_seconds=0.5)
    assert [i.interrupted for i in simulation.instances() if i.id == new] == [True]
    until(lambda: state(ec2, new) == "terminated")
    assert time.time() >= began + 0.5


def test_a_new_instance_can_be_invisible_for_a_time(
    ec2: "EC2Client", simulation: Simulation
) -> None:
    simulation.set_options(visible_after_seconds=60)
    new = launch(ec2)
    assert refused(lambda: instance(ec2, new)) == ("InvalidInstanceID.NotFound", 400)
    by_id: Any = [{"Name": "instance-id", "Values": [new]}]
    assert ec2.describe_instances(Filters=by_id)["Reservations"] == []
    simulation.set_options(visible_after_seconds=0)
    assert state(ec2, new) == "running"
