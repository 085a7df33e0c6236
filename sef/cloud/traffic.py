"""Route traffic to an instance: target groups of ELBv2, and records of Route 53.

A target is an instance with a port: an instance can be registered under several ports
(https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_RegisterTargets.html).
Target groups offer no compare-and-swap, but registering or deregistering a target a second time has
no effect. `sef.failover.cutover.run` undoes a change that a worker made too late.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sef.cloud.attachments import Impossible
from sef.cloud.errors import translated
from sef.cloud.records import RecordSets

if TYPE_CHECKING:
    from mypy_boto3_elbv2.type_defs import TargetDescriptionTypeDef

NOT_IN_USE = "Target.NotInUse"
"""Reason of ELBv2 for an unused target: no load balancer uses the group, or none in its zone
(https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html)."""


@dataclass(frozen=True, slots=True)
class Target:
    """A target of a group, as DescribeTargetHealth shows it.

    Attributes:
        port: in an order of SEF, None is the port of the group.
    """

    instance_id: str
    port: int | None
    state: str = ""
    reason: str | None = None

    @property
    def is_registered(self) -> bool:
        """False while the target leaves the group, and once it has left."""
        return self.state != "draining" and self.reason != "Target.NotRegistered"


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """A target group whose targets are instances."""

    vpc_id: str | None
    has_load_balancer: bool


class TrafficRouting(RecordSets):
    """Target groups whose targets are instances, and DNS records.

    Raises:
        CloudError: AWS refused a call or did not answer.
    """

    @translated()
    def targets(self, arn: str) -> list[Target]:
        """Return the targets of a group, those that leave it included."""
        answer = self._clients().elbv2.describe_target_health(TargetGroupArn=arn)
        return [_target(described) for described in answer["TargetHealthDescriptions"]]

    @translated()
    def holders_of_group(self, arn: str) -> set[str]:
        """Return the instances that are registered in a target group and not leaving it."""
        return {target.instance_id for target in self.targets(arn) if target.is_registered}

    @translated()
    def register(self, arn: str, targets: Iterable[Target]) -> None:
        """Register targets in a group."""
        self._clients().elbv2.register_targets(TargetGroupArn=arn, Targets=_orders(targets))

    @translated()
    def deregister(self, arn: str, targets: Iterable[Target]) -> None:
        """Deregister targets from a group.

        ELBv2 identifies a target by instance and port.
        """
        self._clients().elbv2.deregister_targets(TargetGroupArn=arn, Targets=_orders(targets))

    @translated()
    def group(self, arn: str) -> TargetGroup:
        """Return a target group.

        Raises:
            Impossible: the targets of the group are of another type than instances.
            CloudError: the group does not exist, or AWS did not answer.
        """
        [group] = self._clients().elbv2.describe_target_groups(TargetGroupArns=[arn])[
            "TargetGroups"
        ]
        if group["TargetType"] != "instance":
            raise Impossible(f"the targets of {group_name(arn)} are of type {group['TargetType']}")
        return TargetGroup(group.get("VpcId"), bool(group.get("LoadBalancerArns")))


def group_name(arn: str) -> str:
    """Return the name of a target group."""
    return arn.split("/")[-2]


def _target(described: Any) -> Target:
    target, health = described["Target"], described["TargetHealth"]
    return Target(target["Id"], target.get("Port"), health["State"], health.get("Reason"))


def _orders(targets: Iterable[Target]) -> "Sequence[TargetDescriptionTypeDef]":
    orders: list[TargetDescriptionTypeDef] = []
    for target in targets:
        orders.append({"Id": target.instance_id})
        if target.port is not None:
            orders[-1]["Port"] = target.port
    return orders
