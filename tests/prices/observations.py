"""Observations for tests: short constructors, and strategies for difficult sets."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from sef.prices.series import CleaningRules, Observation, Point
from sef.terms import Flag, Interpolation, Source

T = datetime(2024, 3, 1, 12, tzinfo=UTC)
RULES = CleaningRules()


def at(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def primary(seconds: float, price: str = "0.05") -> Observation:
    return Observation(Source.PRIMARY, at(seconds), Decimal(price))


def replica(seconds: float, price: str = "0.05") -> Observation:
    return Observation(Source.REPLICA, at(seconds), Decimal(price))


def holds(point: Point, seen: Observation) -> bool:
    return (seen.source, seen.at) in point.observation_keys()


def seconds_of(moment: datetime) -> float:
    return (moment - T).total_seconds()


def shown(rows: Sequence[Point]) -> list[tuple[float, str, str]]:
    """Return rows as (seconds after T, price, flag)."""
    return [(seconds_of(row.at), f"{row.price.normalize():f}", row.flag.value) for row in rows]


CLOSE = (0, 1, 14, 15, 16, 29, 30, 31, 45, 59, 60, 61)
WIDE = (90, 150, 299, 300, 599, 600, 601, 900, 1770, 1799, 1800, 1801, 1830, 1831, 3700, 4000)
NUDGES = tuple(timedelta(microseconds=n) for n in (0, 0, 0, 0, 1, -1, 500_000))

sources = st.sampled_from(Source)
prices = st.one_of(
    st.sampled_from(
        # The smallest and the largest; the worked case; exactly 5 % apart, and slightly more.
        [Decimal(1).scaleb(-8), Decimal(2).scaleb(-8), Decimal("999.99999999"), Decimal(1000)]
        + [Decimal(price) for price in ("0.0456", "0.0458", "0.05", "0.06")]
        + [Decimal(price) for price in ("0.975", "1.025", "0.97499999", "1.02500001")]
    ),
    st.decimals(Decimal(1).scaleb(-8), 1000, places=8),
)
steps = st.one_of(st.sampled_from(CLOSE), st.sampled_from(CLOSE + WIDE))

rules = st.one_of(
    st.just(RULES),
    st.builds(
        CleaningRules,
        pairing_tolerance=st.sampled_from(
            [timedelta(seconds=s) for s in (0, 0.000001, 15, 30, 60, 600, 7200)]
        ),
        divergence_limit=st.sampled_from([Decimal(limit) for limit in ("0", "0.05", "2")]),
        gap_detection_threshold=st.sampled_from(
            [timedelta(seconds=s) for s in (0, 30, 600, 1800, 4000)]
        ),
        interpolation_max_gap=st.sampled_from(
            [timedelta(seconds=s) for s in (0, 1, 30, 601, 1800, 4000)]
        ),
        interpolation_step=st.sampled_from(
            [timedelta(seconds=s) for s in (100, 299.999999, 300, 600, 601, 5000)]
        ),
        interpolation_method=st.sampled_from(Interpolation),
    ),
)


def _laid_out(steps_taken: Sequence[tuple[int, timedelta, Source, Decimal]]) -> list[Observation]:
    moment = T
    seen: dict[Any, Observation] = {}
    for step, nudge, source, price in steps_taken:
        moment += timedelta(seconds=step)
        seen[source, moment + nudge] = Observation(source, moment + nudge, price)
    return sorted(seen.values(), key=lambda observation: observation.at)


def observation_sets(
    max_size: int = 12, *, steps: st.SearchStrategy[int] = steps, min_size: int = 1
) -> st.SearchStrategy[list[Observation]]:
    """Draw observations in order of time, no two of one source at one time."""
    taken = st.tuples(steps, st.sampled_from(NUDGES), sources, prices)
    return st.lists(taken, min_size=min_size, max_size=max_size).map(_laid_out)


dense_sets = observation_sets(12, steps=st.sampled_from(CLOSE), min_size=3)


@st.composite
def batches(draw: Any, observations: Sequence[Observation], repeats: int = 5) -> Any:
    """Draw batches of the observations in any order, some of them repeated."""
    again = draw(st.lists(st.sampled_from(observations), max_size=repeats))
    order = draw(
        st.one_of(
            st.just([*observations, *again]),
            st.permutations([*observations, *again]),
        )
    )
    return draw(split(order))


@st.composite
def split(draw: Any, order: Sequence[Observation]) -> Any:
    """Draw a division of one sequence into batches."""
    cuts = draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)))
    parts: list[list[Observation]] = []
    for observation, begins in zip(order, cuts, strict=True):
        if begins or not parts:
            parts.append([])
        parts[-1].append(observation)
    return parts


@st.composite
def deliveries(draw: Any, sets: st.SearchStrategy[list[Observation]] | None = None) -> Any:
    return draw(batches(draw(observation_sets() if sets is None else sets)))


@st.composite
def deliveries_with_corrections(draw: Any, max_size: int = 10) -> Any:
    """Draw `deliveries` in which some observations are repeated with another price."""
    observations = draw(observation_sets(max_size))
    corrections = draw(
        st.lists(
            st.builds(
                lambda seen, price: Observation(seen.source, seen.at, price),
                st.sampled_from(observations),
                prices,
            ),
            min_size=1,
            max_size=5,
        )
    )
    return draw(batches([*observations, *corrections], repeats=3))


NORMAL, AVERAGED = Flag.NORMAL.value, Flag.AVERAGED.value
DIVERGENT, INTERPOLATED = Flag.DIVERGENT.value, Flag.INTERPOLATED.value
