"""The simulated EC2 lets volumes, interfaces, targets and spot requests end as AWS does."""

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from sef.cloud.clients import Clients
from sef.simulator.client import Simulation

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client

POOL = "m5.large.us-east-1a"


@pytest.fixture
def clients(simulation: Simulation) -> Clients:
    return Clients("us-east-1", simulation.endpoint, simulated=True)


def launch(ec2: "EC2Client", **more: Any) -> str:
    parameters: dict[str, Any] = {
        "LaunchTemplate": {"LaunchTemplateName": "sef-default"},
        "Placement": {"AvailabilityZone": "us-east-1a"},
        "MinCount": 1,
        "MaxCount": 1,
    }
    return ec2.run_instances(**parameters | more)["Instances"][0]["InstanceId"]


def spot(kind: str, behavior: str = "terminate") -> dict[str, Any]:
    options = {"SpotInstanceType": kind, "InstanceInterruptionBehavior": behavior}
    return {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": options}}


def described(ec2: "EC2Client", instance_id: str) -> Any:
    return ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]


def request(ec2: "EC2Client", request_id: str) -> Any:
    answer = ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[request_id])
    return answer["SpotInstanceRequests"][0]


def running(simulation: Simulation) -> list[str]:
    return [i.id for i in simulation.instances() if i.state in ("pending", "running")]


@pytest.mark.parametrize("flag", [None, True, False])
def test_volume_made_at_the_launch_is_deleted_unless_told_otherwise(
    clients: Clients, flag: bool | None
) -> None:
    ebs: Any = {"VolumeSize": 1} | ({} if flag is None else {"DeleteOnTermination": flag})
    instance_id = launch(clients.ec2, BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": ebs}])
    mappings = described(clients.ec2, instance_id)["BlockDeviceMappings"]
    [volume_id] = [m["Ebs"]["VolumeId"] for m in mappings if m["DeviceName"] == "/dev/sdf"]
    [volume] = clients.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"]
    assert volume["Attachments"][0]["DeleteOnTermination"] is (flag is not False)
    clients.ec2.terminate_instances(InstanceIds=[instance_id])
    left = clients.ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": [volume_id]}])
    assert len(left["Volumes"]) == (flag is False)


def test_attribute_of_a_device_that_is_not_there_is_refused(clients: Clients) -> None:
    instance_id = launch(clients.ec2)
    change: Any = [{"DeviceName": "/dev/sdz", "Ebs": {"DeleteOnTermination": False}}]
    with pytest.raises(ClientError, match="InvalidInstanceAttributeValue"):
        clients.ec2.modify_instance_attribute(InstanceId=instance_id, BlockDeviceMappings=change)


def test_deregistered_target_drains_for_the_delay_of_its_group(
    clients: Clients, simulation: Simulation
) -> None:
    instance_id = launch(clients.ec2)
    vpc = described(clients.ec2, instance_id)["VpcId"]
    group = clients.elbv2.create_target_group(
        Name="draining", Protocol="HTTP", Port=80, VpcId=vpc, TargetType="instance"
    )
    arn = group["TargetGroups"][0]["TargetGroupArn"]

    def states() -> list[str]:
        health = clients.elbv2.describe_target_health(TargetGroupArn=arn)
        return [t["TargetHealth"]["State"] for t in health["TargetHealthDescriptions"]]

    simulation.set_options(draining_seconds=1000)
    clients.elbv2.register_targets(TargetGroupArn=arn, Targets=[{"Id": instance_id}])
    clients.elbv2.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": instance_id}])
    assert states() == ["draining"]
    clients.elbv2.register_targets(TargetGroupArn=arn, Targets=[{"Id": instance_id}])
    assert "draining" not in states()
    clients.elbv2.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": instance_id}])
    simulation.set_options(draining_seconds=0)
    assert states() == []


def test_persistent_request_launches_another_instance(
    clients: Clients, simulation: Simulation
) -> None:
    ec2 = clients.ec2
    first = launch(ec2, **spot("persistent"))
    request_id = described(ec2, first)["SpotInstanceRequestId"]
    ec2.terminate_instances(InstanceIds=[first])
    [second] = running(simulation)
    assert request(ec2, request_id)["InstanceId"] == second
    assert described(ec2, second)["SpotInstanceRequestId"] == request_id
    ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[request_id])
    assert running(simulation) == [second], "the cancellation leaves a running instance"
    ec2.terminate_instances(InstanceIds=[second])
    assert running(simulation) == []


def test_one_time_request_is_closed_with_its_instance(
    clients: Clients, simulation: Simulation
) -> None:
    instance_id = launch(clients.ec2, **spot("one-time"))
    request_id = described(clients.ec2, instance_id)["SpotInstanceRequestId"]
    clients.ec2.terminate_instances(InstanceIds=[instance_id])
    assert running(simulation) == []
    assert request(clients.ec2, request_id)["State"] == "closed"


@pytest.mark.parametrize("behavior", ["stop", "hibernate"])
def test_interrupted_instance_is_stopped_and_started_again(
    clients: Clients, simulation: Simulation, behavior: str
) -> None:
    instance_id = launch(clients.ec2, **spot("persistent", behavior))
    simulation.set_pool(POOL, capacity=False)
    before = described(clients.ec2, instance_id)["LaunchTime"]
    simulation.interrupt(instance_id, terminate_after_seconds=0)
    assert described(clients.ec2, instance_id)["State"]["Name"] == "stopped"
    simulation.set_pool(POOL, capacity=True)
    assert running(simulation) == [instance_id]
    assert described(clients.ec2, instance_id)["LaunchTime"] >= before


def test_cancellation_terminates_a_stopped_instance(
    clients: Clients, simulation: Simulation
) -> None:
    instance_id = launch(clients.ec2, **spot("persistent", "stop"))
    request_id = described(clients.ec2, instance_id)["SpotInstanceRequestId"]
    clients.ec2.stop_instances(InstanceIds=[instance_id])
    assert request(clients.ec2, request_id)["State"] == "disabled"
    clients.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[request_id])
    assert described(clients.ec2, instance_id)["State"]["Name"] == "terminated"
    assert running(simulation) == []
