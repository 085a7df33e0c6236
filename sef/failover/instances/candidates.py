"""What a standby of an agent would be like, and the pools that it could be in, best first."""

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
from sef.failover.instances import attempts
from sef.failover.instances.attempts import Attempt
from sef.failover.instances.ranking import Candidate, rank
from sef.failover.standbys import backoff
from sef.terms import IncidentKind, Market, Pool, parse_pool

LOAD_COUNTS_FOR = timedelta(minutes=5)
"""How long a launch counts when the next ones are spread over the pools."""


class NoLaunchConfiguration(Exception):
    """Nothing says what a new instance of this agent should be like."""


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What EC2 says about the standbys that an agent could have."""

    source: LaunchConfiguration
    pools: Sequence[Pool]
    prices: Mapping[str, Decimal]
    zone: str | None
    """Where it could be given the agent's volumes and interface; None if it has none."""


def launch_options(ctx: Context, agent: Agent) -> LaunchOptions:
    """Ask EC2 what a standby of this agent would be like, and where it could be.

    Raises:
        NoLaunchSource: nothing says what it should be like.
        CloudError: EC2 could not say, or refuses to.
    """
    source = _launch_configuration(ctx, agent)
    pools = [pool for pool in map(parse_pool, ctx.settings.pool_list) if pool is not None]
    if not pools:
        if source.instance_type is None:
            raise NoLaunchConfiguration(
                f"{source.described_as} names no instance type, and SEF_SPOT_POOLS is empty"
            )
        zones = source.subnets or ctx.ec2.zones()
        pools = [Pool(source.instance_type, zone) for zone in zones]
    try:
        prices = ctx.ec2.spot_prices({pool.instance_type for pool in pools}, ctx.clock())
    except CloudError:
        prices = {}  # a standby without the best price is better than none
    return LaunchOptions(source, pools, prices, _zone(ctx, agent))


def rank_candidates(
    connection: Connection,
    ctx: Context,
    agent: Agent,
    incident: Incident | None,
    survey: LaunchOptions,
    tries: Sequence[Attempt] = (),
) -> Sequence[Candidate]:
    """The pools to try, best first, after those that were tried already; nothing is written."""
    now = ctx.clock()
    settings = ctx.settings
    pools, source = survey.pools, survey.source
    settled_after = timedelta(seconds=settings.standby_ttl_seconds)
    histories = pool_histories(connection, now, settled_after)
    cooling = backoff.pools_on_cooldown(connection, now)
    loads = attempts.spot_launches_since(connection, now - LOAD_COUNTS_FOR)
    tries = [attempt for attempt in tries if not was_too_many(attempt)]
    tried = {(attempt.pool_id, attempt.market) for attempt in tries}
    if any(attempt.error_code in SPOT_QUOTA for attempt in tries):
        tried |= {(str(pool), Market.SPOT) for pool in pools}
    kind = incident.kind if incident else None
    is_emergency = incident is not None and incident.is_emergency
    pasts = {str(pool): histories.get(str(pool), risk.History()) for pool in pools}
    risks = {pool: risk.assess_for_launch(past).score for pool, past in pasts.items()}
    if kind is IncidentKind.RETURN:
        # One termination without a recommendation must not close a pool for 90 days.
        pools = [p for p in pools if risk.assess(pasts[str(p)]).score <= risk.UNKNOWN]

    def ranked(excluded: Collection[tuple[str, Market]]) -> list[Candidate]:
        return rank(
            pools,
            avoid=source.primary_pool or parse_pool(agent.pool_id),
            excluded=excluded,
            risks=risks,
            spot_prices=survey.prices,
            on_demand_prices=ctx.on_demand_prices,
            loads=loads,
            on_demand=is_emergency
            or (settings.allow_on_demand and kind is not IncidentKind.RETURN),
            zone=survey.zone,
        )

    best = ranked({*cooling, *tried})
    # With two minutes left a pool that had nothing a minute ago is better than none.
    return ranked(tried) if is_emergency and not best else best


def _zone(ctx: Context, agent: Agent) -> str | None:
    """Return the zone that an instance must be in to take over the agent's volumes and interface.

    None if the agent has neither, or if AWS does not say: the cutover will report that error, and a
    standby is needed now.
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
        pass
    return None


def _launch_configuration(ctx: Context, agent: Agent) -> LaunchConfiguration:
    if agent.launch_template:
        return ctx.ec2.like_template(agent.launch_template, vpc_of=agent.instance_id)
    like = ctx.ec2.like_instance(agent.instance_id) if agent.instance_id else None
    if like is not None:
        return like
    if ctx.settings.launch_template:
        source = ctx.ec2.like_template(ctx.settings.launch_template)
        pool = parse_pool(agent.pool_id)
        if pool is not None:
            return replace(source, instance_type=pool.instance_type)
        return source
    raise NoLaunchConfiguration(
        "it has no launch template, EC2 knows no instance of it, and SEF_LAUNCH_TEMPLATE is not set"
    )


def was_too_many(attempt: Attempt) -> bool:
    """Whether a quota refused a call for several: there may be room for one."""
    return attempt.call_token is not None and attempt.error_code in QUOTA
