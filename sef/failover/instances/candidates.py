"""Collect the launch options of an agent's standby, and rank the pools to try."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

from sqlalchemy import Connection

from sef.agents import Agent
from sef.cloud.ec2 import LaunchConfiguration
from sef.cloud.errors import QUOTA, SPOT_QUOTA, CloudError
from sef.context import Context
from sef.failover.incidents import risk
from sef.failover.incidents.pool_history import pool_histories
from sef.failover.incidents.rows import Incident
from sef.failover.instances.attempts import Attempt, spot_launches_since
from sef.failover.ranking import Candidate, rank
from sef.failover.standbys.backoff import pools_on_cooldown
from sef.terms import IncidentKind, Market, Pool, parse_pool

LOAD_COUNTS_FOR = timedelta(minutes=5)
"""Age up to which a launch counts as load of its pool."""


class NoLaunchConfiguration(Exception):
    """No source gives the launch parameters of an agent's standby."""


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """Launch parameters, pools and prices for the standbys of an agent, as EC2 reports them.

    Attributes:
        source: parameters of a new instance, without pool and market.
        pools: the pools in which a standby may be launched.
        prices: current spot price by pool id; pools without an entry have an unknown price.
        zone: zone of the agent's volumes or network interface; None if the agent has none.
    """

    source: LaunchConfiguration
    pools: Sequence[Pool]
    prices: Mapping[str, Decimal]
    zone: str | None


def launch_options(ctx: Context, agent: Agent) -> LaunchOptions:
    """Read the launch options of an agent's standby from EC2.

    Raises:
        NoLaunchConfiguration: no source gives the launch parameters.
        CloudError: EC2 did not return a usable answer, or refused the call.
    """
    configuration = _launch_configuration(ctx, agent)
    pools = [pool for pool in map(parse_pool, ctx.settings.pool_list) if pool is not None]
    if not pools:
        if configuration.instance_type is None:
            raise NoLaunchConfiguration(
                f"{configuration.described_as} has no instance type and SEF_SPOT_POOLS is empty; "
                "set one of them"
            )
        zones = configuration.subnets or ctx.ec2.zones()
        pools = [Pool(configuration.instance_type, zone) for zone in zones]
    try:
        prices = ctx.ec2.spot_prices({pool.instance_type for pool in pools}, ctx.clock())
    except CloudError:
        # Without prices the pools are ranked by risk alone. A standby at a higher price is better
        # than no standby.
        prices = {}
    return LaunchOptions(configuration, pools, prices, _zone(ctx, agent))


def rank_candidates(
    connection: Connection,
    ctx: Context,
    agent: Agent,
    incident: Incident | None,
    options: LaunchOptions,
    attempts: Sequence[Attempt] = (),
) -> Sequence[Candidate]:
    """Return the pools to try next, best first. Writes nothing.

    Args:
        attempts: earlier attempts of the same replica. Their pools are left out.
    """
    now = ctx.clock()
    settled_after = timedelta(seconds=ctx.settings.standby_ttl_seconds)
    histories = pool_histories(connection, now, settled_after)
    on_cooldown = pools_on_cooldown(connection, now)
    loads = spot_launches_since(connection, now - LOAD_COUNTS_FOR)
    tried = _tried(attempts, options.pools)
    kind = incident.kind if incident else None
    is_emergency = incident is not None and incident.is_emergency
    history_of = {str(pool): histories.get(str(pool), risk.History()) for pool in options.pools}
    risks = {pool: risk.assess_for_launch(history).score for pool, history in history_of.items()}
    pools = options.pools
    if kind is IncidentKind.RETURN:
        # One termination without a recommendation must not close a pool for 90 days.
        pools = [p for p in pools if risk.assess(history_of[str(p)]).score <= risk.UNKNOWN]
    allows_on_demand = ctx.settings.allow_on_demand and kind is not IncidentKind.RETURN

    def ranked(excluded: Collection[tuple[str, Market]]) -> list[Candidate]:
        return rank(
            pools,
            avoid=options.source.primary_pool or parse_pool(agent.pool_id),
            excluded=excluded,
            risks=risks,
            spot_prices=options.prices,
            on_demand_prices=ctx.on_demand_prices,
            loads=loads,
            on_demand=is_emergency or allows_on_demand,
            zone=options.zone,
        )

    best = ranked({*on_cooldown, *tried})
    # An emergency can have two minutes left. If all pools are on cooldown, SEF tries them all the
    # same: a pool that had no capacity a minute ago may have some now.
    return ranked(tried) if is_emergency and not best else best


def is_batch_over_quota(attempt: Attempt) -> bool:
    """Return True if a quota refused a batched call; a call for one instance may still succeed."""
    return attempt.call_token is not None and attempt.error_code in QUOTA


def _tried(attempts: Sequence[Attempt], pools: Sequence[Pool]) -> set[tuple[str, Market]]:
    """Return the pools, with their market, that earlier attempts rule out."""
    attempts = [attempt for attempt in attempts if not is_batch_over_quota(attempt)]
    tried = {(attempt.pool_id, attempt.market) for attempt in attempts}
    if any(attempt.error_code in SPOT_QUOTA for attempt in attempts):
        tried |= {(str(pool), Market.SPOT) for pool in pools}
    return tried


def _zone(ctx: Context, agent: Agent) -> str | None:
    """Return the zone in which an instance can take over the agent's volumes and interface.

    None if the agent has neither, or if AWS does not return the zone: a standby is needed now, and
    the cutover will report the error.
    """
    if agent.cutover is None:
        return None
    volumes, interface = agent.cutover.get("volumes"), agent.cutover.get("network_interface")
    try:
        if volumes:
            return ctx.attachments.zone_of_volume(volumes[0]["id"])
        if interface:
            return ctx.attachments.zone_of_interface(interface["id"])
    except CloudError:
        return None
    return None


def _launch_configuration(ctx: Context, agent: Agent) -> LaunchConfiguration:
    """Return the launch parameters of the first source that the agent has.

    The sources are its launch template, its primary, and the launch template of the settings.
    """
    if agent.launch_template:
        return ctx.ec2.like_template(agent.launch_template, vpc_of=agent.instance_id)
    like_primary = ctx.ec2.like_instance(agent.instance_id) if agent.instance_id else None
    if like_primary is not None:
        return like_primary
    if ctx.settings.launch_template:
        configuration = ctx.ec2.like_template(ctx.settings.launch_template)
        pool = parse_pool(agent.pool_id)
        if pool is not None:
            return replace(configuration, instance_type=pool.instance_type)
        return configuration
    raise NoLaunchConfiguration(
        "the agent has no launch template, EC2 does not show its instance, and "
        "SEF_LAUNCH_TEMPLATE is not set; set a launch template"
    )
