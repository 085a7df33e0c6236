"""What the past says of a pool, and which pools are left alone."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, case, func, or_, select

from sef.agents import Agent
from sef.clock import iso
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


def pool_entries(
    connection: Connection, now: datetime, settled_after: timedelta
) -> list[dict[str, Any]]:
    """What is known of each pool that has a past, a primary or a cooldown."""
    histories = pool_histories(connection, now, settled_after)
    leads = lead_times(connection, now)
    primaries = primaries_of_pools(connection)
    cooldowns = cooldowns_of_pools(connection, now)
    entries = []
    for pool_id in sorted({*histories, *primaries, *cooldowns}):
        history = histories.get(pool_id, risk.History())
        judged = risk.assess_for_launch(history)
        entries.append(
            {
                "pool_id": pool_id,
                "agents": primaries.get(pool_id, 0),
                "recommendations": history.recommendations,
                "followed": history.terminations,
                "terminations": history.all_terminations,
                "precision": _share(history.precision),
                "recall": _share(history.recall),
                "lead_time_seconds": _spread(leads.get(pool_id, [])),
                "risk": {"score": judged.score, "reasons": list(judged.reasons)},
                "cooldowns": [
                    {"market": row.market, "reason": row.error_code, "until": iso(row.until)}
                    for row in cooldowns.get(pool_id, [])
                ],
            }
        )
    return entries


def _share(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def _spread(values: Sequence[float]) -> dict[str, Any] | None:
    """The least, the median and the most of some seconds."""
    if not values:
        return None
    return {
        "least": round(min(values), 3),
        "median": round(median(values), 3),
        "most": round(max(values), 3),
    }


PRICES_FROM = timedelta(hours=24)
"""How far back prices count for the pressure on a pool."""

HISTORY = timedelta(days=90)
"""How far back a pool's past is looked at."""


def history_and_fleet(
    connection: Connection, pool_id: str | None, now: datetime, settled_after: timedelta
) -> tuple[History, History]:
    """The past of a pool, and that of all others together."""
    by_pool = dict(pool_histories(connection, now, settled_after))
    here = by_pool.pop(pool_id or "", History())
    others = by_pool.values()
    return here, History(
        sum(history.recommendations for history in others),
        sum(history.terminations for history in others),
        sum(history.unannounced for history in others),
    )


def history_of(
    connection: Connection, pool_id: str, now: datetime, settled_after: timedelta
) -> History:
    """The past of one pool."""
    return pool_histories(connection, now, settled_after, pool_id).get(pool_id, History())


def pool_histories(
    connection: Connection, now: datetime, settled_after: timedelta, pool_id: str | None = None
) -> Mapping[str, History]:
    """The past of each pool that has one, or of one pool alone.

    A recommendation is settled when a termination followed, or when none did for `settled_after`.
    """
    given: dict[str, Any] = {"since": now - HISTORY, "settled": now - settled_after}
    statement = _OF_ALL_POOLS
    if pool_id is not None:
        statement, given = _OF_ONE_POOL, given | {"pool": pool_id}
    rows = connection.execute(statement, given)
    return {
        row.pool_id: History(row.recommendations, row.terminations, row.unannounced) for row in rows
    }


def _histories(condition: ColumnElement[bool]) -> Select[Any]:
    """Built once: a promotion asks, and to build it takes as long as five simple statements."""
    columns = incidents.c
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
        .where(condition, or_(and_(is_recommended, is_settled), is_unannounced))
        .group_by(columns.pool_id)
    )


def _count(*conditions: Any) -> Any:
    return func.count(case((and_(*conditions), 1)))


_OF_ALL_POOLS = _histories(incidents.c.pool_id.is_not(None))
_OF_ONE_POOL = _histories(incidents.c.pool_id == bindparam("pool"))


def lead_times(connection: Connection, now: datetime) -> Mapping[str, Sequence[float]]:
    """By pool, the seconds from each first recommendation to the termination that followed."""
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
        seconds = (row.termination_at - row.detected_at).total_seconds()
        leads.setdefault(row.pool_id, []).append(seconds)
    return leads


def primaries_of_pools(connection: Connection) -> Mapping[str, int]:
    """How many agents have their primary in each pool."""
    rows = connection.execute(
        select(agents.c.pool_id, func.count())
        .where(agents.c.pool_id.is_not(None))
        .group_by(agents.c.pool_id)
    )
    return {pool_id: count for pool_id, count in rows}  # noqa: C416


def cooldowns_of_pools(connection: Connection, now: datetime) -> Mapping[str, Sequence[Any]]:
    """The rows of the pools that are left alone now, by pool."""
    columns = unavailable_pools.c
    found: dict[str, list[Any]] = {}
    for row in connection.execute(
        select(unavailable_pools).where(columns.until > now).order_by(columns.market)
    ):
        found.setdefault(row.pool_id, []).append(row)
    return found


def recent_prices(
    connection: Connection, agent_id: str, pool_id: str | None, since: datetime
) -> Sequence[Decimal]:
    """The observed prices of a series since then, oldest first; interpolated ones never count."""
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
    """Assess the risk that the agent's primary is interrupted, from its pool's past and price."""
    settled_after = timedelta(seconds=ctx.settings.standby_ttl_seconds)
    here, elsewhere = history_and_fleet(connection, agent.pool_id, now, settled_after)
    pool = parse_pool(agent.pool_id)
    return risk.assess(
        here,
        elsewhere,
        recent_prices(connection, agent.id, agent.pool_id, now - PRICES_FROM),
        ctx.on_demand_prices.get(pool.instance_type) if pool else None,
    )
