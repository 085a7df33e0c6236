"""Inspect the target of a cutover step and plan the change that moves it to the new primary."""

from collections.abc import Collection

from sef.clock import iso
from sef.cloud.attachments import Impossible, PlannedChange
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.failover.cutover.events import step_name
from sef.failover.cutover.formers import unrelated_to
from sef.failover.cutover.holders import holders_of_target
from sef.failover.cutover.plan import PATIENCE
from sef.failover.cutover.rows import Cutover, CutoverStep, steps_of
from sef.failover.cutover.where import OTHER_SERVICE, describe_holder
from sef.terms import StepKind

TAKEN = (
    StepKind.ELASTIC_IP,
    StepKind.PRIVATE_IP,
    StepKind.NETWORK_INTERFACE,
    StepKind.VOLUME,
    StepKind.ROUTE,
)
"""Steps that take their target from its holder."""


def inspect_target(ctx: Context, cutover: Cutover, step: CutoverStep) -> PlannedChange | None:
    """Return the change that a step still needs; None if it needs none.

    A target is taken from an instance of the agent or from nobody, in an emergency too: an instance
    that is unrelated to the agent may serve with it.

    Args:
    Raises:
        NotReady: the target is in transition; inspect it again later.
        Impossible: the target cannot be moved in its present state, or is with an unrelated
            instance.
        CloudError: AWS refuses the call, or does not answer it.
    """
    change = _plan_change(ctx, cutover, step)
    if change is not None and step.kind in TAKEN:
        _require_own_holder(ctx, cutover, step, change)
    return change


def _plan_change(ctx: Context, cutover: Cutover, step: CutoverStep) -> PlannedChange | None:
    """Return the change that a step still needs, whoever holds its target."""
    new, target = cutover.new_instance_id, step.target
    attachments = ctx.attachments
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
        case StepKind.ROUTE:
            interface = attachments.place(new).interface_id
            table, destination = target["route_table_id"], target["destination_cidr"]
            return ctx.routes.route(table, destination, interface, new)
        case StepKind.WEBHOOK_BEFORE | StepKind.WEBHOOK_AFTER:
            return _plan_webhook(ctx, cutover, step)
        case _:
            raise ValueError(f"a step {step.kind} is carried out by `together`")


def _require_own_holder(
    ctx: Context, cutover: Cutover, step: CutoverStep, change: PlannedChange
) -> None:
    """Raise Impossible if the change takes the target from an instance unrelated to the agent.

    If AWS does not show the holders while the end of a holder presses, the target moves.
    """
    holders: Collection[str] | None = change.holders
    if holders is None:
        try:
            holders = holders_of_target(ctx, step.kind, step.target, cutover.new_instance_id)
        except CloudError:
            if presses(step):
                return
            raise
    refuse_unrelated(ctx, cutover, step, holders)


def presses(step: CutoverStep) -> bool:
    """Return True if the end of the holder of a step's target is known, and a promotion asked."""
    return step.ends_at is not None and not step.is_guarded


def refuse_unrelated(
    ctx: Context, cutover: Cutover, step: CutoverStep, holders: Collection[str]
) -> None:
    """Raise Impossible if one of the holders of a target is unrelated to the agent."""
    strange = set(holders) - {cutover.new_instance_id, cutover.old_instance_id}
    if not strange:
        return
    unrelated = ctx.database.read(unrelated_to, cutover.agent_id, strange)
    is_former_unknown = cutover.old_instance_id is None and not step.is_guarded
    refused = [
        describe_holder(instance_id, agent_id)
        for instance_id, agent_id in sorted(unrelated.items())
        # The old primary of an agent whose instance was never known is unrelated by the rows.
        if agent_id is not None or instance_id == OTHER_SERVICE or not is_former_unknown
    ]
    if refused:
        raise Impossible(
            f"{step_name(step)} is with {', '.join(refused)}; SEF takes a target only from a "
            f"former primary or standby of {cutover.agent_id}: move it to "
            f"{cutover.new_instance_id} by hand, or remove the target"
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
