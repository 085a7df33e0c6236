"""Read the history of pools: incidents, prices, cooldowns; assess the risk of a primary.

The history of a pool consists of the incidents of its instances during `HISTORY`, whichever agent
they belong to.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from statistics import median
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, case, func, or_, select

from sef.agents import Agent
from sef.clock import iso, milliseconds
from sef.context import Context
from sef.db.tables import (
    agents,
    incidents,
    pricing_reports,
    spot_interruption_events,
    unavailable_pools,
)
from sef.failover.incidents import risk
from sef.failover.incidents.risk import History, Risk
from sef.terms import Flag, SignalType, parse_pool

PRICE_HISTORY = timedelta(hours=24)
"""Age up to which prices count for the price pressure on a pool."""

HISTORY = timedelta(days=90)
"""Age up to which incidents count for the history of a pool."""


def pool_entries(
    connection: Connection, now: datetime, settled_after: timedelta
) -> list[dict[str, Any]]:
    """Return the fields of each pool that has a history, a primary or a cooldown.

    Args:
        settled_after: time without a termination after which a recommendation is settled.
    """
    histories = pool_histories(connection, now, settled_after)
    lead_times_of_pools = lead_times(connection, now)
    primaries = primaries_of_pools(connection)
    cooldowns = cooldowns_of_pools(connection, now)
    entries = []
    for pool_id in sorted({*histories, *primaries, *cooldowns}):
        history = histories.get(pool_id, History())
        assessed = risk.assess_for_launch(history)
        entries.append(
            {
                "pool_id": pool_id,
                "agents": primaries.get(pool_id, 0),
                "recommendations": history.recommendations,
                "followed": history.terminations,
                "terminations": history.all_terminations,
                "precision": _share(history.precision),
                "recall": _share(history.recall),
                "lead_time_seconds": _spread(lead_times_of_pools.get(pool_id, [])),
                "risk": {"score": assessed.score, "reasons": list(assessed.reasons)},
                "cooldowns": [
                    {"market": row.market, "reason": row.error_code, "until": iso(row.until)}
                    for row in cooldowns.get(pool_id, [])
                ],
            }
        )
    return entries


def history_and_fleet(
    connection: Connection, pool_id: str | None, now: datetime, settled_after: timedelta
) -> tuple[History, History]:
    """Return the history of a pool, and that of all other pools together."""
    by_pool = dict(pool_histories(connection, now, settled_after))
    of_pool = by_pool.pop(pool_id or "", History())
    others = by_pool.values()
    return of_pool, History(
        sum(history.recommendations for history in others),
        sum(history.terminations for history in others),
        sum(history.unannounced for history in others),
    )


def history_of(
    connection: Connection, pool_id: str, now: datetime, settled_after: timedelta
) -> History:
    """Return the history of one pool."""
    return pool_histories(connection, now, settled_after, pool_id).get(pool_id, History())


def pool_histories(
    connection: Connection, now: datetime, settled_after: timedelta, pool_id: str | None = None
) -> Mapping[str, History]:
    """Return the history of each pool that has one, or that of one pool alone.

    Args:
        settled_after: a recommendation counts when a termination followed, or after this time.
    """
    parameters: dict[str, Any] = {"since": now - HISTORY, "settled": now - settled_after}
    if pool_id is not None:
        parameters["pool"] = pool_id
    rows = connection.execute(_histories(of_one_pool=pool_id is not None), parameters)
    return {
        row.pool_id: History(row.recommendations, row.terminations, row.unannounced) for row in rows
    }


@cache
def _histories(*, of_one_pool: bool) -> Select[Any]:
    """Build the statement that counts recommendations and terminations by pool.

    Every promotion executes the statement. Building it takes as long as five simple statements, so
    it is built once.
    """
    columns = incidents.c
    is_wanted = (
        columns.pool_id == bindparam("pool") if of_one_pool else columns.pool_id.is_not(None)
    )
    is_recommended = columns.rebalance_at > bindparam("since")
    is_settled = or_(
        columns.termination_at.is_not(None), columns.rebalance_at <= bindparam("settled")
    )
    is_unannounced = and_(
        columns.termination_at > bindparam("since"), columns.rebalance_at.is_(None)
    )
    return (
        select(
            columns.pool_id,
            _count(is_recommended, is_settled).label("recommendations"),
            _count(is_recommended, columns.termination_at.is_not(None)).label("terminations"),
            _count(is_unannounced).label("unannounced"),
        )
        .where(is_wanted, or_(and_(is_recommended, is_settled), is_unannounced))
        .group_by(columns.pool_id)
    )


def _count(*conditions: Any) -> Any:
    return func.count(case((and_(*conditions), 1)))


def lead_times(connection: Connection, now: datetime) -> Mapping[str, Sequence[float]]:
    """Return the seconds from each first recommendation to its termination, by pool id."""
    incident, signal = incidents.c, spot_interruption_events.c
    rows = connection.execute(
        select(incident.pool_id, signal.detected_at, incident.termination_at)
        .join(spot_interruption_events, signal.incident_id == incident.id)
        .where(
            incident.pool_id.is_not(None),
            incident.termination_at > now - HISTORY,
            incident.rebalance_at.is_not(None),
            signal.signal_type == SignalType.REBALANCE,
        )
    )
    leads: dict[str, list[float]] = {}
    for row in rows:
        seconds = milliseconds(row.detected_at, row.termination_at) / 1000
        leads.setdefault(row.pool_id, []).append(seconds)
    return leads


def primaries_of_pools(connection: Connection) -> Mapping[str, int]:
    """Return the number of primaries in each pool, by pool id."""
    rows = connection.execute(
        select(agents.c.pool_id, func.count())
        .where(agents.c.pool_id.is_not(None))
        .group_by(agents.c.pool_id)
    )
    return {pool_id: count for pool_id, count in rows}  # noqa: C416


def cooldowns_of_pools(connection: Connection, now: datetime) -> Mapping[str, Sequence[Any]]:
    """Return the rows of the current cooldowns, by pool id."""
    columns = unavailable_pools.c
    cooldowns: dict[str, list[Any]] = {}
    for row in connection.execute(
        select(unavailable_pools).where(columns.until > now).order_by(columns.market)
    ):
        cooldowns.setdefault(row.pool_id, []).append(row)
    return cooldowns


def recent_prices(
    connection: Connection, agent_id: str, pool_id: str | None, since: datetime
) -> Sequence[Decimal]:
    """Return the observed prices of a series from `since` on, oldest first.

    Interpolated points are left out: no decision rests on them.
    """
    columns = pricing_reports.c
    return connection.scalars(
        select(columns.spot_price)
        .where(
            columns.agent_id == agent_id,
            columns.pool_id == pool_id,
            columns.timestamp >= since,
            columns.data_quality_flag != Flag.INTERPOLATED,
        )
        .order_by(columns.timestamp)
    ).all()


def assess_primary(connection: Connection, ctx: Context, agent: Agent, now: datetime) -> Risk:
    """Assess the risk that a primary is interrupted, from the history and prices of its pool."""
    settled_after = timedelta(seconds=ctx.settings.standby_ttl_seconds)
    history, elsewhere = history_and_fleet(connection, agent.pool_id, now, settled_after)
    pool = parse_pool(agent.pool_id)
    return risk.assess(
        history,
        elsewhere,
        recent_prices(connection, agent.id, agent.pool_id, now - PRICE_HISTORY),
        ctx.on_demand_prices.get(pool.instance_type) if pool else None,
    )


def _share(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def _spread(values: Sequence[float]) -> dict[str, Any] | None:
    """Return the minimum, the median and the maximum of `values`; None without values."""
    if not values:
        return None
    return {
        "least": round(min(values), 3),
        "median": round(median(values), 3),
        "most": round(max(values), 3),
    }
