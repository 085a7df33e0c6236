"""How likely a pool's instance is to be interrupted, from what happened before. No model to train.

A pool's past is the share of its rebalance recommendations that ended in a termination. Few
recommendations say little, so the share is a Beta posterior mean whose prior is the share of the
rest of the fleet; with no history anywhere that is 0.5. The price only pushes the risk up.

That is the risk once AWS has recommended to rebalance. A pool for a new instance is chosen before
anything is announced: there a termination that came without a recommendation counts as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

PRIOR_STRENGTH = 4.0
"""How many recommendations the fleet's share counts for."""

PRESSURE_WEIGHT = 0.5
"""How much of the remaining distance to 1 one kind of full price pressure takes."""

STEEP_RISE = 0.5
"""A rise of the spot price by this share, over the prices given, is full pressure."""

UNKNOWN = 0.5
"""The risk of a pool when nothing has happened in it or anywhere else."""

CALM_PRICE_RATIO = 0.5
"""Below this share of the on-demand price closeness exerts no pressure; at 1 it is full."""


@dataclass(frozen=True, slots=True)
class History:
    """What happened in a pool, or in several."""

    recommendations: int = 0
    """Those that are settled: a termination followed, or none did for long enough."""
    terminations: int = 0
    """How many of the recommendations a termination followed."""
    unannounced: int = 0
    """Terminations, announced or found out, that no recommendation preceded."""

    @property
    def all_terminations(self) -> int:
        return self.terminations + self.unannounced

    @property
    def precision(self) -> float | None:
        """The share of the recommendations that a termination followed."""
        return self.terminations / self.recommendations if self.recommendations else None

    @property
    def recall(self) -> float | None:
        """The share of the terminations that a recommendation preceded."""
        return self.terminations / self.all_terminations if self.all_terminations else None


@dataclass(frozen=True, slots=True)
class Risk:
    score: float
    reasons: tuple[str, ...]


def assess(
    pool: History,
    elsewhere: History = History(),
    prices: Sequence[Decimal] = (),
    on_demand_price: Decimal | None = None,
) -> Risk:
    """The risk that a termination follows a recommendation, 0 to 1, with what it rests on.

    Args:
        pool: what happened in the pool itself.
        elsewhere: what happened in all other pools.
        prices: recent observed (never interpolated) prices of the pool, oldest first.
        on_demand_price: of the pool's instance type, where known.
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
    reasons.extend(_forewarned(pool))

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
    """The risk of a pool in which an instance is to be launched, 0 to 1.

    Whatever endangered an instance there counts once: a recommendation, or a termination without
    one. The risk is the share that ended in a termination. Other pools do not count: they are what
    it is compared with.
    """
    endangered = pool.recommendations + pool.unannounced
    if not endangered:
        return Risk(UNKNOWN, (f"no history in this pool, prior {UNKNOWN:.2f}",))
    past = _posterior(UNKNOWN, pool.all_terminations, endangered)
    said = (
        f"{pool.all_terminations} of the {endangered} times that an instance in this pool was "
        f"endangered it was terminated, prior {UNKNOWN:.2f}: {past:.2f}"
    )
    return Risk(round(past, 4), (said, *_forewarned(pool)))


def _posterior(prior: float, terminations: int, of: int) -> float:
    return (PRIOR_STRENGTH * prior + terminations) / (PRIOR_STRENGTH + of)


def _forewarned(pool: History) -> list[str]:
    if not pool.all_terminations:
        return []
    return [
        f"a recommendation preceded {pool.terminations} of {pool.all_terminations} terminations"
    ]
