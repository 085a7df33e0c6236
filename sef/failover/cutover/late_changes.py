"""Undo a change to a target group that a worker made after a later promotion.

AWS has no compare-and-swap for target groups. A worker can freeze between its check of the epoch
and its call, and make the call when the agent has another primary.
"""

from collections.abc import Sequence

from sef.agents import read_agent
from sef.cloud.errors import CloudError
from sef.cloud.traffic import Target, group_name
from sef.context import Context
from sef.failover.cutover.inspection import DueStep
from sef.failover.cutover.traffic_memory import binding_of
from sef.failover.cutover.traffic_rules import leaving, missing
from sef.notifications.events import Event, Severity, write_events
from sef.terms import StepKind


def undo_late_change(ctx: Context, due: DueStep) -> None:
    """Undo a change to a target group that was made after the agent had got another primary."""
    cutover, step = due.cutover, due.step
    if step.kind not in (StepKind.REGISTER, StepKind.DEREGISTER):
        return
    arn, port = step.target["arn"], step.target.get("port")
    primary = ctx.database.read(read_agent, cutover.agent_id).instance_id
    severity: Severity = "warning"
    try:
        targets = ctx.traffic.targets(arn)
        late: Sequence[Target] = ()
        if step.kind is StepKind.REGISTER and primary != cutover.new_instance_id:
            late = leaving(targets, {cutover.new_instance_id})
            change, done = ctx.traffic.deregister, "deregistered from"
        elif step.kind is StepKind.DEREGISTER and primary is not None and primary in due.former:
            left = [t.port for t in targets if t.instance_id == primary and not t.is_registered]
            known = ctx.database.read(binding_of, cutover.agent_id, arn)
            remembered = known.ports if known is not None and known.instance_id == primary else ()
            ports = {port} if port is not None else {*left, *remembered} or {None}
            late = [Target(primary, each) for each in missing(targets, ports, primary)]
            change, done = ctx.traffic.register, "registered in"
        else:
            return
        if not late:
            return
        change(arn, late)
        message = f"Undid a late {step.kind}: {late[0].instance_id} {done} {group_name(arn)}"
    except CloudError as error:
        severity = "error"
        message = f"Cannot undo a late {step.kind} in {arn}; check its targets: {error}"
    event = Event(
        "cutover_step",
        message,
        cutover.agent_id,
        severity=severity,
        details={"cutover_id": cutover.id, "kind": step.kind},
    )
    ctx.database.write(write_events, [event], ctx.clock())
