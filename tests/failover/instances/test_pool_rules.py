"""The rules of the pools that cannot be used for an agent at all."""

from dataclasses import replace

import pytest

from sef.cloud.likeness import Image, LaunchConfiguration, Network, Subnet
from sef.cloud.places import TypeLimits
from sef.failover.instances.pool_rules import unusable_markets, unusable_pools
from sef.terms import Market, Pool

A, B = Pool("m5.large", "us-east-1a"), Pool("m5.large", "us-east-1b")
OTHER = Pool("c7g.large", "us-east-1a")
IMAGE = Image("x86_64", "hvm", "ebs")
SOURCE = LaunchConfiguration("it", {}, "m5.large", image=IMAGE)
NETWORK = Network("vpc-1", "s-1", (Subnet("s-1", "us-east-1a"),))
IN_A = replace(SOURCE, subnets={"us-east-1a": "s-1"}, network=NETWORK)


def set_of(*values: str) -> frozenset[str]:
    return frozenset(values)


@pytest.mark.parametrize(
    ("source", "limits", "offered", "unusable"),
    [
        (SOURCE, {}, {}, set()),
        (IN_A, {}, {}, {B}),
        (SOURCE, {}, {"m5.large": set_of("us-east-1b")}, {A}),
        (SOURCE, {}, {"c7g.large": set_of()}, {OTHER}),
        (SOURCE, {"c7g.large": TypeLimits()}, {}, set()),
        (SOURCE, {"c7g.large": TypeLimits(architectures=set_of("arm64"))}, {}, {OTHER}),
        (SOURCE, {"c7g.large": TypeLimits(architectures=set_of("i386", "x86_64"))}, {}, set()),
        (SOURCE, {"c7g.large": TypeLimits(virtualizations=set_of("paravirtual"))}, {}, {OTHER}),
        (SOURCE, {"c7g.large": TypeLimits(root_devices=set_of("instance-store"))}, {}, {OTHER}),
        # The primary runs on its own type, whatever EC2 says about it.
        (SOURCE, {"m5.large": TypeLimits(architectures=set_of("arm64"))}, {}, set()),
    ],
)
def test_pools_that_cannot_be_are_unusable(source, limits, offered, unusable):
    assert set(unusable_pools([A, B, OTHER], source, limits, offered)) == unusable


@pytest.mark.parametrize(
    ("image", "parameters", "limits", "is_usable"),
    [
        (Image(boot_mode="uefi"), {}, TypeLimits(boot_modes=set_of("legacy-bios")), False),
        (Image(boot_mode="uefi-preferred"), {}, TypeLimits(boot_modes=set_of("x")), True),
        (Image(has_ena=False), {}, TypeLimits(requires_ena=True), False),
        (Image(has_ena=None), {}, TypeLimits(requires_ena=True), True),
        (Image(needs_ipv6=True), {}, TypeLimits(has_ipv6=False), False),
        (Image(needs_enclaves=True), {}, TypeLimits(has_enclaves=False), False),
        (Image(), {"EbsOptimized": True}, TypeLimits(is_ebs_optimizable=False), False),
        (Image(), {}, TypeLimits(is_ebs_optimizable=False), True),
    ],
)
def test_type_must_support_the_copied_options(image, parameters, limits, is_usable):
    source = replace(SOURCE, image=image, parameters=parameters)
    reasons = unusable_pools([OTHER], source, {"c7g.large": limits}, {})
    assert (OTHER not in reasons) is is_usable


def test_market_that_a_type_lacks_is_not_tried():
    limits = {"m5.large": TypeLimits(markets=set_of("on-demand")), "c7g.large": TypeLimits()}
    assert unusable_markets([A, OTHER], limits) == {(str(A), Market.SPOT)}
