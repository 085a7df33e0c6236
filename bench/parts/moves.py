"""Targets on their way: for how long each kind is with nobody when an operator switches.

A thread asks the simulated EC2 for each target in a loop, while SEF moves all of them to the
standby. A volume and an interface take two calls; the same two calls by boto3 alone are measured
beside it. EC2 itself needs some seconds for each, which the simulated EC2 does not.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.results import Comparison
from bench.schedule import Run
from sef.config import Settings
from sef.simulator.client import Simulation
from sef.simulator.process import ensure_running
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import ALL, SAME_ZONE, Belongings
from tests.harness import World

TWO_CALLS = ("volumes", "network_interface")
PATIENCE = 60

Look = Callable[[], Any]
"""Returns a false value while the target is with nobody."""


def measure(run: Run) -> Sequence[Comparison]:
    rounds = 1 if run.is_quick else run.rounds
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    with ExitStack() as stack:
        endpoint = ensure_running(run.home, pending_seconds=0).endpoint
        simulation = Simulation(endpoint)
        stack.callback(simulation.stop)
        settings = Settings(
            var=run.home,
            database_url=f"sqlite:///{run.home / 'sef.db'}",
            run_jobs=False,
            simulator_pending_seconds=0,
            spot_pools=",".join(SAME_ZONE),
            max_instances=0,
        )
        world = World(simulation, settings)
        stack.callback(world.close)
        sef = SmartEmergencyFallback(settings.database, settings=settings)
        stack.callback(sef.close)
        for number in range(rounds):
            run.say(f"round {number + 1}")
            for name, seconds in switch(world, sef, f"agent-{number}").items():
                ours.setdefault(name, []).append(round(seconds, 3))
            for name, seconds in by_hand(world).items():
                theirs.setdefault(name, []).append(round(seconds, 4))
    return [
        Comparison(
            f"{name}: with nobody while an operator switches",
            "s",
            figures,
            "boto3's two calls" if name in TWO_CALLS else "",
            theirs.get(name, []),
        )
        for name, figures in sorted(ours.items())
    ]


def switch(world: World, sef: SmartEmergencyFallback, agent_id: str) -> Mapping[str, float]:
    """Switch an agent with targets of all kinds; return the seconds with nobody, by target.

    Raises:
        RuntimeError: the targets have not moved in time.
    """
    primary = world.primary(sef, agent_id)
    things = Belongings(world, primary, *ALL, "routes")
    sef.register_agent(agent_id, {"cutover": things.targets})
    sef.enable_manual_replica_mode(agent_id)
    deadline = time.monotonic() + PATIENCE
    with watched(looks(things)) as gaps:
        sef.execute_manual_switch(agent_id)
        while sef.get_agent_status(agent_id)["cutover"]["status"] != "done":
            if time.monotonic() > deadline:
                raise RuntimeError(f"the targets of {agent_id} have not moved")
            sef.reconcile()
    return gaps


def by_hand(world: World) -> Mapping[str, float]:
    """Move a volume and an interface by two calls of boto3 each; return the seconds in between.

    They are with nobody until the second call returns.
    """
    old, new = world.launch(), world.launch()
    things = Belongings(world, old, *TWO_CALLS)
    ec2, gaps = things.ec2, {}
    [shown] = ec2.describe_network_interfaces(NetworkInterfaceIds=[things.interface_id])[
        "NetworkInterfaces"
    ]
    ec2.detach_volume(VolumeId=things.volume_id, InstanceId=old)
    began = time.perf_counter()
    ec2.attach_volume(VolumeId=things.volume_id, InstanceId=new, Device="/dev/sdf")
    gaps["volumes"] = time.perf_counter() - began
    ec2.detach_network_interface(AttachmentId=shown["Attachment"]["AttachmentId"])
    began = time.perf_counter()
    ec2.attach_network_interface(
        NetworkInterfaceId=things.interface_id, InstanceId=new, DeviceIndex=1
    )
    gaps["network_interface"] = time.perf_counter() - began
    return gaps


def looks(things: Belongings) -> Mapping[str, Look]:
    """Return a look at each target."""
    ec2, interfaces = things.ec2, things.ec2.describe_network_interfaces
    found: dict[str, Look] = {
        "elastic_ip": lambda: ec2.describe_addresses(AllocationIds=[things.allocation_id])[
            "Addresses"
        ][0].get("NetworkInterfaceId"),
        "private_ip": lambda: interfaces(
            Filters=[{"Name": "addresses.private-ip-address", "Values": [things.private_ip]}]
        )["NetworkInterfaces"],
        "network_interface": lambda: interfaces(NetworkInterfaceIds=[things.interface_id])[
            "NetworkInterfaces"
        ][0].get("Attachment"),
        "volumes": lambda: ec2.describe_volumes(VolumeIds=[things.volume_id])["Volumes"][0][
            "Attachments"
        ],
        "target_groups": things.registered,
        "dns": lambda: things.record()["ResourceRecords"],
        "routes": lambda: [
            route
            for route in ec2.describe_route_tables(RouteTableIds=[things.table_id])["RouteTables"][
                0
            ]["Routes"]
            if route.get("NetworkInterfaceId")
        ],
    }
    return {name: look for name, look in found.items() if name in things.targets}


@contextmanager
def watched(targets: Mapping[str, Look]) -> Iterator[Mapping[str, float]]:
    """Watch targets in threads; afterwards the mapping has the longest gap of each, in seconds."""
    gaps: dict[str, float] = {}
    over = threading.Event()

    def watch(name: str, look: Look) -> None:
        began, worst = None, 0.0
        while not over.is_set():
            asked = time.perf_counter()
            if look():
                began = None
                continue
            began = asked if began is None else began
            worst = max(worst, time.perf_counter() - began)
        gaps[name] = worst

    threads = [threading.Thread(target=watch, args=one) for one in targets.items()]
    for thread in threads:
        thread.start()
    try:
        yield gaps
    finally:
        over.set()
        for thread in threads:
            thread.join()
