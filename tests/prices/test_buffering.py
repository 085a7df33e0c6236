"""The first half of a pair is buffered while a standby is expected to report the other half."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import update

from sef.db.tables import price_series
from sef.prices.series import CleaningRules, Observation, clean_series
from sef.terms import Flag, Source
from smart_emergency_fallback import SmartEmergencyFallback
from tests.db.rows import add_ready_standby, stored_points, transaction, waiting_sources
from tests.harness import MakeSef

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
T = NOW - timedelta(seconds=10)


class Watch:
    """A clock that moves only by `forward`."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def guarded(make_sef: MakeSef, watch: Watch, database_url: str) -> SmartEmergencyFallback:
    """Build SEF with an agent `a` whose standby has just become ready."""
    sef = make_sef(clock=watch)
    add_ready_standby(database_url, "a", NOW)
    return sef


def report(sef: SmartEmergencyFallback, at: datetime = T, **fields: Any) -> dict[str, Any]:
    body = {"spot_price": 0.0456, "pool_id": "p", "timestamp": at.isoformat()} | fields
    return sef.process_incoming_data("a", "pricing", body)


def flags(url: str) -> list[str]:
    return [str(point.flag) for point in stored_points(url, "a", "p")]


@pytest.mark.parametrize("first", ["primary", "replica"])
def test_the_first_half_waits_and_the_pair_is_stored(
    guarded: SmartEmergencyFallback, database_url: str, first: str
) -> None:
    halves = [
        {"spot_price": 0.0456},
        {"spot_price": 0.0458, "is_replica": True, "at": T + timedelta(seconds=20)},
    ]
    if first == "replica":
        halves.reverse()

    answer = report(guarded, **halves[0])
    assert (answer["status"], answer["data_quality_flag"]) == ("buffered", None)
    assert answer["processed_by"] == "smart_emergency_fallback"
    assert waiting_sources(database_url, "a") == [first]
    assert flags(database_url) == []

    answer = report(guarded, **halves[1])
    assert answer["status"] == "success"
    assert (answer["data_quality_flag"], answer["spot_price"]) == ("averaged_dual_source", 0.0457)
    assert answer["timestamp"] == "2024-03-01T11:59:50Z"
    assert waiting_sources(database_url, "a") == []
    assert flags(database_url) == ["averaged_dual_source"]


