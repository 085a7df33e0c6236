"""Assess the risk that an instance of a pool is interrupted, from the history of the pool.

After a rebalance recommendation, the risk is the share of the pool's recommendations that ended in
a termination. Few recommendations prove little, so the share is the mean of a Beta posterior. Its
prior is the share of the rest of the fleet, or 0.5 without any history. Prices can only raise the
risk.

Before a launch, AWS has announced nothing yet: terminations without a recommendation count as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

PRIOR_STRENGTH = 4.0
"""Weight of the prior, in recommendations."""

PRESSURE_WEIGHT = 0.5
"""Share of the remaining distance to 1 that one kind of price pressure adds at most."""

STEEP_RISE = 0.5
"""Rise of the spot price, as a share, from which the pressure is full."""

UNKNOWN = 0.5
"""Risk of a pool without history, when no other pool has history either."""

CALM_PRICE_RATIO = 0.5
"""Share of the on-demand price up to which there is no pressure; at 1 the pressure is full."""


@dataclass(frozen=True, slots=True)
class History:
    """Counts of recommendations and terminations in a pool, or in several pools."""

    recommendations: int = 0
    """Settled recommendations: a termination followed, or the time for one is over."""
    terminations: int = 0
    """Recommendations that a termination followed."""
    unannounced: int = 0
    """Terminations without a recommendation, with a notice or found by SEF."""

    @property
    def all_terminations(self) -> int:
        return self.terminations + self.unannounced

    @property
    def precision(self) -> float | None:
        """Share of the recommendations that a termination followed; None without any."""
        return self.terminations / self.recommendations if self.recommendations else None

    @property
    def recall(self) -> float | None:
        """Share of the terminations that a recommendation preceded; None without any."""
        return self.terminations / self.all_terminations if self.all_terminations else None


@dataclass(frozen=True, slots=True)
class Risk:
    """The risk of an interruption."""

    score: float
    """From 0 to 1; rounded to four decimals."""
    reasons: tuple[str, ...]
    """The facts that the score follows from, as clauses for messages."""


def assess(
    pool: History,
    elsewhere: History = History(),
    prices: Sequence[Decimal] = (),
    on_demand_price: Decimal | None = None,
) -> Risk:
    """Return the risk that a termination follows a recommendation, with its reasons.

    Args:
        pool: history of the pool.
        elsewhere: history of all other pools together.
        prices: recent observed (not interpolated) spot prices of the pool, oldest first, in USD/h.
        on_demand_price: of the pool's instance type, in USD/h; None if unknown.
    """
    prior = (elsewhere.terminations + 1) / (elsewhere.recommendations + 2)
    past = _posterior(prior, pool.terminations, pool.recommendations)
    if pool.recommendations:
        reasons = [
            f"{pool.terminations} of {pool.recommendations} recommendations in this pool ended "
            f"in a termination, prior {prior:.2f}: {past:.2f}"
        ]
    else:
        reasons = [f"no history in this pool, prior {prior:.2f}"]
    reasons.extend(_recall_reasons(pool))

    calm = 1.0 - past
    if len(prices) >= 2 and prices[-1] > prices[0]:
        rise = float(prices[-1] / prices[0] - 1)
        calm *= 1 - PRESSURE_WEIGHT * min(rise / STEEP_RISE, 1.0)
        reasons.append(f"price up by {rise:.0%}")
    if prices and on_demand_price:
        ratio = float(prices[-1] / on_demand_price)
        if ratio > CALM_PRICE_RATIO:
            closeness = min((ratio - CALM_PRICE_RATIO) / (1 - CALM_PRICE_RATIO), 1.0)
            calm *= 1 - PRESSURE_WEIGHT * closeness
            reasons.append(f"price at {ratio:.0%} of on-demand")
    return Risk(round(1.0 - calm, 4), tuple(reasons))


def assess_for_launch(pool: History) -> Risk:
    """Return the risk of launching an instance in a pool, with its reasons.

    The risk is the share of the pool's incidents that ended in a termination; an incident is a
    recommendation, or a termination without one. Other pools do not count, since the risk is
    compared with theirs.
    """
    incidents = pool.recommendations + pool.unannounced
    if not incidents:
        return Risk(UNKNOWN, (f"no history in this pool, prior {UNKNOWN:.2f}",))
    past = _posterior(UNKNOWN, pool.all_terminations, incidents)
    reason = (
        f"{pool.all_terminations} of {incidents} incidents in this pool ended in a termination, "
        f"prior {UNKNOWN:.2f}: {past:.2f}"
    )
    return Risk(round(past, 4), (reason, *_recall_reasons(pool)))


def _posterior(prior: float, terminations: int, of: int) -> float:
    return (PRIOR_STRENGTH * prior + terminations) / (PRIOR_STRENGTH + of)


def _recall_reasons(pool: History) -> list[str]:
    if not pool.all_terminations:
        return []
    return [
        f"a recommendation preceded {pool.terminations} of {pool.all_terminations} terminations"
    ]
