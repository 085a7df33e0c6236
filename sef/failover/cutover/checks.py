"""Check that an agent's cutover targets can follow its primary, before a promotion needs them.

The results are warnings only: a problem may be repaired before the next promotion.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sef.agents import Agent
from sef.cloud.attachments import Impossible, NotReady
from sef.cloud.errors import CloudError, Remedy
from sef.context import Context
from sef.failover.cutover.targets import Targets
from sef.terms import parse_pool


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """Result of checking an agent's targets in AWS."""

    warnings: tuple[str, ...] = ()
    zones: Mapping[str, str] = field(default_factory=dict)
    """Zone of each volume and network interface; neither can leave its zone."""

    def in_pool(self, pool_id: str | None) -> list[str]:
        """Return the warnings for a primary in a pool."""
        pool = parse_pool(pool_id)
        misplaced = [
            f"{name} is in {zone} and the primary in {pool.zone}: it cannot leave its zone"
            for name, zone in self.zones.items()
            if pool is not None and zone != pool.zone
        ]
        return [*self.warnings, *misplaced]


def target_warnings(ctx: Context, agent: Agent) -> list[str]:
    """Return the problems that keep targets from following a primary in the current pool."""
    return check_targets(ctx, agent).in_pool(agent.pool_id)


def check_targets(ctx: Context, agent: Agent) -> TargetCheck:
    """Check the agent's targets in AWS. Errors of AWS become warnings."""
    if agent.cutover is None:
        return TargetCheck()
    warnings = []
    zones: dict[str, str] = {}
    for name, check in _checks(ctx, agent.cutover, agent.instance_id, zones):
        try:
            check()
        except NotReady:
            continue  # the primary to compare with is not known yet
        except Impossible as error:
            warnings.append(f"cutover.{name}: {error}")
        except CloudError as error:
            warnings.append(f"cutover.{name}: {error}")
            if error.remedy is Remedy.WAIT:
                warnings.append("AWS did not return a usable answer; other targets not checked")
                break
    return TargetCheck(tuple(warnings), zones)


def _checks(
    ctx: Context, targets: Targets, instance_id: str | None, zones: dict[str, str]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the field of each target and a call that raises if the target cannot move.

    The calls add the zones of volumes and network interfaces to `zones`.
    """
    attachments, traffic = ctx.attachments, ctx.traffic
    if "elastic_ip" in targets:
        yield "elastic_ip", partial(attachments.check_address, targets["elastic_ip"])
    for volume in targets.get("volumes", []):
        yield "volumes", partial(_record_zone, zones, volume["id"], attachments.zone_of_volume)
    if "network_interface" in targets:
        interface, zone_of = targets["network_interface"]["id"], attachments.zone_of_interface
        yield "network_interface", partial(_record_zone, zones, interface, zone_of)
    if "private_ip" in targets and instance_id is not None:
        yield "private_ip", partial(attachments.private_ip, targets["private_ip"], instance_id)
    for group in targets.get("target_groups", []):
        yield "target_groups", partial(traffic.check_group, group["arn"])
    if "dns" in targets:
        dns = targets["dns"]
        yield "dns", partial(traffic.check_record, dns["zone_id"], dns["name"], dns["type"])


def _record_zone(zones: dict[str, str], name: str, zone_of: Callable[[str], str]) -> None:
    zones[name] = zone_of(name)
