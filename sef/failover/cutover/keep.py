"""Let the volumes and interfaces of an agent survive the end of the instance that they are at.

A data volume that is made at the launch is deleted with its instance by default. As soon as it is a
target, its DeleteOnTermination is cleared: when it is named, when the primary becomes known, after
each promotion, and once an hour, since a launch or an operator may have set it again. Only at the
agent's own instances: a mistyped id must not change the instance of another service.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from threading import Thread

from sqlalchemy import Connection, select

from sef.agents import Agent, read_agent
from sef.cloud.errors import CloudError, Remedy
from sef.cloud.instance_ends import Attachment
from sef.context import Context
from sef.db.tables import replica_instances
from sef.errors import Unavailable
from sef.failover.cutover.formers import formers_of
from sef.failover.cutover.named_devices import (
    LOOK_EVERY,
    interfaces_of,
    name_devices,
    postpone_look,
    volumes_of,
)
from sef.notifications.events import Event, write_events, write_once
from sef.notifications.matters import in_kind
from sef.terms import NotificationKind, plural

log = logging.getLogger("sef")

URGENT_SECONDS = 2.0
"""Maximum time of a look in an emergency."""

LOOK_AGAIN_AFTER = timedelta(minutes=1)
"""Time until the next look if AWS did not return a usable answer."""


@dataclass(slots=True)
class _Found:
    """The result of a look.

    Attributes:
        kept: the attachments whose flag was cleared.
        refused: the attachments whose flag AWS refuses to clear, with the error.
        unseen: the errors of look-ups that AWS refuses.
        is_complete: False if AWS did not return a usable answer to a call.
    """

    kept: list[Attachment] = field(default_factory=list)
    refused: list[tuple[Attachment, CloudError]] = field(default_factory=list)
    unseen: list[CloudError] = field(default_factory=list)
    is_complete: bool = True


def keep_on_termination(ctx: Context, agent: Agent) -> list[str]:
    """Clear DeleteOnTermination of an agent's targets; return the warnings for an operator.

    Errors of AWS become warnings; people are told of a refusal once.
    """
    volumes, interfaces = volumes_of(agent.cutover), interfaces_of(agent.cutover)
    if not volumes and not interfaces:
        return []
    own = ctx.database.read(_own_instances, agent)
    found = _Found()
    at_volumes = _look(found, partial(ctx.ends.volumes, volumes))
    at_interfaces = _look(found, partial(ctx.ends.interfaces, interfaces))
    of_instance: defaultdict[str, list[Attachment]] = defaultdict(list)
    for one in _endangered(at_volumes, own):
        of_instance[one.instance_id].append(one)
    for instance_id, attached in of_instance.items():
        devices = {one.handle: one.resource_id for one in attached}
        _keep(found, attached, partial(ctx.ends.keep_volumes, instance_id, devices))
    for one in _endangered(at_interfaces, own):
        _keep(found, [one], partial(ctx.ends.keep_interface, one.resource_id, one.handle))
    return ctx.database.write(_record_look, ctx, agent, found)


def look_at_devices(ctx: Context, agent: Agent, *, is_urgent: bool) -> None:
    """Do the same in the control loop, where it is due.

    In an emergency SEF waits for AWS's answers for `URGENT_SECONDS` at most: the targets are about
    to be moved, and a call that hangs must not delay that.
    """
    # Set first, so that no other pass looks at the same time, and the next one does not wait again.
    ctx.database.write(postpone_look, agent.id, ctx.clock(), LOOK_AGAIN_AFTER)
    if not is_urgent:
        keep_on_termination(ctx, agent)
        return
    looking = Thread(target=_keep_in_background, args=(ctx, agent), daemon=True)
    looking.start()
    looking.join(URGENT_SECONDS)


def _keep_in_background(ctx: Context, agent: Agent) -> None:
    try:
        keep_on_termination(ctx, agent)
    except Unavailable as error:
        log.warning("SEF: the look at the targets of %s is not recorded: %s", agent.id, error)


def _own_instances(connection: Connection, agent: Agent) -> set[str]:
    """Return the primary, the former primaries and the standby of an agent."""
    replica = replica_instances.c
    standbys = connection.scalars(
        select(replica.instance_id).where(replica.live_agent_id == agent.id)
    )
    own = {*standbys, agent.instance_id}
    own |= {former.instance_id for former in formers_of(connection, agent.id, agent.instance_id)}
    return {instance_id for instance_id in own if instance_id is not None}


def _look(found: _Found, look_up: Callable[[], list[Attachment]]) -> list[Attachment]:
    try:
        return look_up()
    except CloudError as error:
        if error.remedy is Remedy.OPERATOR:
            found.unseen.append(error)
        else:
            found.is_complete = False
        return []


def _endangered(attached: Sequence[Attachment], own: Collection[str]) -> list[Attachment]:
    return [one for one in attached if one.is_deleted and one.instance_id in own]


def _keep(found: _Found, attached: list[Attachment], change: Callable[[], None]) -> None:
    try:
        change()
    except CloudError as error:
        if error.remedy is Remedy.OPERATOR:
            found.refused += [(one, error) for one in attached]
        else:
            found.is_complete = False
    else:
        found.kept += attached


def _record_look(connection: Connection, ctx: Context, agent: Agent, found: _Found) -> list[str]:
    now = ctx.clock()
    after = LOOK_EVERY if found.is_complete else LOOK_AGAIN_AFTER
    name_devices(connection, agent.id, read_agent(connection, agent.id).cutover, now)
    postpone_look(connection, agent.id, now, after)
    if found.kept:
        write_events(connection, [_kept(agent, found.kept)], now)
    warnings = []
    for one, error in found.refused:
        event = _refused(agent, one, error)
        write_once(connection, event, now)
        warnings.append(event.message)
    for error in found.unseen:
        event = _unseen(agent, error)
        write_once(connection, event, now)
        warnings.append(event.message)
    if not found.is_complete:
        warnings.append(
            "AWS did not return a usable answer, so SEF does not know if the volumes and the "
            "network interface are deleted with their instance (DeleteOnTermination). It asks "
            f"again in {LOOK_AGAIN_AFTER.total_seconds():.0f} s."
        )
    return warnings


def _kept(agent: Agent, kept: Sequence[Attachment]) -> Event:
    names = ", ".join(f"{one.resource_id} (at {one.instance_id})" for one in kept)
    targets = plural(len(kept), "target")
    return Event(
        "target_kept",
        f"{targets} would have been deleted with the instance, and SEF has cleared "
        f"DeleteOnTermination: {names}",
        agent.id,
        details={"targets": {one.resource_id: one.instance_id for one in kept}},
    )


def _refused(agent: Agent, one: Attachment, error: CloudError) -> Event:
    is_volume = one.resource_id.startswith("vol-")
    action = "ModifyInstanceAttribute" if is_volume else "ModifyNetworkInterfaceAttribute"
    return Event(
        "target_at_risk",
        f"{one.resource_id} is deleted when {one.instance_id} ends (DeleteOnTermination), and AWS "
        f"refuses to change that: {error}. SEF does not terminate {one.instance_id} until it is "
        f"changed, but AWS may. Allow ec2:{action}, or clear DeleteOnTermination of "
        f"{one.handle} yourself; SEF tries again each hour",
        agent.id,
        severity="warning",
        details={"target": one.resource_id, "instance_id": one.instance_id, "code": error.code},
        notification=NotificationKind.ALERT,
        matter=(one.resource_id, one.instance_id, in_kind(str(error))),
    )


def _unseen(agent: Agent, error: CloudError) -> Event:
    return Event(
        "target_at_risk",
        f"AWS refuses to show if the targets of {agent.id} are deleted with their instance "
        f"(DeleteOnTermination): {error}. Allow ec2:DescribeVolumes and "
        "ec2:DescribeNetworkInterfaces; SEF asks again each hour",
        agent.id,
        severity="warning",
        details={"code": error.code},
        notification=NotificationKind.ALERT,
        matter=("unseen", in_kind(str(error))),
    )
