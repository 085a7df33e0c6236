"""Reports that arrive at the same time share a transaction, without any effect on the answers."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from sef.errors import Unavailable
from sef.prices.series import CleaningRules, Observation, clean_series
from sef.terms import Source
from smart_emergency_fallback import SmartEmergencyFallback
from tests.db.rows import stored_points, transaction
from tests.harness import MakeSef
from tests.prices.test_series_laws_on_databases import POOL, long_series, payload
from tests.waiting import LIMIT, until

T = datetime(2024, 3, 1, tzinfo=UTC)


def report(minute: float, **fields: Any) -> dict[str, Any]:
    at = T + timedelta(minutes=minute)
    return {"spot_price": 0.05, "pool_id": "p", "timestamp": at.isoformat()} | fields


class HeldDatabase:
    """The database of a façade. Its next write blocks until `let_go`."""

    def __init__(self, sef: SmartEmergencyFallback) -> None:
        self._sef, self._write = sef, sef._database.write
        self._is_blocked, self._may_write = threading.Event(), threading.Event()
        sef._database.write = self._blocked  # type: ignore[method-assign]

    def _blocked(self, work: Any, *args: Any, **options: Any) -> Any:
        if not self._is_blocked.is_set():
            self._is_blocked.set()
            assert self._may_write.wait(2 * LIMIT)
        return self._write(work, *args, **options)

    def wait_for(self, waiting: int) -> None:
        """Wait until one report is being written and `waiting` reports are queued behind it."""
        assert self._is_blocked.wait(LIMIT)
        until(lambda: len(self._sef._reports._batcher._waiting) >= waiting)

    def let_go(self) -> None:
        self._may_write.set()
        self._sef._database.write = self._write  # type: ignore[method-assign]


def together(
    sef: SmartEmergencyFallback, reports: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[Any]:
    """Return the answer or the error of each report, all written in one group and in this order."""

    def send(entry: tuple[str, Mapping[str, Any]]) -> Any:
        try:
            return sef.process_incoming_data(entry[0], "pricing", entry[1])
        except Exception as error:
            return error

    database = HeldDatabase(sef)
    with ThreadPoolExecutor(len(reports) + 1) as threads:
        first = threads.submit(send, ("first", report(0)))
        futures = []
        for number, entry in enumerate(reports):
            database.wait_for(number)
            futures.append(threads.submit(send, entry))
        database.wait_for(len(reports))
        database.let_go()
        assert first.result()["status"] == "success"
        return [future.result() for future in futures]


CASES = [
    pytest.param(
        [("a", report(0)), ("a", report(20)), ("b", report(5)), ("a", report(10))],
        id="a gap and a report inside it",
    ),
    pytest.param(
        [("a", report(0)), ("a", report(0.1, is_replica=True, spot_price=0.051))],
        id="the two halves of a pair",
    ),
    pytest.param(
        [("a", report(0)), ("a", report(0)), ("a", report(0, spot_price=0.06))],
        id="a repeat and a correction",
    ),
    pytest.param(
        [("a", report(0, instance_id="i-1")), ("a", report(1, pool_id="q", instance_id="i-2"))],
        id="two pools of one agent",
    ),
]


@pytest.mark.parametrize("reports", CASES)
def test_each_report_of_a_group_gets_the_answer_it_would_get_alone(
    make_sef: MakeSef, reports: list[tuple[str, dict[str, Any]]]
) -> None:
    sef = make_sef()
    grouped = together(sef, reports)
    alone = [
        sef.process_incoming_data(f"{agent_id}-alone", "pricing", body)
        for agent_id, body in reports
    ]
    assert grouped == [
        answer | {"agent_id": answer["agent_id"].removesuffix("-alone")} for answer in alone
    ]
    for agent_id in {agent_id for agent_id, _ in reports}:
        assert sef.price_series(agent_id) == sef.price_series(f"{agent_id}-alone")
        one, other = (
            sef.get_agent_status(name)["agent"] for name in (agent_id, f"{agent_id}-alone")
        )
        assert (one["instance_id"], one["pool_id"]) == (other["instance_id"], other["pool_id"])


POISON = {
    "sqlite": "CREATE TRIGGER poison BEFORE INSERT ON pricing_reports WHEN NEW.spot_price = 666 "
    "BEGIN SELECT RAISE(ABORT, 'poison'); END",
    "mysql": "CREATE TRIGGER poison BEFORE INSERT ON pricing_reports FOR EACH ROW "
    "IF NEW.spot_price = 666 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'poison'; END IF",
}


@pytest.fixture
def poison(database_url: str, make_sef: MakeSef) -> Iterator[None]:
    """Make the database reject one price, as a defect would."""
    make_sef()
    with transaction(database_url) as connection:
        connection.execute(text(POISON[connection.dialect.name]))
    yield
    with transaction(database_url) as connection:
        connection.execute(text("DROP TRIGGER poison"))


@pytest.mark.usefixtures("poison")
def test_a_report_the_database_rejects_fails_alone(
    sef: SmartEmergencyFallback, database_url: str
) -> None:
    reports = [(f"a{number}", report(1)) for number in range(6)]
    reports[3] = ("a3", report(1, spot_price=666))
    answers = together(sef, reports)
    assert isinstance(answers[3], DBAPIError)
    assert "poison" in str(answers[3])
    assert [answer["status"] for answer in answers[:3] + answers[4:]] == ["success"] * 5
    assert [len(stored_points(database_url, f"a{n}", "p")) for n in range(6)] == [1, 1, 1, 0, 1, 1]


def test_reports_do_not_wait_for_a_locked_series_of_another_agent(
    make_sef: MakeSef, mariadb_url: str
) -> None:
    sef = make_sef(mariadb_url)
    sef.process_incoming_data("held", "pricing", report(0))
    with transaction(mariadb_url) as connection, ThreadPoolExecutor(1) as thread:
        lock = "SELECT * FROM price_series WHERE agent_id = 'held' AND pool_id = 'p' FOR UPDATE"
        connection.execute(text(lock)).all()
        others = [("a", report(1)), ("held", report(1)), ("b", report(1))]
        answers = thread.submit(together, sef, others)
        until(lambda: all(stored_points(mariadb_url, agent_id, "p") for agent_id in "ab"))
        assert not answers.done()
        connection.rollback()
        assert [answer["status"] for answer in answers.result(LIMIT)] == ["success"] * 3


def test_a_connection_lost_before_the_commit_loses_no_report(
    make_sef: MakeSef, mariadb: Any, mariadb_url: str
) -> None:
    sef = make_sef(mariadb_url)
    write = sef._database._transaction
    is_broken = []

    def transaction_that_breaks(work: Any, *args: Any, **options: Any) -> Any:
        def broken(connection: Any, *work_args: Any, **work_options: Any) -> Any:
            result = work(connection, *work_args, **work_options)
            if not is_broken:
                is_broken.append(True)
                mariadb.execute(f"KILL {connection.scalar(text('SELECT CONNECTION_ID()'))}")
                connection.execute(text("SELECT 1"))
            return result

        return write(broken, *args, **options)

    sef.process_incoming_data("a", "pricing", report(0))
    sef._database._transaction = transaction_that_breaks  # type: ignore[method-assign]
    answers = together(sef, [(name, report(1)) for name in "abcd"])
    assert [answer["status"] for answer in answers] == ["success"] * 4


@pytest.mark.parametrize("series", [1, 5])
def test_many_threads_give_the_clean_series(
    make_sef: MakeSef, database_url: str, series: int
) -> None:
    """Each thread sends its own share and some reports of the other shares, in random order."""
    threads, workers = 16, [make_sef(), make_sef()]
    agents = [f"agent-{number}" for number in range(series)]
    observations = {name: long_series(Random(name), 120 // series) for name in agents}
    everything = [(name, seen) for name in agents for seen in observations[name]]

    def send(number: int) -> None:
        dice = Random(number)
        mine = [entry for index, entry in enumerate(everything) if index % threads == number]
        mine += dice.sample(everything, len(everything) // 8)
        dice.shuffle(mine)
        for agent_id, seen in mine:
            send_until_stored(workers[number % 2], agent_id, seen)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(send, range(threads)))
    for name in agents:
        assert stored_points(database_url, name, POOL) == clean_series(
            observations[name], CleaningRules()
        )


def send_until_stored(sef: SmartEmergencyFallback, agent_id: str, seen: Observation) -> None:
    for _ in range(50):
        try:
            answer = sef.process_incoming_data(agent_id, "pricing", payload(seen))
        except Unavailable:
            continue
        assert answer["status"] == "success", answer
        return
    raise AssertionError("the database stayed too busy")


def test_the_last_acknowledged_correction_counts(
    sef: SmartEmergencyFallback, database_url: str
) -> None:
    """Reports of a client that waits for each answer are applied in its order."""

    def correct(number: int) -> None:
        for price in range(1, 16):
            body = report(number, spot_price=price / 100)
            assert sef.process_incoming_data("a", "pricing", body)["status"] == "success"

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(correct, range(8)))
    assert stored_points(database_url, "a", "p") == clean_series(
        [
            Observation(Source.PRIMARY, T + timedelta(minutes=number), Decimal("0.15"))
            for number in range(8)
        ],
        CleaningRules(),
    )
