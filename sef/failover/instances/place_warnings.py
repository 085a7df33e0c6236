"""Warn of pools in which the standbys of an agent cannot be, or where targets cannot follow."""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection

from sef.agents import Agent
from sef.cloud.errors import CloudError, Remedy
from sef.context import Context
from sef.failover.cutover.place import is_possible
from sef.failover.instances.candidates import (
    LaunchOptions,
    NoLaunchConfiguration,
    launch_options,
    remember_options,
)
from sef.failover.instances.misplaced import replace_misplaced
from sef.terms import LaunchAway, Market, Pool, parse_pool

WHEN = {
    LaunchAway.EMERGENCY: "only to replace a primary that is being lost, if no other pool has "
    "capacity",
    LaunchAway.ALWAYS: "only if no other pool has capacity",
    LaunchAway.NEVER: "never",
}
"""When a pool is used in which a target cannot follow, by the setting."""

_CHECKED = (
    "{} has its source/destination check on, so it drops what routes send to it for other "
    "addresses, and so will its successor: switch the check off"
)

_BEYOND = "needs more interfaces, addresses or volumes than the instance type can have"


def look_at_place(ctx: Context, agent: Agent) -> list[str]:
    """Store where the primary and its targets are, and return the warnings about the pools."""
    if agent.cutover is None:
        return []
    try:
        options = launch_options(ctx, agent)
    except NoLaunchConfiguration as error:
        return [f"SEF cannot launch a standby: {error}"]
    except CloudError as error:
        if error.remedy is Remedy.WAIT:
            return []  # the checks of the targets have said that AWS does not answer
        return [f"SEF cannot read how to launch a standby: {error}"]
    standby = ctx.database.write(_remember, ctx, agent, options)
    return [
        *warnings_of(ctx, agent, options),
        *router_warnings(ctx, agent, options),
        *([standby] if standby is not None else []),
    ]


def router_warnings(ctx: Context, agent: Agent, options: LaunchOptions) -> list[str]:
    """Return the warnings about routes to the primary that are no targets.

    A router has its source/destination check off, so SEF asks about the routes of no other
    instance: https://docs.aws.amazon.com/vpc/latest/userguide/VPC_NAT_Instance.html
    """
    routes = (agent.cutover or {}).get("routes", [])
    primary = options.primary
    if primary is None or primary.network is None or agent.instance_id is None:
        return []
    if not primary.after_launch:
        return [_CHECKED.format(agent.instance_id)] if routes else []
    try:
        found = ctx.routes.routes_to(agent.instance_id, primary.network.vpc)
    except CloudError as error:
        return [f"SEF cannot see if routes point to {agent.instance_id}: {error}"]
    named = {(route["route_table_id"], route["destination_cidr"]) for route in routes}
    return [
        f"the route to {destination} in {table} points to {agent.instance_id} and does not follow "
        f"it: add it to cutover.routes"
        for table, destination in found
        if (table, destination) not in named
    ]


def warnings_of(ctx: Context, agent: Agent, options: LaunchOptions) -> list[str]:
    """Return the warnings about the pools of an agent."""
    return place_warnings(
        options,
        ctx.settings.launch_away_from_targets,
        is_listed=bool(ctx.settings.pool_list),
        avoid=options.source.primary_pool or parse_pool(agent.pool_id),
    )


def place_warnings(
    options: LaunchOptions, setting: LaunchAway, *, is_listed: bool, avoid: Pool | None
) -> list[str]:
    """Return the warnings.

    Args:
        is_listed: the pools are those of SEF_SPOT_POOLS; otherwise they are the zones of the
            region, of which it goes without saying that only some suit.
        avoid: the pool of the primary, which is never tried for spot.
    """
    warnings = list(options.source.gaps)
    if not is_possible(options.constraints):
        restricted = [b for b in options.constraints if b.is_restricted]
        places = "; ".join(f"{b.target} only to {b.place}" for b in restricted)
        warnings.append(
            f"no instance can have all cutover targets: {places}. SEF leaves as few behind as "
            "possible"
        )
    if is_listed:
        warnings += _of_listed_pools(options, setting)
    is_bound = any(options.left_behind.values())
    if is_bound and not _suitable(options, avoid):
        places = ", ".join(dict.fromkeys(b.place for b in options.constraints if b.is_restricted))
        when = WHEN[setting]
        warnings.append(
            f"no spot pool but the primary's own is where every cutover target can follow "
            f"({places}): list other instance types there in SEF_SPOT_POOLS. SEF launches "
            f"elsewhere {when} (SEF_LAUNCH_AWAY_FROM_TARGETS)"
        )
    return warnings


def _of_listed_pools(options: LaunchOptions, setting: LaunchAway) -> Iterator[str]:
    for pool, reason in sorted(options.unusable.items()):
        yield f"SEF never launches in {pool}: {reason}"
    places = {constraint.target: constraint for constraint in options.constraints}
    pools_of: dict[tuple[str, str], list[str]] = {}
    for pool in options.pools:
        for target in options.left_behind.get(str(pool), ()):
            constraint = places.get(target)
            is_elsewhere = constraint is not None and pool in options.elsewhere(constraint)
            reason = (
                f"can follow only to {constraint.place}" if is_elsewhere and constraint else _BEYOND
            )
            pools_of.setdefault((target, reason), []).append(str(pool))
    for (target, reason), pools in pools_of.items():
        yield (
            f"cutover.{target} {reason}: SEF launches in {', '.join(sorted(pools))} {WHEN[setting]}"
        )


def _suitable(options: LaunchOptions, avoid: Pool | None) -> Sequence[Pool]:
    """Return the pools in which a spot standby can be launched that all targets can follow."""
    return [
        pool
        for pool in options.pools
        if pool != avoid
        and not options.left_behind.get(str(pool))
        and (str(pool), Market.SPOT) not in options.no_market
    ]


def _remember(
    connection: Connection, ctx: Context, agent: Agent, options: LaunchOptions
) -> str | None:
    """Store what was seen; return a warning if the standby is where a target cannot follow."""
    remember_options(connection, agent, options, ctx.clock())
    avoid = options.source.primary_pool or parse_pool(agent.pool_id)
    is_on_demand_possible = ctx.settings.allow_on_demand and not all(
        options.left_behind.get(str(pool)) for pool in options.pools
    )
    is_better_possible = bool(_suitable(options, avoid)) or is_on_demand_possible
    return replace_misplaced(
        connection, agent.id, options, ctx.clock(), is_better_possible=is_better_possible
    )