def test_a_lone_half_is_stored_after_300_seconds_and_not_before(
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


@ON_SQLITE
def test_data_retention_window_sets_the_waiting_time(
    make_sef: MakeSef, watch: Watch, database_url: str
) -> None:
    sef = make_sef(clock=watch, data_retention_window=20)
    add_ready_standby(database_url, "a", NOW)
    report(sef)
    watch.forward(20)
    assert sef.cleanup_old_buffers() == 1
    assert flags(database_url) == ["normal"]


def test_a_half_that_arrives_after_the_wait_still_makes_the_pair(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    report(guarded)
    watch.forward(300)
    guarded.cleanup_old_buffers()
    answer = report(guarded, spot_price=0.0458, is_replica=True)
    assert (answer["status"], answer["data_quality_flag"]) == ("success", "averaged_dual_source")
    assert flags(database_url) == ["averaged_dual_source"]


def test_a_report_releases_overdue_observations_of_its_series(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    report(guarded)
    watch.forward(300)
    answer = report(guarded, at=watch.now)
    assert answer["status"] == "buffered"
    assert flags(database_url) == ["normal"]
    assert waiting_sources(database_url, "a") == ["primary"]


@ON_SQLITE
@pytest.mark.parametrize(
    ("seconds", "status"),
    [
        pytest.param(599.999999, "buffered", id="within ten minutes"),
        pytest.param(600, "success", id="after ten minutes"),
    ],
)
def test_a_report_waits_for_a_new_standby_for_ten_minutes(
    guarded: SmartEmergencyFallback, watch: Watch, seconds: float, status: str
) -> None:
    watch.forward(seconds)
    assert report(guarded)["status"] == status


@ON_SQLITE
@pytest.mark.parametrize(
    ("silence", "status"),
    [
        pytest.param(599.999999, "buffered", id="within ten minutes"),
        pytest.param(600, "success", id="after ten minutes"),
    ],
)
def test_a_report_does_not_wait_for_a_replica_silent_for_ten_minutes(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str, silence: float, status: str
) -> None:
    watch.forward(1000)
    report(guarded, at=watch.now, is_replica=True)
    assert report(guarded, at=watch.now)["data_quality_flag"] == "averaged_dual_source"
    watch.forward(silence)
    assert report(guarded, at=watch.now)["status"] == status


@ON_SQLITE
def test_a_report_does_not_wait_for_a_replica_of_another_pool(
    guarded: SmartEmergencyFallback, watch: Watch
) -> None:
    watch.forward(1000)
    report(guarded, at=watch.now, is_replica=True, pool_id="another")
    assert report(guarded, at=watch.now)["status"] == "success"


@ON_SQLITE
def test_a_report_does_not_wait_without_a_ready_standby(make_sef: MakeSef, watch: Watch) -> None:
    sef = make_sef(clock=watch)
    assert report(sef, is_replica=True)["status"] == "success"
    assert report(sef, at=T + timedelta(seconds=60))["status"] == "success"


def test_a_report_does_not_wait_for_the_standby_of_another_agent(
    make_sef: MakeSef, watch: Watch, database_url: str
) -> None:
    sef = make_sef(clock=watch)
    add_ready_standby(database_url, "b", NOW)
    assert report(sef)["status"] == "success"


def test_waiting_observations_survive_a_restart(
    guarded: SmartEmergencyFallback, make_sef: MakeSef, watch: Watch, database_url: str
) -> None:
    report(guarded)
    guarded.close()
    again = make_sef(clock=watch)
    assert waiting_sources(database_url, "a") == ["primary"]
    answer = report(again, spot_price=0.0458, is_replica=True)
    assert answer["data_quality_flag"] == "averaged_dual_source"
    assert flags(database_url) == ["averaged_dual_source"]


def test_waiting_observations_are_counted_and_not_in_the_series(
    guarded: SmartEmergencyFallback,
) -> None:
    report(guarded)
    report(guarded, at=T - timedelta(minutes=5))
    assert guarded.price_series("a") == []
    quality = guarded.get_agent_status("a")["data_quality"]
    assert (quality["points"], quality["buffered"]) == (0, 2)


@ON_SQLITE
def test_a_repeat_of_a_waiting_report_does_not_wait_longer(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    report(guarded)
    watch.forward(200)
    assert report(guarded)["status"] == "buffered"
    assert waiting_sources(database_url, "a") == ["primary"]
    watch.forward(100)  # 300 s after the first report
    assert guarded.cleanup_old_buffers() == 1
    assert flags(database_url) == ["normal"]


def test_a_correction_replaces_a_waiting_report(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    report(guarded)
    assert report(guarded, spot_price=0.05)["status"] == "buffered"
    watch.forward(300)
    guarded.cleanup_old_buffers()
    assert [point.price for point in stored_points(database_url, "a", "p")] == [Decimal("0.05")]


def test_only_the_lone_halves_of_a_backfill_wait(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    observations = [
        Observation(source, T - timedelta(minutes=20 * number), Decimal("0.05"))
        for number in range(5)
        for source in Source
        if (number, source) != (2, Source.REPLICA)
    ]
    answer = guarded.process_batch(
        [
            {
                "agent_id": "a",
                "spot_price": observation.price,
                "pool_id": "p",
                "timestamp": observation.at.isoformat(),
                "is_replica": observation.source is Source.REPLICA,
            }
            for observation in observations
        ]
    )
    assert (answer["accepted"], answer["buffered"]) == (8, 1)
    watch.forward(300)
    guarded.cleanup_old_buffers()
    assert stored_points(database_url, "a", "p") == clean_series(observations, CleaningRules())


def test_waiting_observations_are_released_without_a_standby(
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


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_a_series_that_raises_does_not_delay_the_others(
    guarded: SmartEmergencyFallback, watch: Watch, database_url: str
) -> None:
    report(guarded)
    add_ready_standby(database_url, "b", NOW)
    body = {"spot_price": 0.0456, "pool_id": "p", "timestamp": T.isoformat()}
    assert guarded.process_incoming_data("b", "pricing", body)["status"] == "buffered"
    # The next version of the series does not fit into its column.
    with transaction(database_url) as connection:
        columns = price_series.c
        connection.execute(
            update(price_series).where(columns.agent_id == "a").values(version=2**63 - 1)
        )
    watch.forward(300)
    assert guarded.cleanup_old_buffers() == 1
    assert waiting_sources(database_url, "a") == ["primary"]
    assert waiting_sources(database_url, "b") == []
