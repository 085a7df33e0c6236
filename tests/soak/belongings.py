"""Let the agents of the random stories have targets of each kind, and check what happens to them.

A volume, an interface and a private address bind their agent to a zone and a subnet. The primary
can be elsewhere all the same: an operator names any instance, and an emergency launches anywhere.
Then the targets stay where they are, and the cutover waits.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.failover.cutover.cutover_targets import Belongings
from tests.harness import ALIVE
from tests.soak.harness import Stage
from tests.soak.rules import StoryRules

MOBILE = ("elastic_ip", "target_groups", "dns", "routes")
"""Targets that follow to every zone."""
BOUND = ("private_ip", "network_interface", "volumes")
"""Targets that follow within their zone or subnet only."""
SINGLE = {*BOUND, "elastic_ip"}
"""Targets that one instance has at a time; SEF ends no instance that has one."""
ZONE = "us-east-1a"
"""The zone of the first primaries, and so of the targets that are bound."""

Obstacle = Callable[[Stage, str], Callable[[], Any]]
"""Takes away what a standby needs for a target, and returns the undoing."""


def _use_the_device(stage: Stage, standby: str) -> Callable[[], Any]:
    zone = stage.described(standby)["Placement"]["AvailabilityZone"]
    volume = stage.client.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
    stage.client.attach_volume(VolumeId=volume, InstanceId=standby, Device="/dev/sdf")
    return lambda: stage.client.detach_volume(VolumeId=volume)


def _use_the_index(stage: Stage, standby: str) -> Callable[[], Any]:
    subnet = stage.described(standby)["SubnetId"]
    created = stage.client.create_network_interface(SubnetId=subnet)["NetworkInterface"]
    attached = stage.client.attach_network_interface(
        NetworkInterfaceId=created["NetworkInterfaceId"], InstanceId=standby, DeviceIndex=1
    )
    return lambda: stage.client.detach_network_interface(AttachmentId=attached["AttachmentId"])


def _use_the_address(stage: Stage, standby: str) -> Callable[[], Any]:
    interface = _first_interface(stage, standby)
    other = stage.client.allocate_address(Domain="vpc")["AllocationId"]
    stage.client.associate_address(AllocationId=other, NetworkInterfaceId=interface)
    return lambda: stage.client.release_address(AllocationId=other)


def _use_all_addresses(stage: Stage, standby: str) -> Callable[[], Any]:
    interface = _first_interface(stage, standby)
    assigned = stage.client.assign_private_ip_addresses(
        NetworkInterfaceId=interface, SecondaryPrivateIpAddressCount=9
    )["AssignedPrivateIpAddresses"]
    addresses = [one["PrivateIpAddress"] for one in assigned]
    return lambda: stage.client.unassign_private_ip_addresses(
        NetworkInterfaceId=interface, PrivateIpAddresses=addresses
    )


def _first_interface(stage: Stage, instance_id: str) -> str:
    interfaces = stage.described(instance_id)["NetworkInterfaces"]
    first = next(one for one in interfaces if one["Attachment"]["DeviceIndex"] == 0)
    return str(first["NetworkInterfaceId"])


OBSTACLES: dict[str, Obstacle] = {
    "device": _use_the_device,
    "index": _use_the_index,
    "address": _use_the_address,
    "addresses": _use_all_addresses,
}


def data_made_at_launch(stage: Stage, belongings: Belongings, primary: str) -> None:
    """Let the named volume end with its instance, as a volume made at the launch does."""
    if "volumes" not in belongings.targets:
        return
    [volume] = belongings.targets["volumes"]
    mapping: Any = {"DeviceName": volume["device"], "Ebs": {"DeleteOnTermination": True}}
    stage.client.modify_instance_attribute(InstanceId=primary, BlockDeviceMappings=[mapping])


class Guardian:
    """Watches the calls that end instances: none may have a target at that moment.

    Attributes:
        named: instances that an operator has named as surplus.
        robbed: descriptions of the instances that were ended although they had a target.
    """

    def __init__(self, stage: Stage, belongings: Mapping[str, Belongings]) -> None:
        self._stage = stage
        self._belongings = belongings
        self.named: set[str] = set()
        self.robbed: list[str] = []
        stage.on_termination = self._look

    def _look(self, instance_ids: Collection[str]) -> None:
        for instance_id in {*instance_ids} - self.named:
            for agent_id, things in self._belongings.items():
                # While a fault makes the questions fail, nothing can be seen.
                with suppress(ClientError, BotoCoreError, KeyError, StopIteration):
                    named = {*(self._stage.agent(agent_id).cutover or {})}
                    held = things.held(instance_id) & SINGLE & named
                    if held:
                        self.robbed.append(f"{instance_id} had {sorted(held)} of {agent_id}")


class MovingTargets(StoryRules):
    """Rules about targets that an instance can be unable to take."""

    @rule(
        worker=st.integers(0, 1),
        agent_id=st.sampled_from(["a", "b"]),
        obstacle=st.sampled_from([None, *OBSTACLES]),
    )
    def switch_as_foretold(self, worker: int, agent_id: str, obstacle: str | None) -> None:
        """Compare a dry run with the switch after it, to a standby that lacks something.

        The dry run has named a target that does not follow, and it stays with the old primary. The
        others may stay with it: no target leaves before all of them can.
        """
        world = self.world
        world.clear()
        if agent_id not in self.belongings:
            return
        things, old = self.belongings[agent_id], world.agent(agent_id).instance_id
        for mode in ("auto-switch off", "auto-terminate off", "manual on"):
            self._set_mode(worker, agent_id, mode)
        for _ in range(2):
            self._do(worker, lambda sef: sef.reconcile(), None)
        standby = world.standby(agent_id)
        if standby is None or standby.status != "ready" or not self._is_settled(agent_id):
            return
        new = str(standby.instance_id)
        if world.state(new) != "running" or world.agent(agent_id).instance_id != old:
            return
        with suppress(ClientError):  # the standby has the obstacle of an earlier step
            undo = OBSTACLES[obstacle](world, new) if obstacle else lambda: None
            self._switch(worker, agent_id, things, str(old), new)
            with suppress(ClientError):  # AWS took the standby away with the obstacle
                undo()
            self.tally["switches as foretold"] += 1

    def _is_settled(self, agent_id: str) -> bool:
        """Return True if the targets are with a primary that runs, and no incident is open."""
        world = self.world
        agent, named = world.agent(agent_id), {*(world.agent(agent_id).cutover or {})}
        incidents = world.rows("incidents", agent_id)
        return (
            agent.instance_id is not None
            and world.state(agent.instance_id) == "running"
            and not any(incident.open_agent_id for incident in incidents)
            and {*self.belongings[agent_id].targets} <= named
            and self.belongings[agent_id].held(agent.instance_id) >= named & {*MOBILE, *BOUND}
        )

    def _switch(self, worker: int, agent_id: str, things: Belongings, old: str, new: str) -> None:
        world = self.world
        rehearsed = self._do(
            worker, lambda sef: sef.execute_manual_switch(agent_id, dry_run=True), None
        )
        if rehearsed is None:
            return
        switched = self._do(worker, lambda sef: sef.execute_manual_switch(agent_id), None)
        if switched is None or switched["new_instance_id"] != new:
            return
        world.clock.advance(61)
        self._do(1 - worker, lambda sef: sef.reconcile(), None)
        warnings = " ".join(rehearsed["warnings"])
        staying = {*things.targets} - things.held(new)
        named = {name for name in staying if f"cutover.{name}: " in warnings}
        assert named or not staying, f"the dry run did not name {staying}: {warnings}"
        robbed = (staying & SINGLE) - things.held(old)
        assert not robbed, f"{robbed} of {agent_id} are with nobody"
        self.tally["targets that stayed"] += len(staying)


def check_belongings(stage: Stage, belongings: Mapping[str, Belongings]) -> None:
    """Check that every target ends at the current primary, or exists where that cannot be."""
    for agent_id, things in belongings.items():
        _check_that_all_exist(things)
        agent = stage.agent(agent_id)
        if agent.instance_id is None:
            continue
        newest = [c for c in stage.rows("cutovers", agent_id) if c.epoch == agent.epoch]
        held = things.held(agent.instance_id)
        expected = {*things.targets}
        if is_away(stage, agent.instance_id) and expected & {*BOUND}:
            expected.clear()  # no target leaves before all of them can
        else:
            assert not newest or newest[0].status == "done", (
                f"the cutover of {agent_id} is {newest[0].status}"
            )
        assert held >= expected, f"{agent.instance_id} has only the targets {held} of {agent_id}"
        # A primary that an operator replaced belongs to the operator, and stays registered.
        if "target_groups" in things.targets:
            registered = set(things.registered()) - {agent.instance_id}
            left = {e.details["old_instance_id"] for e in stage.promotions(agent_id)}
            assert not registered & left, f"former primaries {registered & left} still get traffic"
        stage.tally["cutovers seen to be complete"] += 1


def _check_that_all_exist(things: Belongings) -> None:
    """Check that nothing that was named has been deleted."""
    if "volumes" in things.targets:
        things.ec2.describe_volumes(VolumeIds=[things.volume_id])
    if "network_interface" in things.targets:
        things.ec2.describe_network_interfaces(NetworkInterfaceIds=[things.interface_id])


def is_away(stage: Stage, instance_id: str) -> bool:
    """Return True if an instance is where the bound targets cannot follow."""
    instance = stage.instances().get(instance_id)
    return instance is not None and not instance.pool.endswith(f".{ZONE}")


def holders_of(stage: Stage, belongings: Mapping[str, Belongings]) -> set[str]:
    """Return the instances that have a bound target of an agent whose primary is away."""
    away = {
        agent_id: things
        for agent_id, things in belongings.items()
        if is_away(stage, str(stage.agent(agent_id).instance_id))
    }
    running = [i.id for i in stage.instances().values() if i.state in ALIVE]
    return {one for things in away.values() for one in running if things.held(one) & {*BOUND}}
