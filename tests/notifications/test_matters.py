"""The matter of a message: what differs between two retries is no part of it."""

import pytest

from sef.notifications.matters import MATTER_LENGTH, in_kind, matter_key

DENIED = "EC2 refuses the launch: UnauthorizedOperation: not allowed"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{DENIED}. Request ID: 3fa85f64-5717-4562-b3fc-2c963f66afa6", f"{DENIED}. Request ID: 1"),
        (f"{DENIED}: {'aB3' * 30}", f"{DENIED}: {'xY7' * 40}"),
        ("i-0123456789abcdef0 is missing", "i-0fedcba9876543210 is missing"),
        ("since 2026-11-29T06:00:00Z", "since 2026-11-29 07:30:01.5"),
        ("no room in m5.large.us-east-1a", "no room in r6i.2xlarge.eu-west-3b"),
        ("no pool has capacity (all are on cooldown)", "no pool has capacity (Unsupported)"),
        ("the whole fleet has 9 live instances", "the whole fleet has 10 live instances"),
    ],
)
def test_details_that_each_retry_changes_are_one_matter(one: str, other: str) -> None:
    assert in_kind(one) == in_kind(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("UnauthorizedOperation: no", "InvalidKeyPair.NotFound: no"),
        ("sg-0123456789abcdef0 is missing", "sg-0fedcba9876543210 is missing"),
        ("elastic_ip eipalloc-0a1b2c3d: refused", "elastic_ip eipalloc-9f8e7d6c: refused"),
        ("9 instances (limit: SEF_MAX_INSTANCES)", "9 instances (limit: SEF_MAX_LAUNCHES)"),
    ],
)
def test_another_cause_is_another_matter(one: str, other: str) -> None:
    assert in_kind(one) != in_kind(other)


def test_a_key_depends_on_every_part_and_on_their_order() -> None:
    keys = {matter_key(*parts) for parts in (("a", "b"), ("b", "a"), ("ab",), ("a", "b", ""))}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {MATTER_LENGTH}
