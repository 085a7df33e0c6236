"""The instance that a report speaks for, and the doors to the place of the known primary."""

from datetime import UTC, datetime, timedelta

import pytest

from sef.identity import Door, Role, may_become_primary, role_of, source_of
from sef.terms import ReplicaStatus, Source

NOW = datetime(2024, 1, 1, tzinfo=UTC)
P, R = Source.PRIMARY, Source.REPLICA


@pytest.mark.parametrize("door", Door)
@pytest.mark.parametrize("role", Role)
def test_the_instances_that_may_become_the_known_primary(door: Door, role: Role) -> None:
    by_operator = set(Role) - {Role.STANDBY}
    allowed = by_operator if door is Door.OPERATOR else {Role.UNKNOWN}
    assert may_become_primary(door, role) is (role in allowed)


@pytest.mark.parametrize(
    ("replica", "was_primary", "has_incident", "role"),
    [
        (None, False, False, Role.UNKNOWN),
        (None, False, True, Role.SIGNALLED),
        (None, True, False, Role.FORMER),
        (ReplicaStatus.LAUNCHING, False, False, Role.STANDBY),
        (ReplicaStatus.READY, True, True, Role.STANDBY),
        (ReplicaStatus.RELEASING, False, True, Role.RELEASING),
        (ReplicaStatus.PROMOTED, True, False, Role.FORMER),
        (ReplicaStatus.PROMOTED, False, False, Role.PROMOTED),
        (ReplicaStatus.TERMINATED, False, False, Role.ENDED),
        (ReplicaStatus.FAILED, False, True, Role.ENDED),
    ],
)
def test_the_role_of_an_instance(
    replica: ReplicaStatus | None, was_primary: bool, has_incident: bool, role: Role
) -> None:
    assert role_of(replica, was_primary=was_primary, has_incident=has_incident) is role


@pytest.mark.parametrize(
    ("claimed", "named", "seconds", "is_launched", "source"),
    [
        pytest.param(P, None, 0, True, P, id="unnamed"),
        pytest.param(R, None, 0, True, R, id="unnamed-replica"),
        pytest.param(P, "i-standby", 0, True, R, id="standby-that-claims-nothing"),
        pytest.param(R, "i-primary", 0, True, P, id="primary-that-was-a-replica"),
        pytest.param(P, "i-primary", -1, True, R, id="primary-before-its-promotion"),
        pytest.param(R, "i-primary", -1, False, R, id="before-an-operator-named-it"),
        pytest.param(P, "i-primary", -1, False, P, id="before-sef-knew-it"),
        pytest.param(P, "i-former", 0, True, P, id="former-primary"),
        pytest.param(R, "i-former", 0, True, R, id="former-primary-as-replica"),
    ],
)
def test_the_source_of_a_report(
    claimed: Source, named: str | None, seconds: int, is_launched: bool, source: Source
) -> None:
    found = source_of(
        claimed,
        named,
        NOW + timedelta(seconds=seconds),
        primary="i-primary",
        primary_since=NOW,
        is_launched=is_launched,
        standby="i-standby",
    )
    assert found is source
