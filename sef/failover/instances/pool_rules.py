"""Decide which pools cannot be used for an agent at all, so that SEF never tries them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sef.terms import Market, Pool

if TYPE_CHECKING:
    from sef.cloud.likeness import Image, LaunchConfiguration
    from sef.cloud.places import TypeLimits


def unusable_pools(
    pools: Sequence[Pool],
    source: "LaunchConfiguration",
    limits: Mapping[str, "TypeLimits"],
    offered: Mapping[str, frozenset[str]],
) -> dict[Pool, str]:
    """Return the reason for each pool in which the instance cannot be launched.

    Args:
        limits: limits by type; a type without an entry is not judged.
        offered: zones by type; the same.
    """
    reasons = {}
    for pool in pools:
        reason = _reason(pool, source, limits.get(pool.instance_type), offered)
        if reason is not None:
            reasons[pool] = reason
    return reasons


def unusable_markets(
    pools: Sequence[Pool], limits: Mapping[str, "TypeLimits"]
) -> set[tuple[str, Market]]:
    """Return the pools, with their market, that their type does not have, such as spot."""
    return {
        (str(pool), market)
        for pool in pools
        for market in Market
        for known in [limits.get(pool.instance_type)]
        if known is not None and known.markets and market not in known.markets
    }


def _reason(
    pool: Pool,
    source: "LaunchConfiguration",
    limits: "TypeLimits | None",
    offered: Mapping[str, frozenset[str]],
) -> str | None:
    network = source.network
    if network is not None and pool.zone not in source.subnets:
        return f"no subnet of {network.vpc} is known in {pool.zone}"
    zones = offered.get(pool.instance_type)
    if zones is not None and pool.zone not in zones:
        return f"{pool.instance_type} is not offered in {pool.zone}"
    if limits is None or pool.instance_type == source.instance_type:
        return None  # the primary runs on this type
    if source.parameters.get("EbsOptimized") and not limits.is_ebs_optimizable:
        return f"{pool.instance_type} cannot be EBS-optimized, as the primary is"
    return _mismatch(pool.instance_type, source.image, limits)


def _mismatch(instance_type: str, image: "Image", limits: "TypeLimits") -> str | None:
    """Return the reason why a type cannot run an image; an unknown value is no reason."""
    for name, wanted, supported in (
        ("architecture", image.architecture, limits.architectures),
        ("virtualization", image.virtualization, limits.virtualizations),
        ("root device", image.root_device, limits.root_devices),
        ("boot mode", image.boot_mode, limits.boot_modes),
    ):
        is_named = wanted is not None and wanted != "uefi-preferred"
        if is_named and supported and wanted not in supported:
            return f"{instance_type} does not support the {name} of the image, {wanted}"
    if image.has_ena is False and limits.requires_ena:
        return f"{instance_type} requires an image with the Elastic Network Adapter"
    if image.needs_ipv6 and not limits.has_ipv6:
        return f"{instance_type} has no IPv6 addresses"
    if image.needs_enclaves and not limits.has_enclaves:
        return f"{instance_type} has no Nitro Enclaves"
    return None
