"""Warn of an instance that an operator names as the primary and that cannot serve.

The registration is accepted all the same: an inventory may run ahead of EC2, and AWS may be away.
"""

import logging

from sef.cloud.ec2 import Instance
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.db.leases import deployment_name
from sef.failover.adoption import Role, adopt, has_tags
from sef.failover.instances.ending import owner_of
from sef.failover.standbys.rows import Replica, replica_of_instance
from sef.terms import ReplicaStatus

log = logging.getLogger("sef")

_ENDED = (ReplicaStatus.TERMINATED, ReplicaStatus.FAILED)


def instance_warnings(ctx: Context, agent_id: str, instance_id: str) -> list[str]:
    """Return the warnings about an instance that was named as the primary of an agent.

    Each call asks EC2 again, so a repeated registration repeats the warning.
    """
    replica = ctx.database.read(replica_of_instance, instance_id)
    try:
        instance = ctx.ec2.instances([instance_id]).get(instance_id)
    except CloudError as error:
        log.warning("SEF: EC2 was not asked about the named %s: %s", instance_id, error)
        if replica is None or replica.status not in _ENDED:
            return []
        finding = f"{instance_id} is {replica.status} by SEF's rows, and EC2 did not answer"
    else:
        if instance is not None and instance.is_alive and replica is None:
            _adopt(ctx, agent_id, instance)
        found = _finding(instance_id, instance, replica)
        if found is None:
            return [] if instance is None else _brought_back(ctx, agent_id, instance)
        finding = found
    silence = ctx.settings.silence_threshold_seconds
    if silence:
        next_step = (
            f"SEF takes it for the primary. If EC2 reports it gone and it does not report for "
            f"{silence:.0f} s, SEF replaces it"
        )
    else:
        next_step = "SEF takes it for the primary, and replaces it only after a signal"
    return [
        f"{finding}. {next_step}. If another instance serves {agent_id}, register that one: "
        f"PUT /api/agents/{agent_id} with its instance_id."
    ]


def _brought_back(ctx: Context, agent_id: str, instance: Instance) -> list[str]:
    """Warn of a group, fleet or spot request that launches another instance when this one ends."""
    owner = owner_of(dict(instance.tags))
    if owner is None and instance.spot_request_id is not None:
        try:
            request = ctx.ends.spot_request(instance.spot_request_id)
        except CloudError as error:
            log.warning("SEF: EC2 was not asked about %s: %s", instance.spot_request_id, error)
            return []
        if request is not None and request.brings_back:
            return [
                f"{instance.id} comes from the persistent spot request {request.id}. SEF cancels "
                f"the request when another instance has replaced {instance.id}; otherwise EC2 "
                "would launch or start one more."
            ]
    if owner is None:
        return []
    return [
        f"{instance.id} belongs to {owner}. When it ends, AWS may launch another instance in its "
        f"place, beside the new primary of {agent_id}; and SEF does not terminate it after a "
        "switch. Detach it first."
    ]


def _adopt(ctx: Context, agent_id: str, instance: Instance) -> None:
    """Record the launch of a named instance that has SEF's tags for the agent, but no row.

    Else it would be an unknown launch once more when the agent gets another primary.
    """
    if has_tags(instance, ctx.database.write(deployment_name), agent_id):
        reason = "an operator registered it"
        ctx.database.write(adopt, agent_id, instance, Role.PRIMARY, reason, ctx.clock())


def _finding(instance_id: str, instance: Instance | None, replica: Replica | None) -> str | None:
    """Return the reason why the instance cannot serve, as a clause; None if there is none."""
    ended = replica is not None and replica.status in _ENDED
    if instance is None:
        by_rows = f", and it is {replica.status} by SEF's rows" if replica and ended else ""
        return f"EC2 does not show {instance_id} (yet){by_rows}"
    if instance.is_gone:
        return f"{instance_id} is {instance.ec2_state} in EC2"
    if replica is not None and ended:
        return f"{instance_id} is {replica.status} by SEF's rows, and {instance.ec2_state} in EC2"
    return None
