"""Collect the launch options of an agent's standby, and rank the pools to try."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection

from sef.agents import Agent
from sef.cloud.bounded import within
from sef.cloud.errors import QUOTA, SPOT_QUOTA, CloudError, Remedy
from sef.cloud.launch_sources import USER_DATA_GAP
from sef.cloud.likeness import LaunchConfiguration
from sef.context import Context
from sef.errors import Refused
from sef.failover.cutover.place import (
    Constraint,
    beyond_limits,
    left_behind,
    may_launch_away,
    subnets_for,
)
from sef.failover.cutover.targets import Targets, parse_targets
from sef.failover.incidents import risk
from sef.failover.incidents.pool_history import pool_histories
from sef.failover.incidents.rows import Incident
from sef.failover.instances.attempts import Attempt, spot_launches_since
from sef.failover.instances.known_places import KnownPlace, read_known_place, remember_place
from sef.failover.instances.place_facts import (
    PlaceFacts,
    look_at_places,
    stored_constraints,
    wants_public_address,
)
from sef.failover.instances.pool_rules import unusable_markets, unusable_pools
from sef.failover.ranking import Candidate, rank
from sef.failover.standbys.backoff import pools_on_cooldown
from sef.terms import IncidentKind, Market, Pool, parse_pool

LOAD_COUNTS_FOR = timedelta(minutes=5)
"""Age up to which a launch counts as load of its pool."""

PATIENCE = 2.0
"""Maximum time in an emergency for look-ups that only refine the choice of a pool, in seconds."""

MAX_UNTRIED = 5
"""Maximum number of pools in the reason why no instance is launched."""


class NoLaunchConfiguration(Exception):
    """No source gives the launch parameters of an agent's standby."""


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """Launch parameters, pools and prices for the standbys of an agent, as EC2 reports them.

    Attributes:
        source: parameters of a new instance, without pool and market.
        pools: the pools in which a standby may be launched.
        prices: current spot price by pool id; pools without an entry have an unknown price.
        constraints: the places to which the agent's cutover targets are bound.
        left_behind: the targets that cannot follow, by pool id.
        unusable: reason for each configured pool that is not in `pools`.
        no_market: pools, with their market, that their instance type does not have.
        primary: parameters of an instance like the primary; None if EC2 does not show its network.
    """

    source: LaunchConfiguration
    pools: Sequence[Pool]
    prices: Mapping[str, Decimal]
    constraints: Sequence[Constraint] = ()
    left_behind: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unusable: Mapping[Pool, str] = field(default_factory=dict)
    no_market: Collection[tuple[str, Market]] = ()
    primary: LaunchConfiguration | None = None

    def elsewhere(self, constraint: Constraint) -> Collection[Pool]:
        """Return the pools that a target cannot follow to because of their place."""
        vpc = self.source.network.vpc if self.source.network else None
        subnets = self.source.subnets
        return {p for p in self.pools if not constraint.allows(p.zone, subnets.get(p.zone), vpc)}

    def own_pool(self, agent: Agent) -> Pool | None:
        """Return the pool of the agent's primary: interruptions of one pool come together."""
        return self.source.primary_pool or parse_pool(agent.pool_id)

    def shortage(self, agent: Agent, codes: Collection[str], *, away: bool) -> str:
        """Return the reason why no pool is left for a launch.

        Args:
            codes: error codes of the pools that were tried.
            away: pools where a target cannot follow are tried too.
        """
        reasons = {str(pool): reason for pool, reason in self.unusable.items()}
        own = self.own_pool(agent)
        if own in self.pools:
            reasons[str(own)] = "spot is not launched in the pool of the primary"
        if not away:
            for pool_id, targets in self.left_behind.items():
                if targets:
                    reasons[pool_id] = f"{', '.join(targets)} cannot follow"
        is_one_left = any(str(pool) not in reasons for pool in self.pools)
        untried = "all are on cooldown" if is_one_left else "none can be tried"
        pools = [f"{pool_id}: {reason}" for pool_id, reason in sorted(reasons.items())]
        listed = f"; not tried: {'; '.join(pools[:MAX_UNTRIED])}" if pools else ""
        return f"no pool has capacity ({', '.join(sorted(codes)) or untried}){listed}"


