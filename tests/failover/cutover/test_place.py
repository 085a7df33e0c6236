"""The rules of the places to which cutover targets can follow."""

import pytest

from sef.cloud.likeness import Network, Subnet
from sef.cloud.places import TypeLimits
from sef.failover.cutover.place import (
    Constraint,
    beyond_limits,
    is_possible,
    left_behind,
    may_launch_away,
    subnets_for,
)
from sef.terms import LaunchAway

A, B = "us-east-1a", "us-east-1b"
VOLUME = Constraint("volumes vol-1", A, frozenset({A}))
VOLUME_IN_B = Constraint("volumes vol-2", B, frozenset({B}))
ADDRESS = Constraint("private_ip 10.0.0.9", "s-1 in a", frozenset({A}), "s-1", "vpc-1")
ADDRESS_IN_2 = Constraint("private_ip 10.0.1.9", "s-2 in a", frozenset({A}), "s-2", "vpc-1")
GROUP = Constraint("target_groups arn", "vpc-1", None, None, "vpc-1")
OTHER_GROUP = Constraint("target_groups arn2", "vpc-2", None, None, "vpc-2")
FREE = Constraint("elastic_ip eipalloc-1", "any pool")


@pytest.mark.parametrize(
    ("place", "left"),
    [
        ((A, "s-1", "vpc-1"), []),
        ((A, "s-2", "vpc-1"), [ADDRESS.target]),
        ((A, None, None), [ADDRESS.target]),
        ((B, "s-3", "vpc-1"), [VOLUME.target, ADDRESS.target]),
        ((B, None, "vpc-2"), [VOLUME.target, ADDRESS.target, GROUP.target]),
    ],
)
def test_targets_that_cannot_follow_are_left_behind(place, left):
    assert left_behind([VOLUME, ADDRESS, GROUP, FREE], *place) == left


@pytest.mark.parametrize(
    ("constraints", "possible"),
    [
        ([], True),
        ([FREE], True),
        ([VOLUME, ADDRESS, GROUP, FREE], True),
        ([VOLUME, VOLUME_IN_B], False),
        ([ADDRESS, ADDRESS_IN_2], False),
        ([ADDRESS, OTHER_GROUP], False),
    ],
)
@pytest.mark.parametrize("setting", LaunchAway)
@pytest.mark.parametrize("is_emergency", [False, True])
def test_contradicting_targets_bind_no_launch(constraints, possible, setting, is_emergency):
    assert is_possible(constraints) is possible
    by_setting = {"emergency": is_emergency, "always": True, "never": False}[setting]
    away = may_launch_away(setting, constraints, is_emergency=is_emergency)
    assert away is (by_setting or not possible)


def network(*subnets: Subnet, own: str = "s-1") -> Network:
    return Network("vpc-1", own, subnets)


OWN = Subnet("s-1", A, "10.0.0.0/28", 5, gives_public=False)
ROOMY = Subnet("s-2", A, "10.0.1.0/24", 200, gives_public=False)
PUBLIC = Subnet("s-3", B, "10.0.2.0/24", 200, gives_public=True)
PRIVATE = Subnet("s-4", B, "10.0.3.0/24", 20, gives_public=False)
WITH_IPV6 = Subnet("s-5", B, "10.0.4.0/24", 2, gives_public=True, has_ipv6=True)
FULL = Subnet("s-1", A, "10.0.0.0/28", 0, gives_public=False)


@pytest.mark.parametrize(
    ("subnets", "constraints", "wishes", "expected"),
    [
        pytest.param([OWN, ROOMY], [], {}, {A: "s-1"}, id="the primary's own"),
        pytest.param([FULL, ROOMY], [], {}, {A: "s-2"}, id="own is full"),
        pytest.param([FULL, ROOMY], [ADDRESS], {}, {A: "s-1"}, id="bound, though full"),
        pytest.param([OWN, ROOMY], [ADDRESS_IN_2], {}, {A: "s-2"}, id="bound to another"),
        pytest.param([OWN, PUBLIC, PRIVATE], [], {}, {A: "s-1", B: "s-4"}, id="private like own"),
        pytest.param(
            [OWN, PUBLIC, PRIVATE], [], {"public": True}, {A: "s-1", B: "s-3"}, id="public wanted"
        ),
        pytest.param(
            [OWN, PUBLIC, WITH_IPV6], [], {"ipv6": True}, {A: "s-1", B: "s-5"}, id="IPv6 wanted"
        ),
    ],
)
def test_subnet_suits_the_targets_and_the_primary(subnets, constraints, wishes, expected):
    wishes = {"public": False, "ipv6": False} | wishes
    assert subnets_for(network(*subnets), constraints, **wishes) == expected
    assert subnets_for(network(*reversed(subnets)), constraints, **wishes) == expected


INTERFACE = {"network_interface": {"id": "eni-1", "device_index": 2}}
VOLUMES = {"volumes": [{"id": f"vol-{n}", "device": f"/dev/sd{n}"} for n in range(3)]}


@pytest.mark.parametrize(
    ("targets", "limits", "left"),
    [
        (None, TypeLimits(1, 1, 1), []),
        (INTERFACE, None, []),
        (INTERFACE, TypeLimits(), []),
        (INTERFACE, TypeLimits(interfaces=3), []),
        (INTERFACE, TypeLimits(interfaces=2), ["network_interface eni-1"]),
        ({"private_ip": "10.0.0.9"}, TypeLimits(addresses=2), []),
        ({"private_ip": "10.0.0.9"}, TypeLimits(addresses=1), ["private_ip 10.0.0.9"]),
        (VOLUMES, TypeLimits(volumes=4), []),
        (VOLUMES, TypeLimits(volumes=3), ["volumes vol-2"]),
        (VOLUMES | INTERFACE, TypeLimits(volumes=4, shares_attachments=True), ["volumes vol-2"]),
        (VOLUMES | INTERFACE, TypeLimits(volumes=4), []),
    ],
)
def test_targets_beyond_the_limits_of_a_type_are_left_behind(targets, limits, left):
    assert beyond_limits(targets, limits) == left


@pytest.mark.parametrize("constraint", [VOLUME, ADDRESS, GROUP, FREE])
def test_binding_is_stored_and_read(constraint):
    assert Constraint.from_json(constraint.to_json()) == constraint
