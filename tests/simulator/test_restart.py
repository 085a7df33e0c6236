"""The simulated EC2 keeps its state over a restart, and each folder has its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

import sef
from sef.simulator.client import Simulation, SimulationError
from sef.simulator.process import ensure_running, find_running
from tests.waiting import LIMIT, until

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "simulated"
    stop_simulators_under(tmp_path)


def stop_simulators_under(path: Path) -> None:
    for info in path.rglob("simulated-ec2.json"):
        with suppress(SimulationError):
            Simulation(json.loads(info.read_text())["endpoint"]).stop()


def connect(simulation: Simulation) -> "EC2Client":
    return boto3.client(
        "ec2",
        endpoint_url=simulation.endpoint,
        region_name="us-east-1",
        aws_access_key_id="simulated",
        aws_secret_access_key="simulated",
    )


def launch(ec2: "EC2Client", token: str) -> Any:
    return ec2.run_instances(
        LaunchTemplate={"LaunchTemplateName": "sef-default"},
        InstanceMarketOptions={"MarketType": "spot"},
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "sef:attempt", "Value": token}]}
        ],
        ClientToken=token,
        MinCount=1,
        MaxCount=1,
    )["Instances"][0]


def launch_two(ec2: "EC2Client") -> list[str]:
    answer = ec2.run_instances(
        LaunchTemplate={"LaunchTemplateName": "sef-default"},
        InstanceType="m5.large",
        Placement={"AvailabilityZone": "us-east-1c"},
        InstanceMarketOptions={"MarketType": "spot"},
        ClientToken="several",
        MinCount=1,
        MaxCount=2,
    )
    return [instance["InstanceId"] for instance in answer["Instances"]]


def all_reservations(ec2: "EC2Client") -> list[Any]:
    pages = ec2.get_paginator("describe_instances").paginate()
    return [reservation for page in pages for reservation in page["Reservations"]]


def kill(simulation: Simulation) -> None:
    os.kill(simulation.health()["pid"], signal.SIGKILL)
    until(lambda: not simulation._answers())


def test_a_killed_simulator_restarts_with_its_state(folder: Path) -> None:
    simulation = ensure_running(folder, pending_seconds=0)
    ec2 = connect(simulation)
    instances = [launch(ec2, f"token-{n}") for n in range(5)]
    ec2.create_tags(Resources=[instances[0]["InstanceId"]], Tags=[{"Key": "later", "Value": "yes"}])
    ec2.terminate_instances(InstanceIds=[instances[1]["InstanceId"]])
    simulation.terminate(instances[2]["InstanceId"])
    simulation.age(instances[3]["InstanceId"], 600)
    simulation.set_pool("m5.large.us-east-1b", capacity=False, price=Decimal("0.09"))
    simulation.set_pool("m5.large.us-east-1c", room=3)
    grouped = launch_two(ec2)
    simulation.add_fault("RunInstances", count=1, error_code="InternalError")
    simulation.throttle("StopInstances", count=3)
    with pytest.raises(ClientError, match="InvalidSubnetID"):
        # The first attempt uses the fault up; boto3 repeats the call.
        ec2.run_instances(ImageId="ami-1", MinCount=1, MaxCount=1, SubnetId="subnet-none")
    before = all_reservations(ec2)
    launch_times = [r["Instances"][0]["LaunchTime"] for r in before]
    assert min(launch_times) == launch_times[3] < launch_times[0] - timedelta(seconds=590)
    faults, pools = simulation.faults(), simulation.pools()

    kill(simulation)
    simulation = ensure_running(folder, pending_seconds=0)

    ec2 = connect(simulation)
    assert all_reservations(ec2) == before
    assert simulation.faults() == faults
    assert [rule["action"] for rule in faults] == ["StopInstances"]
    assert simulation.pools() == pools
    assert [pool.room for pool in pools if pool.pool == "m5.large.us-east-1c"] == [1]
    assert launch_two(ec2) == grouped
    assert launch(ec2, "token-4")["InstanceId"] == instances[4]["InstanceId"]
    assert launch(ec2, "token-9")["InstanceId"] not in {i["InstanceId"] for i in instances}


def test_an_incomplete_last_line_of_the_journal_is_dropped(folder: Path) -> None:
    simulation = ensure_running(folder, pending_seconds=0)
    kept = launch(connect(simulation), "kept")["InstanceId"]
    kill(simulation)
    with (folder / "simulated-ec2.journal").open("a") as journal:
        journal.write('{"at":1,"call":{"method":"PO')

    simulation = ensure_running(folder)
    launch(connect(simulation), "after")
    assert simulation.instances()[0].id == kept
    simulation.stop()
    written = (folder / "simulated-ec2.journal").read_text().splitlines()
    assert all(json.loads(line) for line in written)
    assert sum("call" in json.loads(line) for line in written) == 2


def test_a_failed_start_gives_the_reason_in_one_line(folder: Path) -> None:
    folder.mkdir()
    (folder / "simulated-ec2.journal").write_text("not a journal\n")
    with pytest.raises(SimulationError, match=r"line 1, is not JSON; move the file away") as caught:
        ensure_running(folder)
    assert "\n" not in str(caught.value)


def test_two_folders_have_separate_simulators(tmp_path: Path, folder: Path) -> None:
    with ThreadPoolExecutor() as threads:
        one, other = threads.map(ensure_running, [folder, tmp_path / "other"])
    launch(connect(one), "token")
    assert one.endpoint != other.endpoint
    assert len(one.instances()) == 1
    assert other.instances() == []


def test_processes_that_start_it_at_once_share_one_simulator_that_outlives_them(
    folder: Path,
) -> None:
    program = (
        "import pathlib, sys; from sef.simulator.process import ensure_running;"
        "print(ensure_running(pathlib.Path(sys.argv[1])).endpoint)"
    )
    home = Path(sef.__file__).resolve().parent.parent
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, cwd=home
        )
        for _ in range(4)
    ]
    endpoints = {process.communicate(timeout=LIMIT)[0].decode().strip() for process in processes}
    assert endpoints == {ensure_running(folder).endpoint}


def test_a_stopped_simulator_starts_again_with_its_port_and_state(folder: Path) -> None:
    simulation = ensure_running(folder)
    instance = launch(connect(simulation), "token")["InstanceId"]
    simulation.stop()
    assert find_running(folder) is None
    again = ensure_running(folder)
    assert again.endpoint == simulation.endpoint
    assert [i.id for i in again.instances()] == [instance]


def test_forgotten_instances_stay_forgotten_after_a_restart(folder: Path) -> None:
    simulation = ensure_running(folder, pending_seconds=0)
    ec2 = connect(simulation)
    ended, _ = launch(ec2, "ended"), launch(ec2, "running")
    simulation.terminate(ended["InstanceId"])
    simulation.forget_instances()
    launch(ec2, "later")
    before = all_reservations(ec2)
    kill(simulation)
    restarted = ensure_running(folder, pending_seconds=0)
    assert all_reservations(connect(restarted)) == before
    assert [i.client_token for i in restarted.instances()] == ["later"]
