"""An exception that ended one step is logged and told once, for each episode of it."""

import logging

import pytest
from sqlalchemy.exc import OperationalError

from sef.errors import Unavailable
from sef.notifications.failures import report_failure
from tests.harness import ONCE, World


def told(world: World) -> list[str]:
    rows = [n for n in world.rows("notifications", None) if "internal error" in n.title]
    assert len(rows) == len(
        [e for e in world.rows("system_events", None) if e.event_type == "internal_error"]
    )
    assert {row.severity for row in rows} <= {"error"}
    return [f"{n.agent_id}: {n.body.split('.')[0]}" for n in rows]


@ONCE
def test_a_failure_is_told_once_until_it_ends(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    workers = [world.sef()._context, world.sef(ahead=2)._context]
    for _ in range(40):
        for ctx in workers:
            report_failure(ctx, "a", "reconcile", ValueError("odd\nwith SQL and its values"))
        world.clock.advance(60)
    assert told(world) == ["a: reconcile failed with ValueError: odd"]
    logged = [r for r in caplog.records if r.exc_info]
    assert [r.getMessage() for r in logged] == ["SEF: reconcile for agent a failed; SEF retries"]
    world.clock.advance(3600)
    report_failure(workers[0], "a", "reconcile", ValueError("odd"))
    assert len(told(world)) == 2


@ONCE
def test_another_agent_step_or_exception_is_another_matter(world: World) -> None:
    ctx = world.sef()._context
    for _ in range(3):
        for agent in ("a", "b", None):
            for step in ("reconcile", "drill"):
                for error in (ValueError("x"), KeyError("x")):
                    report_failure(ctx, agent, step, error)
    assert len(told(world)) == 12


@ONCE
def test_a_failure_of_the_database_is_only_logged(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sef = world.sef()
    with caplog.at_level(logging.WARNING, "sef"):
        for _ in range(3):
            report_failure(sef._context, "a", "reconcile", Unavailable())
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    caplog.clear()

    def away(*_: object) -> None:
        raise OperationalError("SELECT 1", None, Exception("gone"))

    monkeypatch.setattr(sef._database, "write", away)
    for _ in range(3):
        report_failure(sef._context, "a", "reconcile", ValueError("odd"))
    assert [r.levelname for r in caplog.records] == ["WARNING", "ERROR"]
    assert told(world) == []
