"""Inspect the target of a cutover step and plan the change that moves it to the new primary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sef.clock import iso
from sef.cloud.attachments import Binding, Impossible, NotReady, PlannedChange
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.failover.cutover.carriers import holder_name
from sef.failover.cutover.events import step_name
from sef.failover.cutover.guard import require_own_holder
from sef.failover.cutover.holders import holders_of_target
from sef.failover.cutover.plan import PATIENCE, StepState
from sef.failover.cutover.rows import Cutover, CutoverStep, steps_of
from sef.failover.cutover.taken import Taken
from sef.terms import StepKind, StepStatus

DETACHED = (StepKind.VOLUME, StepKind.NETWORK_INTERFACE)
"""Steps whose target is with nobody between two calls."""

ONE_CALL = (StepKind.ELASTIC_IP, StepKind.PRIVATE_IP, StepKind.ROUTE)
"""Steps that take their target from its holder with the call that gives it."""


@dataclass(frozen=True, slots=True)
class DueStep:
    """The step of a cutover to try now.

    Attributes:
        former: the former primaries of the agent, if the step is one of a target group or record.
        steps: all steps of the cutover, with their states.
        bindings: how the former primaries had the targets, by `holder_name`.
    """

    cutover: Cutover
    step: CutoverStep
    former: set[str] = field(default_factory=set)
    steps: Sequence[tuple[CutoverStep, StepState]] = ()
    bindings: Mapping[str, Binding] = field(default_factory=dict)

    @property
    def is_calm(self) -> bool:
        """True if nothing presses: no end of an instance that may hold the target is known."""
        is_open_question = self.cutover.deadline is not None and self.cutover.looked_at is None
        return self.step.ends_at is None and not is_open_question


@dataclass(frozen=True, slots=True)
class GoingBack:
    """A change that puts a target back to the instance that serves.

    Attributes:
        seen: fingerprint of the new primary that was refused the target.
    """

    change: PlannedChange
    seen: str


def inspect_target(ctx: Context, due: DueStep) -> PlannedChange | GoingBack | None:
    """Return the change that a step still needs; None if it needs none.

    A target is taken from an instance of the agent or from nobody, in an emergency too: an instance
    that is unrelated to the agent may serve with it.

    Raises:
        NotReady: the target is in transition; inspect it again later.
        Impossible: the target cannot be moved in its present state, or is with an unrelated
            instance.
        CloudError: AWS refuses the call, or does not answer it.
    """
    step = due.step
    if step.kind in DETACHED and due.is_calm:
        back = _go_back(ctx, due, Taken.read(step.taken_from))
        if back is not None:
            return back
    change = _plan(ctx, due, step)
    if change is not None and step.kind in (*DETACHED, *ONE_CALL):
        require_own_holder(ctx, due.cutover, step, change)
    if change is not None and change.holder is not None and due.is_calm:
        _require_the_others(ctx, due, change.holder)
    return change


def _plan(ctx: Context, due: DueStep, step: CutoverStep) -> PlannedChange | None:
    cutover, calm = due.cutover, due.is_calm
    new, target = cutover.new_instance_id, step.target
    attachments = ctx.attachments
    binding = due.bindings.get(holder_name(step.kind, target) or "")
    match step.kind:
        case StepKind.RUNNING:
            attachments.running(new)
            return None
        case StepKind.ELASTIC_IP:
            return attachments.elastic_ip(target, new, binding, calm=calm)
        case StepKind.PRIVATE_IP:
            return attachments.private_ip(target, new, binding, calm=calm)
        case StepKind.NETWORK_INTERFACE:
            index = device_index(target["device_index"], binding)
            return attachments.network_interface(target["id"], index, new, calm=calm)
        case StepKind.VOLUME:
            return attachments.volume(target["id"], target["device"], new, calm=calm)
        case StepKind.ROUTE:
            interface = attachments.place(new).interface_id
            table, destination = target["route_table_id"], target["destination_cidr"]
            return ctx.routes.route(table, destination, interface, new)
        case StepKind.WEBHOOK_BEFORE | StepKind.WEBHOOK_AFTER:
            return _plan_webhook(ctx, cutover, step)
        case _:
            raise ValueError(f"a step {step.kind} is carried out by `together`")


def device_index(named: int, binding: Binding | None) -> int:
    """Return the device index of an interface: 1, the default, stands for that at the primary."""
    bound = None if binding is None else binding.device_index
    return bound if named == 1 and bound else named


def _go_back(ctx: Context, due: DueStep, taken: Taken) -> GoingBack | None:
    """Return the change that puts a refused target back, if the instance that gave it runs.

    Raises:
        Impossible: the target went back, and the new primary is as it was when it was refused.
    """
    giver, step = taken.instance_id, due.step
    if giver is None or taken.refusal is None:
        return None
    holders = holders_of_target(ctx, step.kind, step.target)
    seen = ctx.attachments.place(due.cutover.new_instance_id).fingerprint
    if holders:
        if taken.seen == seen and due.cutover.new_instance_id not in holders:
            raise Impossible(taken.refusal)
        return None
    shown = ctx.attachments.shown([giver]).get(giver)
    if shown is None or shown.state != "running":
        return None
    bound, target_id = taken.bound or {}, step.target["id"]
    if step.kind is StepKind.VOLUME:
        change = ctx.attachments.volume_back(target_id, bound["device"], giver)
    else:
        change = ctx.attachments.interface_back(target_id, bound["device_index"], giver)
    return GoingBack(change, seen)


def _require_the_others(ctx: Context, due: DueStep, holder: str) -> None:
    """Raise Impossible if the new primary cannot take another target that the holder may give.

    Before the first target leaves an instance that serves, all of them are looked at: the instance
    would serve without a part of them. A target that moves with another one is not looked at.
    """
    others = [
        (step, state)
        for step, state in due.steps
        if step.kind in (*DETACHED, *ONE_CALL) and step.position != due.step.position
    ]
    if any(step.status is StepStatus.DONE or step.taken_from for step, _ in others):
        return
    for other, state in others:
        if not state.is_unfinished or state.after or other.ends_at is not None:
            continue
        try:
            _plan(ctx, due, other)
        except NotReady:
            continue
        except (Impossible, CloudError) as error:
            raise Impossible(
                f"{holder} keeps it, since {due.cutover.new_instance_id} cannot take "
                f"{step_name(other)}: {error}"
            ) from error


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
