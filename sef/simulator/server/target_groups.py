"""Keep the targets of a target group as ELBv2 does: by instance and port.

moto knows one port for an instance. ELBv2 registers an instance again under each other port
(https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_RegisterTargets.html),
deregisters the port that is named, and answers the deregistration of an unknown target with success
(https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_DeregisterTargets.html).
Without a port, both mean the port of the group. Here a new target is also not healthy at once, and
a target whose zone is not enabled for the load balancer is `unused` with `Target.NotInUse`
(https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html).
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from moto.core.utils import utcnow
from moto.elbv2.exceptions import TargetNotRunning
from moto.elbv2.models import FakeHealthStatus, FakeTargetGroup, elbv2_backends


class TargetHealth:
    """The time in seconds that a new target is `initial` before it is healthy."""

    def __init__(self) -> None:
        self.initial_seconds = 0.0


def check_target_groups() -> TargetHealth:
    """Add the rules to moto's target groups, once in a process."""
    health = TargetHealth()
    health_for = FakeTargetGroup.health_for

    def register(self: Any, targets: list[dict[str, Any]]) -> None:
        for target in targets:
            instance = self.ec2_backend.get_instance_by_id(target["Id"])
            if instance and instance.state != "running":
                raise TargetNotRunning(instance_id=target["Id"])
        registered_at = self.__dict__.setdefault("registered_at", {})
        for target in targets:
            key = _key(self, target)
            if key not in self.targets:
                registered_at[key] = utcnow()
            self.targets[key] = {"Id": target["Id"], "Port": target.get("Port", self.port)}
            self.deregistered_targets.pop(key, None)

    def deregister(self: Any, targets: list[dict[str, Any]]) -> None:
        for target in targets:
            key = _key(self, target)
            known = self.targets.pop(key, None)
            if known is not None:
                self.deregistered_targets[key] = known

    def deregister_terminated(self: Any, instance_ids: list[str]) -> None:
        for key, target in list(self.targets.items()):
            if target["Id"] in instance_ids:
                self.terminated_targets[key] = self.targets.pop(key)

    def health_of(self: Any, target: Mapping[str, Any], *args: Any) -> FakeHealthStatus:
        # moto looks a target up by its instance.
        key, tables = _key(self, target), (self.targets, self.deregistered_targets)
        own, left = ({target["Id"]: t[key]} if key in t else {} for t in tables)
        seen = _Seen(self, targets=own, deregistered_targets=left)
        status: FakeHealthStatus = health_for(seen, dict(target), *args)  # type: ignore[arg-type]
        at = self.__dict__.get("registered_at", {}).get(key)
        is_new = at and utcnow() - at < timedelta(seconds=health.initial_seconds)
        if status.status == "healthy" and is_new:
            status.status, status.reason = "initial", "Elb.RegistrationInProgress"
        if status.status in ("healthy", "initial") and not _is_in_enabled_zone(self, target):
            status.status, status.reason = "unused", "Target.NotInUse"
        return status

    replaced: dict[str, Any] = {
        "register": register,
        "deregister": deregister,
        "deregister_terminated_instances": deregister_terminated,
        "health_for": health_of,
    }
    for name, method in replaced.items():
        setattr(FakeTargetGroup, name, method)
    return health


class _Seen:
    """A target group that shows other targets."""

    def __init__(self, group: Any, **targets: Any) -> None:
        vars(self).update(vars(group) | {"terminated_targets": {}} | targets)


def _is_in_enabled_zone(group: Any, target: Mapping[str, Any]) -> bool:
    """Return False if the target's zone is enabled for no load balancer that uses the group."""
    balancers = elbv2_backends[group.account_id][group.region_name].load_balancers
    using = [balancers[arn] for arn in group.load_balancer_arns if arn in balancers]
    instance = group.ec2_backend.get_instance_by_id(target["Id"])
    zones = {subnet.availability_zone for balancer in using for subnet in balancer.subnets}
    return not using or instance is None or instance.placement.zone in zones


def _key(group: Any, target: Mapping[str, Any]) -> str:
    return f"{target['Id']} {target.get('Port', group.port)}"
