"""The stored rows depend on the set of observations only, as in `clean_series`."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sef.errors import Unavailable
from sef.prices.series import CleaningRules, Observation, clean_series
from sef.terms import Source
from smart_emergency_fallback import SmartEmergencyFallback
from tests.db.rows import add_ready_standby, row_counts, stored_points
from tests.harness import MakeSef

START = datetime(2024, 3, 1, tzinfo=UTC)
RULES = CleaningRules()
POOL = "m5.large.us-east-1a"
ON_MARIADB = pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)

FEW = settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)


def payload(seen: Observation) -> dict[str, Any]:
    return {
        "spot_price": seen.price,
        "pool_id": POOL,
        "timestamp": seen.at.isoformat(),
        "is_replica": seen.source is Source.REPLICA,
    }


def report(agent_id: str, seen: Observation) -> dict[str, Any]:
    return {"agent_id": agent_id, **payload(seen)}


def send(
    sef: SmartEmergencyFallback, agent_id: str, batches: Sequence[Sequence[Observation]]
) -> None:
    """Send batches; a batch of one observation as a single report."""
    for batch in batches:
        if len(batch) == 1:
            answer = sef.process_incoming_data(agent_id, "pricing", payload(batch[0]))
            assert answer["status"] in ("success", "buffered")
        else:
            answer = sef.process_batch([report(agent_id, seen) for seen in batch])
            assert answer["rejected"] == []


def cut(items: Sequence[Any], cuts: Sequence[int]) -> list[Sequence[Any]]:
    ends = [*sorted({n % len(items) for n in cuts} - {0}), len(items)]
    return [items[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


# Steps at the thresholds of every rule, and small steps that make pairs compete for one partner.
STEPS = [
    0.000001,
    1,
    14,
    15,
    29.999999,
    30,
    31,
    60,
    300,
    599,
    600,
    601,
    900,
    1200,
    1800,
    1801,
    4000,
]
PRICES = ["0.00000001", "0.0456", "0.0458", "0.05", "0.0524", "0.05256", "0.06", "999.99999999"]


@st.composite
def observation_sets(draw: st.DrawFn) -> list[Observation]:
    """Draw observations, no two of them of one source at one time."""
    at, observations = START, []
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=14)):
        at += timedelta(seconds=step)
        sources = draw(st.sampled_from([[Source.PRIMARY], [Source.REPLICA], list(Source)]))
        for source in sources:
            observations.append(Observation(source, at, Decimal(draw(st.sampled_from(PRICES)))))
    return observations


@ON_MARIADB
@FEW
@given(data=st.data())
def test_any_order_repetition_and_split_gives_the_clean_series(
    sef: SmartEmergencyFallback, database_url: str, data: st.DataObject
) -> None:
    observations = data.draw(observation_sets())
    repeated = data.draw(st.lists(st.sampled_from(observations), max_size=6))
    sent = data.draw(st.permutations(observations + repeated))
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=5))
    agent_id = uuid4().hex

    send(sef, agent_id, cut(sent, cuts))

    assert stored_points(database_url, agent_id, POOL) == clean_series(observations, RULES)


@ON_MARIADB
@FEW
@given(data=st.data())
def test_the_last_received_correction_counts(
    sef: SmartEmergencyFallback, database_url: str, data: st.DataObject
) -> None:
    instants = st.sampled_from([START + timedelta(seconds=s) for s in (0, 10, 25, 700, 2000)])
    made = st.builds(
        Observation, st.sampled_from(Source), instants, st.sampled_from(PRICES).map(Decimal)
    )
    sent = data.draw(st.lists(made, min_size=1, max_size=20))
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=6))
    agent_id = uuid4().hex

    send(sef, agent_id, cut(sent, cuts))

    last = {(seen.source, seen.at): seen for seen in sent}
    assert stored_points(database_url, agent_id, POOL) == clean_series(last.values(), RULES)


@pytest.mark.parametrize("order", ["in order", "newest first", "shuffled"])
def test_a_long_series_is_the_same_from_one_transaction_and_from_many(
    sef: SmartEmergencyFallback, database_url: str, order: str
) -> None:
    observations = long_series(random.Random(7), 300)
    sent = list(observations)
    if order == "newest first":
        sent.reverse()
    elif order == "shuffled":
        random.Random(8).shuffle(sent)

    send(sef, "at-once", [sent])
    send(sef, "in-parts", [sent[i : i + 25] for i in range(0, len(sent), 25)])

    expected = clean_series(observations, RULES)
    assert stored_points(database_url, "at-once", POOL) == expected
    assert stored_points(database_url, "in-parts", POOL) == expected


@pytest.mark.parametrize("widest", [14_400, 40 * 86_400], ids=["hours", "weeks"])
@pytest.mark.parametrize("restarted", [True, False], ids=["a restart", "an attribute"])
def test_a_late_report_removes_the_fills_of_a_gap_that_is_too_wide_by_now(
    make_sef: MakeSef, database_url: str, widest: int, restarted: bool
) -> None:
    def primary(seconds: float, price: str) -> Observation:
        return Observation(Source.PRIMARY, START + timedelta(seconds=seconds), Decimal(price))

    step = widest / 48
    wide = make_sef(interpolation_max_gap=widest, interpolation_step_seconds=step)
    ends = [primary(0, "0.01"), primary(widest, "0.05")]
    send(wide, "a", [[seen] for seen in ends])
    assert len(stored_points(database_url, "a", POOL)) == 49
    narrow = make_sef() if restarted else wide
    narrow.interpolation_max_gap = 1800
    late = primary(widest / 2, "0.5")
    send(narrow, "a", [[late]])
    assert stored_points(database_url, "a", POOL) == clean_series([*ends, late], RULES)


def long_series(chance: random.Random, length: int) -> list[Observation]:
    """Return observations of a primary and, for half of them, a replica, without repeats."""
    at, observations = START, {}
    for _ in range(length):
        at += timedelta(seconds=chance.choice(STEPS))
        price = Decimal(chance.randrange(4_000_000, 6_000_000)).scaleb(-8)
        seen = Observation(Source.PRIMARY, at, price)
        observations[seen.source, seen.at] = seen
        if chance.random() < 0.5:
            later = at + timedelta(seconds=chance.choice([-20, -1, 0, 1, 20, 31]))
            close = (price * Decimal("1.01")).quantize(Decimal("0.00000001"))
            seen = Observation(Source.REPLICA, later, close)
            observations[seen.source, seen.at] = seen
    return list(observations.values())


def send_with_patience(sef: SmartEmergencyFallback, reports: Sequence[dict[str, Any]]) -> None:
    """Send reports, and send them again after a 503, as a client does."""
    for _ in range(20):
        try:
            assert sef.process_batch(reports)["rejected"] == []
            return
        except Unavailable:
            continue
    raise AssertionError("the database stayed too busy")


@pytest.mark.parametrize("series", [1, 3])
@pytest.mark.parametrize("has_standby", [False, True], ids=["stored at once", "buffered"])
def test_concurrent_writers_give_the_clean_series(
    make_sef: MakeSef, database_url: str, series: int, has_standby: bool
) -> None:
    writers, now = 6, datetime.now(UTC)
    agents = [f"agent-{number}" for number in range(series)]
    observations = {
        agent_id: long_series(random.Random(agent_id), 60 // series) for agent_id in agents
    }
    if has_standby:
        make_sef()  # creates the tables
        for agent_id in agents:
            add_ready_standby(database_url, agent_id, now)
    everything = [report(agent_id, seen) for agent_id in agents for seen in observations[agent_id]]

    def write(number: int) -> None:
        chance = random.Random(number)
        # Its own share and a fifth of the shares of the other writers.
        mine = [
            entry
            for index, entry in enumerate(everything)
            if index % writers == number or chance.random() < 0.2
        ]
        chance.shuffle(mine)
        sef = make_sef(clock=lambda: now)
        while mine:
            size = chance.choice([1, 2, 5, 10])
            send_with_patience(sef, mine[:size])
            mine = mine[size:]

    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(write, range(writers)))
    if has_standby:
        assert row_counts(database_url)["buffered_observations"] > 0

    make_sef(clock=lambda: now + timedelta(seconds=300)).cleanup_old_buffers()

    assert row_counts(database_url)["buffered_observations"] == 0
    for agent_id in agents:
        expected = clean_series(observations[agent_id], RULES)
        assert stored_points(database_url, agent_id, POOL) == expected
