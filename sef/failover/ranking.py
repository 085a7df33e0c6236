"""Rank the pools in which a standby can be launched."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from types import MappingProxyType

from sef.terms import Market, Pool

RISK_STEP = 0.05
"""Size of a risk step. Pools in the same step are ordered by load and price."""

LAUNCHES_PER_POOL = 5
"""Number of launches into one pool before the next pool of the same risk step is preferred."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pool and market in which a launch can be tried, with the values that rank it.

    `price` is in US dollars per hour; None if unknown.
    """

    pool: Pool
    market: Market
    risk: float
    price: Decimal | None
    left_behind: tuple[str, ...] = ()
    """The cutover targets that cannot follow an instance of this pool."""

    @property
    def reason(self) -> str:
        """Return the values that rank the candidate, for messages."""
        price = "price unknown" if self.price is None else f"${self.price.normalize():f}/h"
        reason = f"{self.market} in {self.pool}, risk {self.risk:.2f}, {price}"
        if not self.left_behind:
            return reason
        return f"{reason}, where {', '.join(self.left_behind)} cannot follow"


def rank(
    pools: Iterable[Pool],
    *,
    avoid: Pool | None,
    excluded: Collection[tuple[str, Market]],
    risks: Mapping[str, float],
    spot_prices: Mapping[str, Decimal],
    on_demand_prices: Mapping[str, Decimal],
    on_demand: bool,
    left_behind: Mapping[str, Collection[str]] = MappingProxyType({}),
    away: bool = True,
    loads: Mapping[str, int] = MappingProxyType({}),
) -> list[Candidate]:
    """Return the pools to try, best first: spot by risk, load and price, then on-demand by price.

    Many launches at a time are spread over the pools of one risk step, `LAUNCHES_PER_POOL` to each
    in turn. Otherwise they would compete for the capacity of the cheapest pool, and be interrupted
    together later.

    Args:
        avoid: the pool of the instance to be replaced. Interruptions of one type and zone come
            together, so this pool is never tried for spot, and last for on-demand.
        excluded: pools, with their market, that were tried already or are on cooldown.
        risks: risk by pool id; 0.5 for a pool without an entry.
        spot_prices: spot price by pool id. A pool without a price comes after its equals.
        on_demand_prices: on-demand price by instance type.
        on_demand: add on-demand candidates.
        left_behind: cutover targets that cannot follow, by pool id. Pools with fewer of them come
            first, on-demand too.
        away: False: leave out the pools where a target cannot follow.
        loads: number of recent spot launches by pool id.
    """
    distinct = sorted(set(pools))
    spot = [
        Candidate(pool, Market.SPOT, risks.get(str(pool), 0.5), spot_prices.get(str(pool)))
        for pool in distinct
        if pool != avoid
    ]
    spot.sort(key=lambda c: _spot_order(c, loads))
    fallback = []
    if on_demand:
        fallback = [
            Candidate(pool, Market.ON_DEMAND, 0.0, on_demand_prices.get(pool.instance_type))
            for pool in distinct
        ]
        fallback.sort(key=lambda c: (c.pool == avoid, *_price_order(c.price)))
    candidates = [
        replace(c, left_behind=tuple(left_behind.get(str(c.pool), ())))
        for c in spot + fallback
        if (str(c.pool), c.market) not in excluded
    ]
    candidates.sort(key=lambda c: len(c.left_behind))
    return candidates if away else [c for c in candidates if not c.left_behind]


def _spot_order(candidate: Candidate, loads: Mapping[str, int]) -> tuple[int, int, bool, Decimal]:
    turn = loads.get(str(candidate.pool), 0) // LAUNCHES_PER_POOL
    return (round(candidate.risk / RISK_STEP), turn, *_price_order(candidate.price))


def _price_order(price: Decimal | None) -> tuple[bool, Decimal]:
    return (price is None, price or Decimal(0))