def launch_options(ctx: Context, agent: Agent, *, is_emergency: bool = False) -> LaunchOptions:
    """Read the launch options of an agent's standby from EC2.

    Args:
        is_emergency: look up only what is not stored about the targets, for `PATIENCE` at most.

    Raises:
        NoLaunchConfiguration: no source gives the launch parameters.
        CloudError: EC2 did not return a usable answer, or refused the call.
    """
    known = ctx.database.read(read_known_place, agent.id, agent.instance_id)
    primary = _like_primary(ctx, agent, known)
    configuration = _launch_configuration(ctx, agent, primary)
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

    targets = _readable(agent.cutover)

    def look() -> PlaceFacts:
        return look_at_places(ctx, targets, configuration, pools, known, is_emergency)

    if is_emergency:
        facts = within(PATIENCE, look, PlaceFacts(stored_constraints(targets, known)))
    else:
        facts = look()
    return options_at(targets, configuration, pools, prices, facts, primary)


def _readable(targets: Targets | None) -> Targets | None:
    """Return stored targets; none if the row is damaged, which must not keep SEF from a launch."""
    try:
        return None if targets is None else parse_targets(targets)
    except Refused:
        return None  # the step of the cutover reports it


def options_at(
    targets: Targets | None,
    source: LaunchConfiguration,
    pools: Sequence[Pool],
    prices: Mapping[str, Decimal],
    facts: PlaceFacts,
    primary: LaunchConfiguration | None,
) -> LaunchOptions:
    """Return the options in the usable pools, each with the subnet that suits the targets best."""
    network = source.network
    if network is not None:
        subnets = subnets_for(
            network,
            facts.constraints,
            public=source.wants_public_address or wants_public_address(targets),
            ipv6=source.image.needs_ipv6,
        )
        source = replace(source, subnets=subnets)
    unusable = unusable_pools(pools, source, facts.limits, facts.offered)
    left = {
        str(pool): [
            *left_behind(
                facts.constraints,
                pool.zone,
                source.subnets.get(pool.zone),
                network.vpc if network else None,
            ),
            *beyond_limits(targets, facts.limits.get(pool.instance_type)),
        ]
        for pool in pools
    }
    return LaunchOptions(
        source,
        [pool for pool in pools if pool not in unusable],
        prices,
        facts.constraints,
        left,
        unusable,
        unusable_markets(pools, facts.limits),
        primary,
    )


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
            avoid=options.own_pool(agent),
            excluded=excluded,
            risks=risks,
            spot_prices=options.prices,
            on_demand_prices=ctx.on_demand_prices,
            loads=loads,
            on_demand=is_emergency or allows_on_demand,
            left_behind=options.left_behind,
            away=may_leave_targets(ctx, options, incident),
        )

    tried |= set(options.no_market)
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


def remember_options(
    connection: Connection, agent: Agent, options: LaunchOptions, now: datetime
) -> bool:
    """Store what was seen of the primary; return False if that is stored, or nothing was seen."""
    primary = options.primary
    if agent.instance_id is None or primary is None or primary.network is None:
        return False
    return remember_place(
        connection, agent.id, agent.instance_id, primary, options.constraints, now
    )


def may_leave_targets(ctx: Context, options: LaunchOptions, incident: Incident | None) -> bool:
    """Return True if a standby may be launched where a target cannot follow."""
    is_emergency = incident is not None and incident.is_emergency
    setting = ctx.settings.launch_away_from_targets
    return may_launch_away(setting, options.constraints, is_emergency=is_emergency)


def _like_primary(ctx: Context, agent: Agent, known: KnownPlace) -> LaunchConfiguration | None:
    """Return the parameters of an instance like the primary; None if they are not known.

    EC2 shows an ended instance without its network, and later not at all: then the parameters that
    were stored are used, as far as there are any.
    """
    stored = known.configuration
    if stored is not None:
        pool = parse_pool(agent.pool_id)
        stored = replace(stored, primary_pool=pool or stored.primary_pool)
    if agent.instance_id is None:
        return None
    try:
        seen = ctx.ec2.like_instance(agent.instance_id)
    except CloudError as error:
        if error.remedy is Remedy.WAIT or stored is None:
            raise
        return stored
    if seen is None or (seen.network is None and stored is not None):
        return stored
    if stored is not None and "UserData" in stored.parameters:
        # Seen before the right was taken away; an instance without user data has none stored.
        lost = [gap for gap in seen.gaps if USER_DATA_GAP in gap]
        if lost:
            user_data = {"UserData": stored.parameters["UserData"]}
            gaps = tuple(gap for gap in seen.gaps if gap not in lost)
            seen = replace(seen, parameters={**seen.parameters, **user_data}, gaps=gaps)
    return seen


def _launch_configuration(
    ctx: Context, agent: Agent, primary: LaunchConfiguration | None
) -> LaunchConfiguration:
    """Return the launch parameters of the first source that the agent has.

    The sources are its launch template, its primary, and the launch template of the settings.
    """
    if agent.launch_template:
        return ctx.ec2.like_template(agent.launch_template, primary)
    if primary is not None:
        return primary
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
