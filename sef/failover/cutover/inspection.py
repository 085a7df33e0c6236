"""Inspect the target of a cutover step and plan the change that moves it to the new primary."""

from typing import Any

from sef.clock import iso
from sef.cloud.attachments import Impossible, PlannedChange
from sef.context import Context
from sef.failover.cutover.events import step_name
from sef.failover.cutover.holders import holders_of_target
from sef.failover.cutover.plan import PATIENCE
from sef.failover.cutover.rows import Cutover, CutoverStep, steps_of
from sef.terms import StepKind


def inspect_target(
    ctx: Context, cutover: Cutover, step: CutoverStep, former: set[str]
) -> PlannedChange | None:
    """Return the change that a step still needs; None if it needs none.

    Args:
        former: the former primaries: a `deregister` step takes them out of a target group, and a
            guarded step takes its target from no other instance.

    Raises:
        NotReady: the target is in transition; inspect it again later.
        Impossible: the target cannot be moved in its present state.
        CloudError: AWS refuses the call, or does not answer it.
    """
    new, target = cutover.new_instance_id, step.target
    attachments, traffic = ctx.attachments, ctx.traffic
    if step.is_guarded:
        _require_own_holder(ctx, cutover, step, former)
    match step.kind:
        case StepKind.RUNNING:
            attachments.running(new)
            return None
        case StepKind.ELASTIC_IP:
            return attachments.elastic_ip(target, new)
        case StepKind.PRIVATE_IP:
            return attachments.private_ip(target, new)
        case StepKind.NETWORK_INTERFACE:
            return attachments.network_interface(target["id"], target["device_index"], new)
        case StepKind.VOLUME:
            return attachments.volume(target["id"], target["device"], new)
        case StepKind.REGISTER:
            return traffic.registered(target["arn"], target.get("port"), new)
        case StepKind.HEALTHY:
            traffic.healthy(target["arn"], target.get("port"), new)
            return None
        case StepKind.DEREGISTER:
            return traffic.deregistered(target["arn"], former)
        case StepKind.DNS:
            return _inspect_record(ctx, target, new)
        case StepKind.WEBHOOK_BEFORE | StepKind.WEBHOOK_AFTER:
            return _plan_webhook(ctx, cutover, step)


def _require_own_holder(
    ctx: Context, cutover: Cutover, step: CutoverStep, former: set[str]
) -> None:
    """Raise Impossible if an instance holds the target that was never the agent's primary."""
    holders = holders_of_target(ctx, step.kind, step.target)
    strange = sorted(holders - former - {cutover.new_instance_id})
    if strange:
        raise Impossible(
            f"{step_name(step)} is with {', '.join(strange)}, which was never the primary of "
            f"{cutover.agent_id}; without a promotion SEF takes a target only from a former "
            f"primary: move it to {cutover.new_instance_id} by hand, or remove the target"
        )


def _inspect_record(ctx: Context, target: dict[str, Any], instance_id: str) -> PlannedChange | None:
    place = ctx.attachments.place(instance_id)
    address = place.public_ip if target["address"] == "public" else place.private_ip
    if address is None:
        raise Impossible(f"{instance_id} has no public IP address for record {target['name']}")
    return ctx.traffic.record(
        target["zone_id"], target["name"], target["type"], address, target.get("ttl")
    )


def _plan_webhook(ctx: Context, cutover: Cutover, step: CutoverStep) -> PlannedChange:
    """Return the POST to a webhook, which every attempt sends with the same Idempotency-Key."""
    event = step.kind.removeprefix("webhook-")
    body = {
        "event": f"cutover.{event}",
        "agent_id": cutover.agent_id,
        "incident_id": cutover.incident_id,
        "epoch": cutover.epoch,
        "old_instance_id": cutover.old_instance_id,
        "new_instance_id": cutover.new_instance_id,
        "pool_id": cutover.pool_id,
        "deadline": iso(cutover.deadline),
        "steps": [
            {"kind": s.kind, "target": s.target, "status": s.status, "error": s.error}
            for s in ctx.database.read(steps_of, cutover.id)
            if not s.kind.startswith("webhook")
        ],
    }

    def send() -> None:
        ctx.http.post_json(
            step.target,
            body,
            timeout=min(PATIENCE[step.kind].total_seconds(), 10.0),
            headers={"Idempotency-Key": f"{cutover.id}-{event}"},
        )

    return PlannedChange("sent", send)
