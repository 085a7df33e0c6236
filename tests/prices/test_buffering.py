"""The first of a pair waits for its other half while a standby is expected to report it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from sef.prices.series import CleaningRules, Observation, clean_series
from sef.terms import Flag, Source
from smart_emergency_fallback import SmartEmergencyFallback
from tests.db.rows import add_ready_standby, stored_points, transaction, waiting_sources
from tests.harness import MakeSef

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
T = NOW - timedelta(seconds=10)


class Watch:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


Report = Callable[..., dict[str, Any]]


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def guarded(make_sef: MakeSef, watch: Watch, database_url: str) -> SmartEmergencyFallback:
    """SEF, and agent `a` whose standby has just become ready."""
    sef = make_sef(clock=watch)
    add_ready_standby(database_url, "a", NOW)
    return sef


def report(sef: SmartEmergencyFallback, at: datetime = T, **fields: Any) -> dict[str, Any]:
    body = {"spot_price": 0.0456, "pool_id": "p", "timestamp": at.isoformat()} | fields
    return sef.process_incoming_data("a", "pricing", body)


def flags(url: str) -> list[str]:
    return [str(point.flag) for point in stored_points(url, "a", "p")]


@pytest.mark.parametrize("first", ["primary", "replica"])
def test_a_half_waits_and_the_pair_is_stored(
    guarded: SmartEmergencyFallback, database_url: str, first: str
) -> None:
    halves = [
        {"spot_price": 0.0456},
        {"spot_price": 0.0458, "is_replica": True, "at": T + timedelta(seconds=20)},
    ]
    if first == "replica":
        halves.reverse()

    told = report(guarded, **halves[0])
    assert (told["status"], told["data_quality_flag"]) == ("buffered", None)
    assert told["processed_by"] == "smart_emergency_fallback"
    assert waiting_sources(database_url, "a") == [first]
    assert flags(database_url) == []

    told = report(guarded, **halves[1])
    assert told["status"] == "success"
    assert (told["data_quality_flag"], told["spot_price"]) == ("averaged_dual_source", 0.0457)
    assert told["timestamp"] == "2024-03-01T11:59:50Z"
    assert waiting_sources(database_url, "a") == []
    assert flags(database_url) == ["averaged_dual_source"]


def test_a_half_is_released_after_300_seconds_and_not_before(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    report(guarded)
    watch.forward(299.999999)
    assert guarded.cleanup_old_buffers() == 0
    assert (waiting_sources(database_url, "a"), flags(database_url)) == (["primary"], [])
    watch.forward(0.000001)
    assert guarded.cleanup_old_buffers() == 1
    assert (waiting_sources(database_url, "a"), flags(database_url)) == ([], ["normal"])
    assert guarded.cleanup_old_buffers() == 0


def test_the_window_is_a_setting(make_sef: MakeSef, watch: Watch, database_url: str) -> None:
    sef = make_sef(clock=watch, data_retention_window=20)
    add_ready_standby(database_url, "a", NOW)
    report(sef)
    watch.forward(20)
    assert sef.cleanup_old_buffers() == 1
    assert flags(database_url) == ["normal"]


def test_a_half_that_comes_after_the_release_still_makes_the_pair(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    report(guarded)
    watch.forward(300)
    guarded.cleanup_old_buffers()
    told = report(guarded, spot_price=0.0458, is_replica=True)
    assert (told["status"], told["data_quality_flag"]) == ("success", "averaged_dual_source")
    assert flags(database_url) == ["averaged_dual_source"]


def test_a_report_releases_what_is_overdue_in_its_series(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    report(guarded)
    watch.forward(300)
    told = report(guarded, at=watch.now)
    assert told["status"] == "buffered"
    assert flags(database_url) == ["normal"]
    assert waiting_sources(database_url, "a") == ["primary"]


@pytest.mark.parametrize(
    ("seconds", "status"),
    [
        pytest.param(599.999999, "buffered", id="within ten minutes"),
        pytest.param(600, "success", id="after ten minutes"),
    ],
)
def test_a_new_standby_is_waited_for_ten_minutes(
    guarded: SmartEmergencyFallback, watch: Watch, seconds: float, status: str
) -> None:
    watch.forward(seconds)
    assert report(guarded)["status"] == status


@pytest.mark.parametrize(
    ("silence", "status"),
    [
        pytest.param(599.999999, "buffered", id="within ten minutes"),
        pytest.param(600, "success", id="after ten minutes"),
    ],
)
def test_a_replica_that_is_silent_for_ten_minutes_is_not_waited_for(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str, silence: float, status: str
) -> None:
    watch.forward(1000)
    report(guarded, at=watch.now, is_replica=True)
    assert report(guarded, at=watch.now)["data_quality_flag"] == "averaged_dual_source"
    watch.forward(silence)
    assert report(guarded, at=watch.now)["status"] == status


def test_a_replica_of_another_pool_does_not_count(
    guarded: SmartEmergencyFallback, watch: Watch
) -> None:
    watch.forward(1000)
    report(guarded, at=watch.now, is_replica=True, pool_id="another")
    assert report(guarded, at=watch.now)["status"] == "success"


def test_without_a_ready_standby_nothing_waits(make_sef: MakeSef, watch: Watch) -> None:
    sef = make_sef(clock=watch)
    assert report(sef, is_replica=True)["status"] == "success"
    assert report(sef, at=T + timedelta(seconds=60))["status"] == "success"


def test_another_agents_standby_does_not_count(
    make_sef: MakeSef, watch: Watch, database_url: str
) -> None:
    sef = make_sef(clock=watch)
    add_ready_standby(database_url, "b", NOW)
    assert report(sef)["status"] == "success"


def test_what_waits_survives_a_restart(
    guarded: SmartEmergencyFallback, make_sef: MakeSef, watch: Watch, database_url: str
) -> None:
    report(guarded)
    guarded.close()
    again = make_sef(clock=watch)
    assert waiting_sources(database_url, "a") == ["primary"]
    told = report(again, spot_price=0.0458, is_replica=True)
    assert told["data_quality_flag"] == "averaged_dual_source"
    assert flags(database_url) == ["averaged_dual_source"]


def test_what_waits_is_counted_and_not_shown(guarded: SmartEmergencyFallback) -> None:
    report(guarded)
    report(guarded, at=T - timedelta(minutes=5))
    assert guarded.price_series("a") == []
    quality = guarded.get_agent_status("a")["data_quality"]
    assert (quality["points"], quality["buffered"]) == (0, 2)


def test_a_repeat_of_what_waits_waits_once(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    report(guarded)
    watch.forward(200)
    assert report(guarded)["status"] == "buffered"
    assert waiting_sources(database_url, "a") == ["primary"]
    watch.forward(100)  # a repeat does not make it wait longer
    assert guarded.cleanup_old_buffers() == 1
    assert flags(database_url) == ["normal"]


def test_a_correction_of_what_waits_stands(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    report(guarded)
    assert report(guarded, spot_price=0.05)["status"] == "buffered"
    watch.forward(300)
    guarded.cleanup_old_buffers()
    assert [point.price for point in stored_points(database_url, "a", "p")] == [Decimal("0.05")]


def test_of_a_backfill_only_what_has_no_other_half_waits(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    seen = [
        Observation(source, T - timedelta(minutes=20 * number), Decimal("0.05"))
        for number in range(5)
        for source in Source
        if (number, source) != (2, Source.REPLICA)
    ]
    told = guarded.process_batch(
        [
            {
                "agent_id": "a",
                "spot_price": one.price,
                "pool_id": "p",
                "timestamp": one.at.isoformat(),
                "is_replica": one.source is Source.REPLICA,
            }
            for one in seen
        ]
    )
    assert (told["accepted"], told["buffered"]) == (8, 1)
    watch.forward(300)
    guarded.cleanup_old_buffers()
    assert stored_points(database_url, "a", "p") == clean_series(seen, CleaningRules())


def test_a_standby_that_is_gone_releases_what_waits(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    report(guarded)
    with transaction(database_url) as connection:
        connection.exec_driver_sql(
            "UPDATE replica_instances SET status = 'failed', live_agent_id = NULL"
        )
    assert report(guarded, at=T + timedelta(seconds=60))["status"] == "success"
    assert flags(database_url) == [Flag.NORMAL, Flag.NORMAL]
    assert waiting_sources(database_url, "a") == []
