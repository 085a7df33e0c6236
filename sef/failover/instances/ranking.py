"""Spot pools, an instance type in a zone, and the order in which they are tried for a standby."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from sef.terms import Market, Pool

RISK_STEP = 0.05
"""Risks are told apart in steps of this size; within one the price decides."""

LAUNCHES_PER_POOL = 5
"""So many launches go to one pool before the next of its risk has its turn."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pool that could be tried, and why it stands where it does."""

    pool: Pool
    market: Market
    risk: float
    price: Decimal | None

    @property
    def reason(self) -> str:
        price = "price unknown" if self.price is None else f"${self.price.normalize():f}/h"
        return f"{self.market} in {self.pool}, risk {self.risk:.2f}, {price}"


def rank(
    pools: Iterable[Pool],
    *,
    avoid: Pool | None,
    excluded: Collection[tuple[str, Market]],
    risks: Mapping[str, float],
    spot_prices: Mapping[str, Decimal],
    on_demand_prices: Mapping[str, Decimal],
    on_demand: bool,
    zone: str | None = None,
    loads: Mapping[str, int] = MappingProxyType({}),
) -> list[Candidate]:
    """The pools to try, best first: spot by risk, then by price; then on-demand when allowed.

    Many launches at once are spread over the pools of one risk, `SPREAD` to each in turn: they
    would compete for what is left of the cheapest, and be interrupted together the next time.

    Args:
        avoid: the pool of the instance that is to be replaced. Interruptions of one type and zone
            come together, so it is never tried for spot, and last for on-demand.
        excluded: pools, by market, that were tried already or have had no capacity of late.
        risks: by pool id; a pool that is not named is at 0.5.
        spot_prices: by pool id. A pool without one comes after its equals.
        on_demand_prices: by instance type.
        zone: where the instance has to be to be given what it needs, such as its volumes. All that
            is there comes first, on-demand too: elsewhere it could not do its work.
        loads: launches on spot of late, by pool id.
    """
    distinct = sorted(set(pools))
    spot = [
        Candidate(pool, Market.SPOT, risks.get(str(pool), 0.5), spot_prices.get(str(pool)))
        for pool in distinct
        if pool != avoid
    ]

    def order(candidate: Candidate) -> tuple[int, int, bool, Decimal]:
        turn = loads.get(str(candidate.pool), 0) // LAUNCHES_PER_POOL
        return (round(candidate.risk / RISK_STEP), turn, *_price_order(candidate.price))

    spot.sort(key=order)
    rest = []
    if on_demand:
        rest = [
            Candidate(pool, Market.ON_DEMAND, 0.0, on_demand_prices.get(pool.instance_type))
            for pool in distinct
        ]
        rest.sort(key=lambda c: (c.pool == avoid, *_price_order(c.price)))
    candidates = [c for c in spot + rest if (str(c.pool), c.market) not in excluded]
    if zone is not None:
        candidates.sort(key=lambda c: c.pool.zone != zone)
    return candidates


def _price_order(price: Decimal | None) -> tuple[bool, Decimal]:
    return (price is None, price or Decimal(0))
