"""Whether what belongs to an agent can follow its primary: looked up before it is needed.

What is found is a warning: AWS may be wrong for a moment, or be mended before the next promotion.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
    warnings: tuple[str, ...] = ()
    zones: Mapping[str, str] | None = None
    """By volume or interface, the zone that it cannot leave."""

    def in_pool(self, pool_id: str | None) -> list[str]:
        """The warnings for a primary in a pool."""
        pool = parse_pool(pool_id)
        misplaced = [
            f"{name} is in {zone} and the primary in {pool.zone}: it cannot leave its zone"
            for name, zone in (self.zones or {}).items()
            if pool is not None and zone != pool.zone
        ]
        return [*self.warnings, *misplaced]


def target_warnings(ctx: Context, agent: Agent) -> list[str]:
    """What would keep the agent's targets from following a primary in the pool it has now."""
    return check_targets(ctx, agent).in_pool(agent.pool_id)


def check_targets(ctx: Context, agent: Agent) -> TargetCheck:
    """Ask AWS about the agent's targets; it raises nothing of what AWS answers."""
    if agent.cutover is None:
        return TargetCheck()
    warnings = []
    zones: dict[str, str] = {}
    for field, check in _checks(ctx, agent.cutover, agent.instance_id, zones):
        try:
            check()
        except NotReady:
            continue  # nothing is known of the primary that it could be compared with
        except Impossible as why:
            warnings.append(f"cutover.{field}: {why}")
        except CloudError as error:
            warnings.append(f"cutover.{field}: {error}")
            if error.remedy is Remedy.WAIT:
                warnings.append("AWS could not say, and was asked no further")
                break
    return TargetCheck(tuple(warnings), zones)


def _checks(
    ctx: Context, targets: Targets, instance_id: str | None, zones: dict[str, str]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    moves, traffic = ctx.attachments, ctx.traffic

    def note_zone(name: str, zone_of: Callable[[str], str]) -> Callable[[], None]:
        return lambda: zones.update({name: zone_of(name)})

    if "elastic_ip" in targets:
        yield "elastic_ip", partial(moves.check_address, targets["elastic_ip"])
    for volume in targets.get("volumes", []):
        yield "volumes", note_zone(volume["id"], moves.zone_of_volume)
    if "network_interface" in targets:
        interface = targets["network_interface"]["id"]
        yield "network_interface", note_zone(interface, moves.zone_of_interface)
    if "private_ip" in targets and instance_id is not None:
        yield "private_ip", partial(moves.private_ip, targets["private_ip"], instance_id)
    for group in targets.get("target_groups", []):
        yield "target_groups", partial(traffic.check_group, group["arn"])
    if "dns" in targets:
        dns = targets["dns"]
        yield "dns", partial(traffic.check_record, dns["zone_id"], dns["name"], dns["type"])
