"""Validate cutover targets: the parts of an agent's service that move to its new primary.

A reader takes a value and the path of its field, and returns the value in the form in which it is
stored. It raises `Refused` with a message that names the field and the allowed values.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import AddressValueError, IPv4Address, ip_network
from typing import Any
from urllib.parse import urlsplit

from sef.devices import same_device
from sef.errors import Refused

Targets = Mapping[str, Any]
"""Cutover targets as they are stored: the result of `parse_targets`."""

MAX_TARGETS = 10
"""Maximum number of target groups, of volumes, and of routes of one agent."""

MAX_URL_LENGTH = 2048
"""Maximum length of a webhook's URL, in characters."""

MAX_TTL = 2_147_483_647
"""Maximum TTL of a DNS record, in seconds."""

_ALLOCATION = re.compile(r"eipalloc-[0-9a-f]{8,17}")
_INTERFACE = re.compile(r"eni-[0-9a-f]{8,17}")
_ROUTE_TABLE = re.compile(r"rtb-[0-9a-f]{8,17}")
_VOLUME = re.compile(r"vol-[0-9a-f]{8,17}")
_TARGET_GROUP = re.compile(
    r"arn:aws[a-z-]*:elasticloadbalancing:[a-z0-9-]+:\d{12}:targetgroup/[A-Za-z0-9-]+/[0-9a-f]+"
)
_ZONE = re.compile(r"(?:/?hostedzone/)?([A-Z0-9]{1,32})")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_DEVICE = re.compile(r"/dev/(?:(?:sd|xvd)[b-z]{1,2}[0-9]{0,2}|xvda[a-x])")

Reader = Callable[[object, str], Any]
"""Validates a value; the second argument is the path of the field."""


def parse_targets(value: object) -> dict[str, Any]:
    """Validate cutover targets and return them with their defaults, without null fields.

    Stored targets are valid and are returned unchanged.

    Raises:
        Refused: `invalid_cutover`; the message names the field.
    """
    targets = _object(value, "cutover", _TARGETS)
    if not targets:
        raise _refused("cutover", "must name a target; use null to remove all targets")
    devices = [same_device(volume["device"]) for volume in targets.get("volumes", [])]
    twice = sorted({device for device in devices if devices.count(device) > 1})
    if twice:
        raise _refused(
            "cutover.volumes",
            f"must not have the same device twice: /dev/{twice[0]} and "
            f"/dev/{twice[0].replace('sd', 'xvd', 1)} are one device",
        )
    dns = targets.get("dns")
    if dns is not None and dns["address"] == "public" and "elastic_ip" in targets:
        raise _refused(
            "cutover.dns.address",
            "must be private if there is an elastic_ip: a record of an Elastic IP never changes",
        )
    return targets


def _refused(field: str, problem: str) -> Refused:
    return Refused("invalid_cutover", f"{field} {problem}.")


def _object(
    value: object, field: str, readers: Mapping[str, Reader], *required: str, **defaults: Any
) -> dict[str, Any]:
    """Read an object with a reader for each of its fields; null counts as missing.

    Args:
        required: fields that must be there.
        defaults: values of missing fields.
    """
    if not isinstance(value, Mapping):
        raise _refused(field, "must be an object")
    unknown = sorted(str(name) for name in value if name not in readers)
    if unknown:
        allowed = ", ".join(readers)
        raise _refused(field, f"has an unknown field {unknown[0][:40]}; allowed: {allowed}")
    given = {
        name: readers[name](value[name], f"{field}.{name}")
        for name in readers
        if value.get(name) is not None
    }
    for name in required:
        if name not in given:
            raise _refused(f"{field}.{name}", "is required")
    return defaults | given


