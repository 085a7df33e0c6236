"""Check what would be lost with an instance, or launched in its place: for every termination.

Former primaries, released standbys, surplus instances and orphans are terminated by different code,
which all asks here first. An operator who names the instance overrides the reasons.
"""

from sef.agents import Agent
from sef.cloud.ec2 import Calls, Instance, timed
from sef.cloud.errors import CloudError, Remedy
from sef.cloud.instance_ends import FLEET_TAG, GROUP_TAG, SPOT_FLEET_TAG
from sef.context import Context
from sef.failover.adoption import Role, command
from sef.failover.cutover.holders import holders_of
from sef.failover.cutover.named_devices import named_among
from sef.failover.retention import Belonging, kept_by_belongings
from sef.failover.standbys.retirements import is_end_ordered
from sef.failover.standbys.rows import replica_of_instance
from sef.notifications.events import Event, write_once
from sef.terms import NotificationKind, plural


def obstacle(ctx: Context, instance: Instance) -> str | None:
    """Return the reason why an instance must not be terminated unless an operator names it.

    Raises:
        CloudError: AWS did not return a usable answer.
    """
    deleted = {device.id: device.is_deleted for device in instance.devices}
    named = ctx.database.read(named_among, deleted.keys())
    kept = kept_by_belongings(
        Belonging(one.resource_id, one.agent_id, one.dropped_at is None, deleted[one.resource_id])
        for one in named.values()
    )
    if kept is None:
        kept = _owner(ctx, instance)
    if kept is None or ctx.database.read(is_end_ordered, instance.id):
        return None
    return kept


def obstacle_of_spare(ctx: Context, instance_id: str, agent: Agent | None) -> str | None:
    """Return the same for an instance that was never a primary: a standby or an orphan.

    Unlike a former primary, it is not kept for a target whose holder SEF cannot see.

    Raises:
        CloudError: AWS did not return a usable answer.
    """
    instance = ctx.ec2.instances([instance_id]).get(instance_id)
    kept = None if instance is None else obstacle(ctx, instance)
    if kept is not None or agent is None or agent.cutover is None:
        return kept
    held = holders_of(ctx, agent.cutover, {instance_id}).held_by(instance_id)
    if not held or ctx.database.read(is_end_ordered, instance_id):
        return None
    return f"it has {plural(len(held), 'target')} of {agent.id}: {', '.join(held)}"


def with_way(kept: str, agent_id: str, instance_id: str) -> str:
    """Return a reason with the command that terminates the instance all the same."""
    return f"{kept}. To terminate it all the same: {command(agent_id, instance_id, Role.SURPLUS)}"


def cancel_request(
    ctx: Context, agent_id: str, instance: Instance | None, calls: Calls
) -> str | None:
    """Cancel the persistent spot request of an instance that is about to be terminated.

    Otherwise EC2 would launch another instance in its place. The requests of instances that SEF
    launched are not persistent. Without the right to look at a request SEF goes on, since most of
    them are not.

    Returns:
        The reason why the instance must not be terminated: the request cannot be cancelled.

    Raises:
        CloudError: AWS did not return a usable answer.
    """
    request_id = None if instance is None else instance.spot_request_id
    if instance is None or request_id is None:
        return None
    if ctx.database.read(replica_of_instance, instance.id) is not None:
        return None
    try:
        request = ctx.ends.spot_request(request_id)
    except CloudError as error:
        if error.remedy is not Remedy.OPERATOR:
            raise
        event = _unseen_request(agent_id, instance.id, request_id, error)
        ctx.database.write(write_once, event, ctx.clock())
        return None
    if request is None or not request.brings_back:
        return None
    try:
        cancel(ctx, request_id, instance.id, calls)
    except CloudError as error:
        if error.remedy is not Remedy.OPERATOR:
            raise
        if ctx.database.read(is_end_ordered, instance.id):
            return None
        return (
            f"its persistent spot request {request_id} would launch another instance, and EC2 "
            f"refuses to cancel the request: {error}"
        )
    return None


def cancel(ctx: Context, request_id: str, instance_id: str, calls: Calls) -> None:
    """Cancel a spot request, and record the call.

    Raises:
        CloudError: EC2 refused the call or did not answer.
    """
    timed(
        calls,
        "CancelSpotInstanceRequests",
        instance_id,
        lambda: ctx.ends.cancel_spot_request(request_id),
    )


def owner_of(tags: "dict[str, str]") -> str | None:
    """Return the Auto Scaling group or fleet that an instance belongs to, as a clause."""
    if GROUP_TAG in tags:
        return f"the Auto Scaling group {tags[GROUP_TAG]}"
    fleet = tags.get(FLEET_TAG) or tags.get(SPOT_FLEET_TAG)
    return None if fleet is None else f"the fleet {fleet}"


def _owner(ctx: Context, instance: Instance) -> str | None:
    """Return the group or fleet that would launch another instance in place of this one."""
    tags = dict(instance.tags)
    owner = owner_of(tags)
    if owner is None:
        return None
    if GROUP_TAG in tags:
        return (
            f"it belongs to {owner}, which launches another in its place. Detach it: "
            f"aws autoscaling detach-instances --instance-ids {instance.id} "
            f"--auto-scaling-group-name {tags[GROUP_TAG]} --should-decrement-desired-capacity"
        )
    fleet_id = tags.get(FLEET_TAG) or tags[SPOT_FLEET_TAG]
    try:
        if not ctx.ends.maintains(fleet_id):
            return None
    except CloudError as error:
        if error.remedy is not Remedy.OPERATOR:
            raise
        if "NotFound" in error.code or "NotExist" in error.code:
            return None  # EC2 forgets a deleted fleet
        return f"it belongs to {owner}, and SEF may not see if the fleet replaces it: {error}"
    return (
        f"it belongs to {owner}, which keeps its capacity and launches another in its place. "
        "Lower the capacity of the fleet first"
    )


def _unseen_request(agent_id: str, instance_id: str, request_id: str, error: CloudError) -> Event:
    return Event(
        "spot_request_unseen",
        f"AWS refuses to show the spot request {request_id} of {instance_id}: {error}. SEF "
        "terminates the instance. If the request is persistent, EC2 launches another one: then "
        f"cancel the request, and allow ec2:DescribeSpotInstanceRequests",
        agent_id,
        severity="warning",
        details={"instance_id": instance_id, "spot_request_id": request_id, "code": error.code},
        notification=NotificationKind.ALERT,
        matter=(request_id,),
    )
