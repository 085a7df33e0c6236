"""The rules that say beforehand what EC2 will refuse."""

import pytest

from sef.cloud.resources import AddressFacts, InstanceFacts, InterfaceFacts, VolumeFacts
from sef.failover.cutover.possible import (
    Place,
    address_problems,
    interface_problems,
    private_ip_problems,
    volume_problems,
)

PRIMARY = Place(
    "the primary",
    InstanceFacts(
        "i-p",
        "us-east-1a",
        "subnet-1",
        "vpc-1",
        root_volume="vol-root",
        devices={"sda": "vol-root", "sdf": "vol-1"},
        interfaces={0: "eni-0", 1: "eni-1"},
    ),
)
STANDBY = Place(
    "the standby",
    InstanceFacts(
        "i-s",
        "us-east-1a",
        "subnet-2",
        "vpc-1",
        root_volume="vol-root2",
        devices={"sda": "vol-root2", "sdg": "vol-data"},
        interfaces={0: "eni-9", 2: "eni-8"},
    ),
)
PLACES = [PRIMARY, STANDBY]
AT_P = frozenset({"i-p"})
BLOCKS = {"subnet-1": "10.0.0.0/24", "subnet-2": "10.0.1.0/24"}


@pytest.mark.parametrize(
    ("volume_id", "facts", "device", "problem"),
    [
        ("vol-1", VolumeFacts("us-east-1a", holders=AT_P), "/dev/sdf", None),
        ("vol-1", VolumeFacts("us-east-1a", holders=AT_P), "/dev/xvdf", None),
        ("vol-1", VolumeFacts("us-east-1a", "available"), "/dev/sdf", None),
        ("vol-root", VolumeFacts("us-east-1a", holders=AT_P), "/dev/sdh", "it is the root volume"),
        ("vol-1", VolumeFacts("us-east-1a", is_multi_attach=True), "/dev/sdf", "Multi-Attach"),
        ("vol-1", VolumeFacts("a", holders=frozenset({"i-p", "i-x"})), "/dev/sdf", "Multi-Attach"),
        ("vol-1", VolumeFacts("a", "error", holders=AT_P), "/dev/sdf", "its state is error"),
        ("vol-1", VolumeFacts("a", "deleting", holders=AT_P), "/dev/sdf", "its state is deleting"),
        ("vol-1", VolumeFacts("a", holders=AT_P), "/dev/xvdg", "of the standby i-s has vol-data"),
        ("vol-2", VolumeFacts("a"), "/dev/xvdf", "of the primary i-p has vol-1"),
    ],
)
def test_rules_of_volumes(
    volume_id: str, facts: VolumeFacts, device: str, problem: str | None
) -> None:
    found = list(volume_problems(volume_id, facts, device, PLACES))
    assert found == [] if problem is None else any(problem in one for one in found)


@pytest.mark.parametrize(
    ("facts", "index", "problem"),
    [
        (InterfaceFacts("eni-1", "a", holders=AT_P, device_index=1), 1, None),
        (InterfaceFacts("eni-0", "a", holders=AT_P, device_index=0), 1, "the first interface of i"),
        (InterfaceFacts("eni-1", "a", kind="nat_gateway"), 1, "its type is nat_gateway"),
        (InterfaceFacts("eni-1", "a", is_of_service=True), 1, "a service of AWS manages it"),
        (InterfaceFacts("eni-1", "a", kind="efa"), 1, "between stopped instances only"),
        (InterfaceFacts("eni-1", "a"), 2, "device index 2 of the standby i-s has eni-8"),
    ],
)
def test_rules_of_interfaces(facts: InterfaceFacts, index: int, problem: str | None) -> None:
    found = list(interface_problems(facts, index, PLACES))
    assert found == [] if problem is None else any(problem in one for one in found)


NAT = InterfaceFacts("eni-n", "a", kind="nat_gateway", is_of_service=True)
LOCAL = {"us-east-1a": "us-east-1"}


@pytest.mark.parametrize(
    ("facts", "interface", "problem"),
    [
        (AddressFacts("i-p", "eni-0", "us-east-1"), None, None),
        (AddressFacts(None, None, None), None, None),
        (AddressFacts(None, "eni-n"), NAT, "eni-n, an interface of type nat_gateway"),
        (AddressFacts(None, "eni-u"), InterfaceFacts("eni-u", "a"), None),
        (AddressFacts(None, "eni-n", service="nlb"), NAT, "it is managed by nlb"),
        (AddressFacts("i-p", "eni-0", "us-west-2-lax-1"), None, "the standby i-s is in us-east-1"),
    ],
)
def test_rules_of_elastic_ips(
    facts: AddressFacts, interface: InterfaceFacts | None, problem: str | None
) -> None:
    found = list(address_problems(facts, interface, PLACES, LOCAL))
    assert found == [] if problem is None else any(problem in one for one in found)


@pytest.mark.parametrize(
    ("address", "interface", "places", "problem"),
    [
        ("10.0.0.9", None, [PRIMARY], None),
        ("10.0.0.9", InterfaceFacts("eni-0", "a", address="10.0.0.5"), [PRIMARY], None),
        (
            "10.0.0.9",
            InterfaceFacts("eni-0", "a", address="10.0.0.9"),
            [PRIMARY],
            "primary address",
        ),
        ("10.0.0.9", NAT, [PRIMARY], "is used by eni-n"),
        ("10.0.0.9", None, PLACES, "is not in subnet-2 (10.0.1.0/24), the subnet of the standby"),
        ("10.0.0.0", None, [PRIMARY], "is reserved"),
        ("10.0.0.3", None, [PRIMARY], "is reserved"),
        ("10.0.0.4", None, [PRIMARY], None),
        ("10.0.0.254", None, [PRIMARY], None),
        ("10.0.0.255", None, [PRIMARY], "is reserved"),
    ],
)
def test_rules_of_private_addresses(
    address: str, interface: InterfaceFacts | None, places: list[Place], problem: str | None
) -> None:
    found = list(private_ip_problems(address, interface, places, BLOCKS))
    assert found == [] if problem is None else any(problem in one for one in found)
