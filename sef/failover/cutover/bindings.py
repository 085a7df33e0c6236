"""Remember how the targets of an agent are bound at its primary.

A new primary gets an Elastic IP at the private address, and an interface at the device index, at
which the former one had it. They are stored, since AWS no longer shows them once that instance is
gone.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

from sqlalchemy import Connection, delete

from sef.agents import Agent, read_agent
from sef.cloud.errors import CloudError, Remedy
from sef.cloud.placement import Binding
from sef.context import Context
from sef.db.statements import upsert
from sef.db.tables import cutover_bindings
from sef.devices import is_listed, same_device
from sef.failover.cutover.formers import formers_of
from sef.failover.cutover.rows import bindings_of
from sef.failover.cutover.targets import Targets

KINDS = ("elastic-ip", "private-ip", "network-interface", "volume")
"""Kinds of targets that have a binding."""


def remember(
    ctx: Context, agent: Agent, *, trusted: Collection[str] = (), formers_only: bool = False
) -> list[str]:
    """Store how each target is bound at the primary, or at a former primary that still has it.

    A target that none of them has keeps what is stored. Errors of AWS are no errors here.

    Args:
        formers_only: a cutover begins, so that the primary itself is no model.
        trusted: kinds of targets for which AWS is not asked if a binding is stored; see `KINDS`.

    Returns:
        warnings for the operator: what a new primary cannot have as this one has it.
    """
    if not agent.cutover or agent.instance_id is None:
        return []
    known, instances = ctx.database.read(_known, agent)
    if formers_only:
        instances.discard(agent.instance_id)
    found = {}
    for name, look_up in _look_ups(ctx, agent.cutover, instances):
        if name.partition(" ")[0] in trusted and name in known:
            continue
        try:
            binding = look_up()
        except CloudError as error:
            if error.remedy is Remedy.WAIT:
                break
            continue
        if binding is not None and binding.instance_id in instances:
            found[name] = binding
    if any(known.get(name) != binding for name, binding in found.items()):
        ctx.database.write(_store, agent, found)
    own = {n: b for n, b in found.items() if b.instance_id == agent.instance_id}
    return list(_warnings(agent.cutover, own))


def _known(connection: Connection, agent: Agent) -> tuple[dict[str, Binding], set[str]]:
    formers = formers_of(connection, agent.id, agent.instance_id)
    instances = {former.instance_id for former in formers} | {str(agent.instance_id)}
    return bindings_of(connection, agent.id), instances


def _store(connection: Connection, looked: Agent, found: Mapping[str, Binding]) -> None:
    """Store bindings, and forget those of targets that are no longer the agent's."""
    agent = read_agent(connection, looked.id, lock=True)
    if agent.epoch != looked.epoch:
        return  # the targets may have moved since
    wanted = set(_names(agent.cutover or {}))
    columns = cutover_bindings.c
    connection.execute(
        delete(cutover_bindings).where(
            columns.agent_id == agent.id, columns.target.not_in(sorted(wanted))
        )
    )
    rows = [
        {
            "agent_id": agent.id,
            "target": name,
            "instance_id": binding.instance_id,
            "binding": binding.to_column(),
        }
        for name, binding in found.items()
        if name in wanted
    ]
    upsert(connection, cutover_bindings, rows)


def _names(targets: Targets) -> Iterator[str]:
    for kind in ("elastic_ip", "private_ip"):
        if kind in targets:
            yield f"{kind.replace('_', '-')} {targets[kind]}"
    if "network_interface" in targets:
        yield f"network-interface {targets['network_interface']['id']}"
    for volume in targets.get("volumes", []):
        yield f"volume {volume['id']}"


def _look_ups(
    ctx: Context, targets: Targets, instances: Collection[str]
) -> Iterator[tuple[str, Callable[[], Binding | None]]]:
    """Yield the name of each target, and a call that returns its binding."""
    attachments = ctx.attachments
    calls: dict[str, Callable[[str], Binding | None]] = {
        "elastic-ip": attachments.binding_of_address,
        "private-ip": partial(attachments.binding_of_private_ip, instances=instances),
        "network-interface": attachments.binding_of_interface,
        "volume": attachments.binding_of_volume,
    }
    for name in _names(targets):
        kind, _, target = name.partition(" ")
        yield name, partial(calls[kind], target)


def _warnings(targets: Targets, bindings: Mapping[str, Binding]) -> Iterator[str]:
    interface = targets.get("network_interface", {}).get("id")
    for field in ("elastic_ip", "private_ip"):
        binding = bindings.get(f"{field.replace('_', '-')} {targets.get(field)}")
        if binding is None or binding.interface_id == interface:
            continue
        is_moved = field == "private_ip" or targets.get("private_ip") == binding.private_ip
        if not binding.is_first and not is_moved:
            yield (
                f"cutover.{field}: {targets[field]} is at {binding.private_ip}, a secondary private"
                f" address of {binding.instance_id} that does not move: name it as private_ip too"
            )
        elif binding.device_index and not (is_moved and field == "elastic_ip"):
            yield (
                f"cutover.{field}: {targets[field]} is at {binding.interface_id}, the interface "
                f"with device index {binding.device_index} of {binding.instance_id}: name it as "
                "network_interface too, or give each new primary an interface there"
            )
    for volume in targets.get("volumes", []):
        binding = bindings.get(f"volume {volume['id']}")
        device = volume["device"]
        held_as = None if binding is None else binding.device
        if device != held_as and not is_listed(device):
            yield (
                f"cutover.volumes: EC2 does not list {device} as a device name for volumes; name "
                "one such as /dev/sdf"
            )
        elif held_as is not None and same_device(held_as) != same_device(device):
            yield (
                f"cutover.volumes: {volume['id']} is attached as {held_as}, and SEF will attach it "
                f"to a new primary as {device}"
            )
