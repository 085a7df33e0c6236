"""Take a target from an instance of the agent or from nobody, never from an unrelated instance."""

from collections.abc import Collection

from sef.cloud.attachments import Impossible, PlannedChange
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.failover.cutover.events import step_name
from sef.failover.cutover.formers import unrelated_to
from sef.failover.cutover.holders import holders_of_target
from sef.failover.cutover.rows import Cutover, CutoverStep
from sef.failover.cutover.where import OTHER_SERVICE, describe_holder


def require_own_holder(
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
