"""Remember a target between its detachment and its attachment, and know what carries it."""

from datetime import UTC, datetime, timedelta

import pytest

from sef.cloud.changes import PlannedChange
from sef.cloud.placement import Binding
from sef.failover.cutover.carriers import carriers
from sef.failover.cutover.taken import Taken
from sef.terms import StepKind

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def nothing() -> None:
    pass


TAKE = PlannedChange("detached", nothing, is_all=False, holder="i-1", bound={"device": "/dev/sdf"})
GIVE = PlannedChange("attached", nothing, is_all=False)
TAKEN = Taken().after_claim(TAKE, None, NOW)
GIVEN = TAKEN.after_claim(GIVE, None, NOW)


def test_holder_is_remembered_before_it_gives_the_target() -> None:
    assert (TAKEN.instance_id, TAKEN.bound) == ("i-1", {"device": "/dev/sdf"})
    assert Taken.read(GIVEN.to_column()) == GIVEN
    assert Taken().to_column() is None


@pytest.mark.parametrize(
    ("taken", "is_final", "after", "goes_back"),
    [
        (GIVEN, True, timedelta(0), True),
        (GIVEN, False, timedelta(0), False),
        (GIVEN, False, MINUTE, True),
        (TAKEN, True, MINUTE, False),  # the detachment failed, not the attachment
        (Taken(), True, MINUTE, False),  # nobody had it
    ],
)
def test_target_goes_back_once_the_new_primary_is_refused_it(
    taken: Taken, is_final: bool, after: timedelta, goes_back: bool
) -> None:
    refused = taken.after_refusal("no", is_final=is_final, patience=MINUTE, now=NOW + after)
    assert refused.goes_back is goes_back


def test_target_that_went_back_is_taken_anew() -> None:
    refused = GIVEN.after_refusal("no", is_final=True, patience=MINUTE, now=NOW)
    back = refused.after_claim(GIVE, "m5.large", NOW)
    assert not back.goes_back
    assert back.after_claim(TAKE, None, NOW) == TAKEN


BINDING = Binding("i-1", "eni-1", 0, "10.0.0.9", is_first=False)
INTERFACE, ADDRESS = (StepKind.NETWORK_INTERFACE, "eni-1"), (StepKind.PRIVATE_IP, "10.0.0.9")


@pytest.mark.parametrize(
    ("kind", "moving", "expected"),
    [
        (StepKind.ELASTIC_IP, {ADDRESS}, {StepKind.PRIVATE_IP}),
        (StepKind.ELASTIC_IP, {(StepKind.PRIVATE_IP, "10.0.0.8")}, set()),
        (
            StepKind.ELASTIC_IP,
            {INTERFACE, ADDRESS},
            {StepKind.NETWORK_INTERFACE, StepKind.PRIVATE_IP},
        ),
        (StepKind.PRIVATE_IP, {INTERFACE, ADDRESS}, {StepKind.NETWORK_INTERFACE}),
        (StepKind.DNS, {INTERFACE}, set()),
    ],
)
def test_carriers_of_a_target(
    kind: StepKind, moving: set[tuple[StepKind, str]], expected: set[StepKind]
) -> None:
    assert carriers(kind, "x", {f"{kind} x": BINDING}, moving) == expected
    assert carriers(kind, "x", {}, moving) == set()
