"""Rules for targets of a target group and for values of a record: values in, values out."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sef.cloud.traffic import Target

Port = int | None
"""A port of a target group; None is the port of the group."""

LEAVES_BEFORE_END = timedelta(seconds=5)
"""Time before its end at which a healthy former primary leaves a group, though the new one is not
healthy: ELBv2 then sends it no new requests."""


def wanted_ports(
    targets: Sequence["Target"],
    explicit: Port,
    old: str | None,
    formers: Collection[str],
    remembered: Collection[int],
) -> frozenset[Port]:
    """Return the ports on which the new primary has to be registered.

    These are the ports of the old primary: those that the group shows, or that SEF remembers if the
    group no longer shows it. A port that the operator names for the target is the only one.

    Args:
        remembered: ports of the last primary, as SEF saw them while it lived.
    """
    if explicit is not None:
        return frozenset({explicit})
    choices: list[Iterable[Port]] = [
        [t.port for t in targets if t.instance_id == old and t.is_registered],
        remembered,
        [t.port for t in targets if t.instance_id == old],
        [t.port for t in targets if t.instance_id in formers and t.is_registered],
        [t.port for t in targets if t.instance_id in formers],
    ]
    return next((frozenset(ports) for ports in map(list, choices) if ports), frozenset({None}))


def missing(targets: Sequence["Target"], ports: Collection[Port], instance_id: str) -> list[Port]:
    """Return the ports under which an instance still has to be registered."""
    own = {t.port for t in targets if t.instance_id == instance_id and t.is_registered}
    left = [port for port in ports if port not in own and not (port is None and own)]
    return sorted(left, key=lambda port: port or 0)


def unhealthy(
    targets: Sequence["Target"], ports: Collection[Port], instance_id: str
) -> "Target | None":
    """Return a target of an instance that is not healthy, on one of the ports; None without one."""
    own = [
        t
        for t in targets
        if t.instance_id == instance_id and t.is_registered and (t.port in ports or None in ports)
    ]
    return next((t for t in own if t.state != "healthy"), None)


def leaving(targets: Iterable["Target"], instance_ids: Collection[str]) -> list["Target"]:
    """Return the targets of instances that are registered, on every port."""
    return [t for t in targets if t.instance_id in instance_ids and t.is_registered]


def reason_to_stay(
    targets: Sequence["Target"],
    formers: Collection[str],
    new: str,
    ends_at: datetime | None,
    now: datetime,
) -> str | None:
    """Return the reason for which the former primaries have to stay in a group; None without one.

    A group must not lose the instance that serves while the new primary does not serve yet.

    Args:
        ends_at: end of the former primaries; None: they live on.
    """
    own = [t for t in targets if t.instance_id == new and t.is_registered]
    staying = leaving(targets, formers)
    if not staying or (ends_at is not None and ends_at <= now):
        return None
    names = ", ".join(sorted({t.instance_id for t in staying}))
    if not own:
        return f"{names} stays, because {new} is not registered"
    is_serving = any(t.state == "healthy" for t in own) or all(t.state == "unused" for t in own)
    is_needed = any(t.state == "healthy" for t in staying) and not is_serving
    if is_needed and (ends_at is None or now < ends_at - LEAVES_BEFORE_END):
        return f"{names} stays, because {new} is {own[0].state}"
    return None


def values_with(values: Sequence[str], address: str, own: Collection[str]) -> list[str] | None:
    """Return the values of a record with an address instead of the primary's own ones.

    The values of others stay. The only value of a record is the primary's own. None: the record has
    several values, and it is not known which is the primary's.

    Args:
        own: addresses of the former primaries.
    """
    if len(values) <= 1:
        return [address]
    if address not in values and not set(values) & set(own):
        return None
    result: list[str] = []
    for value in values:
        kept = address if value in own else value
        if kept not in result:
            result.append(kept)
    return result