def _matching(pattern: re.Pattern[str], example: str) -> Reader:
    def read(value: object, field: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _refused(field, f"must look like {example}")
        return value

    return read


def _one_of(*choices: str) -> Reader:
    def read(value: object, field: str) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _refused(field, f"must be {' or '.join(choices)}")
        return value

    return read


def _whole_number(least: int, most: int) -> Reader:
    def read(value: object, field: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _refused(field, f"must be a whole number from {least} to {most}")
        return value

    return read


def _list(read_one: Reader, *distinct: str) -> Reader:
    """Return a reader of a list of objects whose values of each field in `distinct` differ."""

    def read(value: object, field: str) -> list[Any]:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_TARGETS:
            raise _refused(field, f"must be a list of 1 to {MAX_TARGETS}")
        entries = [read_one(entry, f"{field}[{number}]") for number, entry in enumerate(value)]
        for name in distinct:
            if len({entry[name] for entry in entries}) < len(entries):
                raise _refused(field, f"must not have the same {name} twice")
        return entries

    return read


def _domain_name(value: object, field: str) -> str:
    name = value.lower().removesuffix(".") if isinstance(value, str) else ""
    # Route 53 shows the asterisk as its escape code. A private zone can have a name of one label.
    name = name.replace("\\052", "*")
    below = name.removeprefix("*.")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in below.split(".")):
        raise _refused(field, "must be a domain name, such as web.example.com or *.example.com")
    return name


def _zone_id(value: object, field: str) -> str:
    # Route 53 returns ids such as /hostedzone/Z0123456789ABCDEFGHIJ.
    found = _ZONE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise _refused(field, "must look like Z0123456789ABCDEFGHIJ")
    return found[1]


def _address(value: object, field: str) -> str:
    try:
        # An integer would be an address too.
        return str(IPv4Address(value if isinstance(value, str) else ""))
    except AddressValueError:
        raise _refused(field, "must be an IPv4 address, such as 10.0.0.9") from None


def _url(value: object, field: str) -> str:
    text = value if isinstance(value, str) else ""
    try:
        url = urlsplit(text)
        has_host = url.scheme in ("http", "https") and bool(url.hostname)
        has_login = (url.username or url.password) is not None
        _ = url.port  # raises ValueError if it is out of range
    except ValueError:
        has_host = has_login = False
    if not has_host or len(text) > MAX_URL_LENGTH or re.search(r"[\s\x00-\x1f]", text):
        raise _refused(
            field, f"must be an http or https URL of {MAX_URL_LENGTH} characters at most"
        )
    if has_login:
        raise _refused(field, "must not contain a user name or password")
    return text


def _target_group(value: object, field: str) -> dict[str, Any]:
    arn = _matching(_TARGET_GROUP, "arn:aws:elasticloadbalancing:…:targetgroup/web/0123abcd")
    return _object(value, field, {"arn": arn, "port": _whole_number(1, 65535)}, "arn")


def _dns(value: object, field: str) -> dict[str, Any]:
    readers: dict[str, Reader] = {
        "zone_id": _zone_id,
        "name": _domain_name,
        "type": _one_of("A"),
        "ttl": _whole_number(0, MAX_TTL),
        "address": _one_of("private", "public"),
    }
    return _object(value, field, readers, "zone_id", "name", type="A", address="private")


def _interface(value: object, field: str) -> dict[str, Any]:
    readers = {"id": _matching(_INTERFACE, "eni-0abc1234"), "device_index": _whole_number(1, 31)}
    return _object(value, field, readers, "id", device_index=1)


def _volume(value: object, field: str) -> dict[str, Any]:
    readers = {
        "id": _matching(_VOLUME, "vol-0abc1234"),
        "device": _matching(_DEVICE, "/dev/sdf"),
    }
    return _object(value, field, readers, "id", "device")


def _destination(value: object, field: str) -> str:
    try:
        # An integer would be a network too.
        return str(ip_network(value if isinstance(value, str) else ""))
    except ValueError:
        raise _refused(field, "must be a CIDR block, such as 0.0.0.0/0") from None


def _route(value: object, field: str) -> dict[str, Any]:
    readers: dict[str, Reader] = {
        "route_table_id": _matching(_ROUTE_TABLE, "rtb-0abc1234"),
        "destination_cidr": _destination,
    }
    return _object(value, field, readers, "route_table_id", "destination_cidr")


def _routes(value: object, field: str) -> list[Any]:
    routes: list[Any] = _list(_route)(value, field)
    if len({tuple(route.values()) for route in routes}) < len(routes):
        raise _refused(field, "must not have the same route twice")
    return routes


def _webhooks(value: object, field: str) -> dict[str, Any]:
    webhooks = _object(value, field, {"before": _url, "after": _url})
    if not webhooks:
        raise _refused(field, "must have before or after")
    return webhooks


_TARGETS: Mapping[str, Reader] = {
    "elastic_ip": _matching(_ALLOCATION, "eipalloc-0abc1234"),
    "target_groups": _list(_target_group, "arn"),
    "dns": _dns,
    "private_ip": _address,
    "network_interface": _interface,
    "volumes": _list(_volume, "id", "device"),
    "routes": _routes,
    "webhooks": _webhooks,
}
