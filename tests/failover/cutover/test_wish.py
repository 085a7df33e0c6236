"""The steps in which a cutover differs from the targets that its agent has now."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sef.failover.cutover.events import TARGET_REMOVED
from sef.failover.cutover.plan import wanted_steps
from sef.failover.cutover.rows import CutoverStep
from sef.failover.cutover.wish import Difference, difference
from sef.terms import StepKind, StepStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADDRESS = {"elastic_ip": "eipalloc-0abc1234"}
OTHER = {"elastic_ip": "eipalloc-0abc9999"}
HOOKS = {"webhooks": {"before": "https://a.example/b", "after": "https://a.example/a"}}


def rows(targets: Any, status: StepStatus = StepStatus.DONE) -> list[CutoverStep]:
    return [
        CutoverStep(
            "cutover-1", position, kind, target, status, 1, NOW, NOW, None, None, None,
            is_hurried=False, is_guarded=False, error=None, version=1,
        )
        for position, (kind, target) in enumerate(wanted_steps(targets))
    ]  # fmt: skip


def kinds(changes: Difference) -> tuple[list[StepKind], list[StepKind], list[StepKind]]:
    missing = [kind for kind, _ in changes.missing]
    return missing, [s.kind for s in changes.again], [s.kind for s in changes.unwanted]


@pytest.mark.parametrize("status", list(StepStatus))
def test_same_targets_change_nothing(status: StepStatus) -> None:
    targets = ADDRESS | HOOKS
    assert not difference(rows(targets, status), targets)
    assert not difference(rows(targets, status), targets, targets)


def test_corrected_target_is_a_new_step_and_the_old_one_is_unwanted() -> None:
    steps = rows(ADDRESS, StepStatus.FAILED)
    changes = difference(steps, OTHER, ADDRESS)
    assert kinds(changes) == ([StepKind.ELASTIC_IP], [], [StepKind.ELASTIC_IP])


def test_step_that_is_done_is_no_longer_unwanted() -> None:
    assert kinds(difference(rows(ADDRESS), OTHER, ADDRESS)) == ([StepKind.ELASTIC_IP], [], [])


@pytest.mark.parametrize("status", [StepStatus.SKIPPED, StepStatus.DONE])
def test_target_that_is_put_back_is_moved_again(status: StepStatus) -> None:
    error = TARGET_REMOVED if status is StepStatus.SKIPPED else None
    steps = [replace(step, status=status, error=error) for step in rows(ADDRESS)]
    assert StepKind.ELASTIC_IP in kinds(difference(steps, ADDRESS, {}, is_open=False))[1]


def test_step_without_time_is_not_made_again() -> None:
    steps = [replace(s, status=StepStatus.SKIPPED, error="no time") for s in rows(ADDRESS)]
    assert not difference(steps, ADDRESS, {})


def test_webhook_that_was_sent_is_not_sent_again() -> None:
    other_hooks = {"webhooks": {"before": "https://b.example/b", "after": "https://b.example/a"}}
    steps = rows(ADDRESS | HOOKS)
    assert kinds(difference(steps, OTHER | other_hooks, ADDRESS | HOOKS)) == (
        [StepKind.ELASTIC_IP], [], [],
    )  # fmt: skip


def test_webhook_that_waits_is_corrected() -> None:
    steps = rows(ADDRESS | HOOKS, StepStatus.PENDING)
    after = {"webhooks": {**HOOKS["webhooks"], "after": "https://b.example/a"}}
    changes = difference(steps, ADDRESS | after, ADDRESS | HOOKS)
    assert kinds(changes) == ([StepKind.WEBHOOK_AFTER], [], [StepKind.WEBHOOK_AFTER])


def test_webhook_alone_does_not_open_a_cutover_that_is_over() -> None:
    assert not difference(rows(ADDRESS), ADDRESS | HOOKS, ADDRESS, is_open=False)


def test_all_targets_removed_leave_nothing_to_do() -> None:
    changes = difference(rows(ADDRESS, StepStatus.PENDING), None, ADDRESS)
    assert kinds(changes) == ([], [], [StepKind.RUNNING, StepKind.ELASTIC_IP])
