"""Find the targets that an instance, such as a standby, could not take, before it is promoted."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sef.cloud.attachments import Binding, Impossible, NotReady
from sef.cloud.errors import CloudError, Remedy
from sef.context import Context
from sef.failover.cutover.carriers import carriers
from sef.failover.cutover.inspection import device_index
from sef.failover.cutover.targets import Targets
from sef.terms import StepKind


def refusals(
    ctx: Context, targets: Targets, bindings: Mapping[str, Binding], instance_id: str
) -> list[str]:
    """Return why an instance, such as a standby, cannot take addresses, interfaces and volumes.

    Nothing is changed. An instance that is not ready is no reason, nor an error of AWS that passes.

    Args:
        bindings: how the primary has the targets, by `holder_name`.
    """
    attachments, found = ctx.attachments, []
    fields = {"elastic_ip": attachments.elastic_ip, "private_ip": attachments.private_ip}
    checks: list[tuple[str, Callable[[], Any]]] = []
    for name, plan in fields.items():
        if name in targets and not _is_carried(name, targets, bindings):
            binding = bindings.get(f"{name.replace('_', '-')} {targets[name]}")
            checks.append((name, partial(plan, targets[name], instance_id, binding, calm=True)))
    interface = targets.get("network_interface")
    if interface is not None:
        binding = bindings.get(f"network-interface {interface['id']}")
        index = device_index(interface["device_index"], binding)
        plan_interface = attachments.network_interface
        checks.append(
            (
                "network_interface",
                partial(plan_interface, interface["id"], index, instance_id, calm=True),
            )
        )
    for volume in targets.get("volumes", []):
        plan_volume = attachments.volume
        checks.append(
            (
                "volumes",
                partial(plan_volume, volume["id"], volume["device"], instance_id, calm=True),
            )
        )
    for name, check in checks:
        try:
            check()
        except NotReady:
            continue
        except (Impossible, CloudError) as error:
            if not isinstance(error, CloudError) or error.remedy is not Remedy.WAIT:
                found.append(f"cutover.{name}: {error}")
    return found


def _is_carried(name: str, targets: Targets, bindings: Mapping[str, Binding]) -> bool:
    """Return True if an address moves with another target."""
    kind = StepKind(name.replace("_", "-"))
    moving = {
        (StepKind.PRIVATE_IP, targets.get("private_ip", "")),
        (StepKind.NETWORK_INTERFACE, targets.get("network_interface", {}).get("id", "")),
    }
    return bool(carriers(kind, targets[name], bindings, moving))
