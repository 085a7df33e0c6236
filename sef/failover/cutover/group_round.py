"""Register and deregister the instances of several agents in one target group: one question."""

from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import Connection

from sef.cloud.attachments import NotReady, Waits
from sef.cloud.errors import CloudError, Remedy
from sef.cloud.traffic import NOT_IN_USE, Target, group_name
from sef.context import Context
from sef.failover.cutover.events import describe_nothing_to_do
from sef.failover.cutover.inspection import DueStep
from sef.failover.cutover.record import Result
from sef.failover.cutover.run import unsuccessful
from sef.failover.cutover.traffic_memory import TrafficBinding, binding_of
from sef.failover.cutover.traffic_rules import (
    Port,
    leaving,
    missing,
    reason_to_stay,
    unhealthy,
    wanted_ports,
)
from sef.terms import StepKind, StepStatus


class GroupRound:
    """The targets of a group, as ELBv2 has just shown them, for the steps of one kind.

    Raises:
        CloudError: AWS refused the call or did not answer.
    """

    def __init__(self, ctx: Context, kind: StepKind, arn: str, dues: Sequence[DueStep]) -> None:
        self._ctx, self._kind, self._arn = ctx, kind, arn
        self._now = ctx.clock()
        self._targets = ctx.traffic.targets(arn)
        self._ports = ctx.database.read(_remembered, arn, dues)

    def inspect(self, due: DueStep) -> Result | None:
        """Return the result of a step that needs no change; None if it needs one.

        Raises:
            NotReady: the step has to wait.
            CloudError: AWS refused a call or did not answer.
        """
        if self._kind is StepKind.HEALTHY:
            self._require_healthy(due)
        elif self._change(due):
            self._require_successor(due)
            return None
        return self._done(due, describe_nothing_to_do(due.cutover, due.step))

    def make(self, dues: Sequence[DueStep]) -> list[Result]:
        """Make the changes of steps that were claimed; return the result of each step.

        AWS refuses all targets of a call because of one; then each step has a call of its own.
        """
        if len(dues) > 1:
            try:
                self._call([target for due in dues for target in self._change(due)])
            except CloudError as error:
                if error.remedy is not Remedy.OPERATOR:
                    return [unsuccessful(error.again()) for _ in dues]
            else:
                return [self._made(due) for due in dues]
        results = []
        for due in dues:
            try:
                self._call(self._change(due))
                results.append(self._made(due))
            except CloudError as error:
                results.append(unsuccessful(_judged(error)))
        return results

    def _change(self, due: DueStep) -> list[Target]:
        """Return the targets that a step registers or deregisters."""
        new = due.cutover.new_instance_id
        if self._kind is StepKind.REGISTER:
            return [Target(new, port) for port in missing(self._targets, self._wanted(due), new)]
        return leaving(self._targets, due.former)

    def _require_healthy(self, due: DueStep) -> None:
        new, ports = due.cutover.new_instance_id, self._wanted(due)
        name = group_name(self._arn)
        lacking = missing(self._targets, ports, new)
        if lacking:
            named = "" if lacking[0] is None else f" on port {lacking[0]}"
            raise NotReady(f"{new} is not registered in {name}{named}")
        target = unhealthy(self._targets, ports, new)
        if target is None:
            return
        if target.reason == NOT_IN_USE:
            if not self._ctx.traffic.group(self._arn).has_load_balancer:
                return  # ELBv2 checks no health while no load balancer uses the group
            raise NotReady(
                f"{new} is unused in {name}: its Availability Zone is not enabled for the load "
                f"balancer, or no listener uses the group"
            )
        reason = target.reason or "no reason given"
        on_port = f" on port {target.port}" if len(ports) > 1 else ""
        raise NotReady(f"{new} is {target.state} in {name}{on_port}: {reason}")

    def _require_successor(self, due: DueStep) -> None:
        """Raise Waits if the group needs the former primaries."""
        if self._kind is not StepKind.DEREGISTER:
            return
        new, ends_at = due.cutover.new_instance_id, due.step.ends_at
        reason = reason_to_stay(self._targets, due.former, new, ends_at, self._now)
        if reason is not None:
            raise Waits(f"{reason} in {group_name(self._arn)}")

    def _wanted(self, due: DueStep) -> frozenset[Port]:
        return wanted_ports(
            self._targets,
            due.step.target.get("port"),
            due.cutover.old_instance_id,
            due.former,
            self._ports.get(due.cutover.agent_id, ()),
        )

    def _call(self, targets: Iterable[Target]) -> None:
        traffic = self._ctx.traffic
        call: Callable[[str, Iterable[Target]], None] = traffic.deregister
        if self._kind is StepKind.REGISTER:
            call = traffic.register
        call(self._arn, targets)

    def _made(self, due: DueStep) -> Result:
        targets, name = self._change(due), group_name(self._arn)
        ids = ", ".join(sorted({target.instance_id for target in targets}))
        ports = sorted(t.port for t in targets if t.port is not None)
        on_ports = f" on ports {', '.join(map(str, ports))}" if len(ports) > 1 else ""
        if self._kind is StepKind.REGISTER:
            return self._done(due, f"{ids} registered in {name}{on_ports}", is_change=True)
        return self._done(due, f"{ids} deregistered from {name}", is_change=True)

    def _done(self, due: DueStep, message: str, *, is_change: bool = False) -> Result:
        new = due.cutover.new_instance_id
        ports = {t.port for t in self._targets if t.instance_id == new and t.is_registered}
        if self._kind is StepKind.REGISTER:
            ports |= self._wanted(due)
        known = tuple(sorted(port for port in ports if port is not None))
        binding = TrafficBinding(self._arn, new, ports=known) if known else None
        return Result(message, StepStatus.DONE, is_change=is_change, binding=binding)


def _judged(error: CloudError) -> CloudError | NotReady:
    """Return NotReady for a target that does not run yet; other invalid targets stay invalid.

    ELBv2 has one code for both; the text is that of its answer to an instance that is pending or
    stopped. It is not documented.
    """
    if error.code == "InvalidTarget" and "running" in str(error):
        return NotReady(str(error))
    return error


def _remembered(
    connection: Connection, arn: str, dues: Sequence[DueStep]
) -> dict[str, tuple[int, ...]]:
    found = {}
    for due in dues:
        binding = binding_of(connection, due.cutover.agent_id, arn)
        if binding is not None:
            found[due.cutover.agent_id] = binding.ports
    return found
