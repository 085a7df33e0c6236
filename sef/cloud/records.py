"""Read and change DNS records of Route 53, many of a hosted zone at once.

Route 53 answers five requests a second for an account and makes one change of a zone at a time
(https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html). So one listing
answers for many names, and one change batch has the changes of many agents. Route 53 makes all
changes of a batch or none, and deletes a record only if it equals the record in the batch: a batch
that is refused because of one record is sent again without it.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sef.cloud.attachments import Impossible, NotReady
from sef.cloud.clients import Clients
from sef.cloud.errors import CloudError, Remedy, translated
from sef.cloud.pace import Pace

PATIENCE = 2.0
"""Time in seconds for which a request waits for its turn."""

LEFT_BY_CHECKS = 1.0
"""Requests that checks leave to the moves of a cutover."""

PAGE = "300"
PAGE_OF_ONE = "30"
"""Records in an answer: the most that Route 53 returns, and enough for one name."""

MOST_CHANGES = 100
MOST_VALUES = 1000
MOST_CHARACTERS = 32_000
"""Limits of a change batch. The number of changes is that of older documentation; it stays."""

_RACED = re.compile(r"already exists|was not found|do not match the current")
"""Reasons of Route 53 that mean: the record is not, or no longer, the one that was seen."""

_NAMED = re.compile(r"name='([^']+)'|DNS name (\S+)")
"""A record in such a reason."""

POLICIES = (
    "Weight",
    "Region",
    "Failover",
    "GeoLocation",
    "GeoProximityLocation",
    "MultiValueAnswer",
    "CidrRoutingConfig",
)
"""Fields of a record that belong to its routing policy."""

Record = Mapping[str, Any]
"""A resource record set as Route 53 returns it."""


@dataclass(frozen=True, slots=True)
class HostedZone:
    """The domain of a zone, without the dot at its end."""

    domain: str
    is_private: bool

    def has(self, name: str) -> bool:
        return name == self.domain or name.endswith(f".{self.domain}")


@dataclass(frozen=True, slots=True)
class RecordChange:
    """The change of a record from the one that was seen, None if there was none."""

    current: Record | None
    wanted: Record

    @property
    def name(self) -> str:
        return plain_name(self.wanted["Name"])

    @property
    def changes(self) -> list[dict[str, Any]]:
        created = {"Action": "CREATE", "ResourceRecordSet": dict(self.wanted)}
        if self.current is None:
            return [created]
        return [{"Action": "DELETE", "ResourceRecordSet": dict(self.current)}, created]

    @property
    def values(self) -> list[str]:
        both = [self.wanted, self.current or {}]
        return [value["Value"] for record in both for value in record.get("ResourceRecords", [])]


class RecordSets:
    """The records of hosted zones.

    Args:
        pace: shared by all requests of this process.

    Raises:
        CloudError: Route 53 refused a request or did not answer, or a request would have waited too
            long for its turn; its code is then `Throttling`.
    """

    def __init__(self, clients: Callable[[], Clients], pace: Pace | None = None) -> None:
        self._clients = clients
        self._pace = pace or Pace()
        self._zones: dict[str, HostedZone] = {}

    def zone(self, zone_id: str) -> HostedZone:
        """Return a zone; raise CloudError if there is none. Its properties never change."""
        if zone_id not in self._zones:
            with self._turn(LEFT_BY_CHECKS):
                zone = self._clients().route53.get_hosted_zone(Id=zone_id)["HostedZone"]
                is_private = bool(zone.get("Config", {}).get("PrivateZone"))
                self._zones[zone_id] = HostedZone(plain_name(zone["Name"]), is_private)
        return self._zones[zone_id]

    def at_names(
        self, zone_id: str, names: Collection[str], *, left: float = 0.0
    ) -> dict[str, list[Record]]:
        """Return the records of every type at each name.

        Route 53 lists records in the order of their reversed names, so that one page answers for
        all names that it passes. A name with an escape code is asked for itself.

        Args:
            left: requests that are left for more urgent ones.
        """
        found: dict[str, list[Record]] = {}
        missing = sorted(set(names), key=_order)
        while missing:
            size = PAGE if len(missing) > 1 else PAGE_OF_ONE
            found |= self._page(zone_id, missing, size, left)
            missing = [name for name in missing if name not in found]
        return found

    def change(
        self, zone_id: str, changes: Sequence[RecordChange]
    ) -> list[CloudError | NotReady | None]:
        """Change records of a zone, each from the one that was seen; return an error for each.

        NotReady: the record is another one now. None: it is changed.

        Args:
            changes: of different records.
        """
        results: dict[int, CloudError | NotReady | None] = {}
        for batch in _batches(changes):
            self._send(zone_id, {n: changes[n] for n in batch}, results)
        return [results[number] for number in range(len(changes))]

    @translated()
    def addresses_of_record(self, zone_id: str, name: str, kind: str) -> set[str]:
        """Return the addresses of a simple record; none if there is no such record."""
        records = self.at_names(zone_id, [name], left=LEFT_BY_CHECKS)[name]
        return set(values_of(simple_record(records, name, kind)))

    def _page(
        self, zone_id: str, names: Sequence[str], size: str, left: float
    ) -> dict[str, list[Record]]:
        """Return the records of the first name, and of the others that its page answers for."""
        start = names[0]
        by_name: dict[str, list[Record]] = {start: []}
        query: dict[str, Any] = {"StartRecordName": start}
        while True:
            with self._turn(left):
                answer = self._clients().route53.list_resource_record_sets(
                    HostedZoneId=zone_id, MaxItems=size, **query
                )
                records = answer["ResourceRecordSets"]
                for record in records:
                    by_name.setdefault(plain_name(record["Name"]), []).append(record)
                if not answer["IsTruncated"]:
                    end = None
                    break
                end = plain_name(answer["NextRecordName"])
                if end != start:
                    break
                query = {
                    f"Start{field}": answer[f"Next{field}"]  # type: ignore[literal-required]
                    for field in ("RecordName", "RecordType", "RecordIdentifier")
                    if f"Next{field}" in answer
                }
        result = {start: by_name[start]}
        for name in names[1:]:
            if end is None or (name != end and (name in by_name or _order(name) < _order(end))):
                is_known = name in by_name or "*" not in name
                result |= {name: by_name.get(name, [])} if is_known else {}
        return result

    def _send(
        self,
        zone_id: str,
        batch: Mapping[int, RecordChange],
        results: dict[int, CloudError | NotReady | None],
    ) -> None:
        """Send a batch; without the records that Route 53 names, if it refuses the batch."""
        changes: list[Any] = [change for one in batch.values() for change in one.changes]
        try:
            with self._turn(0.0):
                self._clients().route53.change_resource_record_sets(
                    HostedZoneId=zone_id, ChangeBatch={"Changes": changes}
                )
        except CloudError as error:
            if error.code != "InvalidChangeBatch":
                results |= {number: error.again() for number in batch}
                return
            reasons = {number: str(error) for number in batch}
            if len(batch) > 1:
                reasons = _named_in(str(error), batch)
            results |= {number: _judged(reason) for number, reason in reasons.items()}
            rest = {number: one for number, one in batch.items() if number not in reasons}
            # Without a name in the message, the record is found by halves.
            for half in [rest] if reasons else _halves(rest):
                if half:
                    self._send(zone_id, half, results)
            return
        results |= dict.fromkeys(batch)

    def _turn(self, left: float) -> "_Turn":
        return _Turn(self._pace, left)


class _Turn:
    """A request in its turn: errors are translated, and a throttled one slows the pace."""

    def __init__(self, pace: Pace, left: float) -> None:
        self._pace, self._left = pace, left
        self._translated = translated()

    def __enter__(self) -> None:
        if not self._pace.wait(PATIENCE, left=self._left):
            raise CloudError(
                "Throttling",
                "Route 53 answers five requests a second for an account; SEF's other requests are "
                "before this one",
                Remedy.WAIT,
            )
        self._translated.__enter__()

    def __exit__(self, *error: Any) -> None:
        try:
            self._translated.__exit__(*error)
        except CloudError as refused:
            if refused.is_throttled and refused.code != "PriorRequestNotComplete":
                self._pace.slow_down()
            raise


def plain_name(name: str) -> str:
    r"""Return a name in lower case, without the dot at its end and without escape codes.

    Route 53 returns every character but a to z, 0 to 9, hyphen and underscore as its code, such as
    `\052` for an asterisk
    (https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DomainNameFormat.html).
    """
    text = re.sub(r"\\([0-3][0-7]{2})", lambda found: chr(int(found[1], 8)), name)
    return text.removesuffix(".").lower()


def simple_record(records: Collection[Record], name: str, kind: str) -> Record | None:
    """Return the record of a type among the records at its name; None if there is none.

    Raises:
        Impossible: it has an alias or a routing policy, or a CNAME record stands in its place.
    """
    if any(record["Type"] == "CNAME" for record in records):
        raise Impossible(
            f"{name} has a CNAME record, and Route 53 allows no other record beside it: delete the "
            f"CNAME record, or name another record"
        )
    own = [record for record in records if record["Type"] == kind]
    for record in own:
        if "SetIdentifier" in record:
            policy = next((field for field in POLICIES if field in record), "a routing policy")
            raise Impossible(
                f"{name} has records with a routing policy ({policy}, "
                f"{record['SetIdentifier']}); SEF changes simple records only"
            )
        if "AliasTarget" in record:
            raise Impossible(f"{name} is an alias of {record['AliasTarget'].get('DNSName')}")
        if "TrafficPolicyInstanceId" in record:
            raise Impossible(f"{name} belongs to a traffic policy, which alone may change it")
    return own[0] if own else None


def values_of(record: Record | None) -> list[str]:
    """Return the values of a simple record; none if there is no record."""
    return [value["Value"] for value in (record or {}).get("ResourceRecords", [])]


def _order(name: str) -> str:
    # https://docs.aws.amazon.com/Route53/latest/APIReference/API_ListResourceRecordSets.html
    return "".join(f"{label}." for label in reversed(name.split(".")))


def _batches(changes: Sequence[RecordChange]) -> list[list[int]]:
    """Return the numbers of the changes, in batches within Route 53's limits."""
    batches: list[list[int]] = []
    sizes = [0, 0, 0]
    for number, change in enumerate(changes):
        values = change.values
        own = [len(change.changes), len(values), sum(map(len, values))]
        sizes = [a + b for a, b in zip(sizes, own, strict=True)]
        limits = (MOST_CHANGES, MOST_VALUES, MOST_CHARACTERS)
        if not batches or any(a > b for a, b in zip(sizes, limits, strict=True)):
            batches.append([])
            sizes = own
        batches[-1].append(number)
    return batches


def _halves(batch: Mapping[int, RecordChange]) -> list[dict[int, RecordChange]]:
    numbers = list(batch)
    middle = len(numbers) // 2
    return [{n: batch[n] for n in half} for half in (numbers[:middle], numbers[middle:])]


def _named_in(message: str, batch: Mapping[int, RecordChange]) -> dict[int, str]:
    """Return the reason for each change of a batch that the message of a refusal names."""
    by_name = {change.name: number for number, change in batch.items()}
    found = list(_NAMED.finditer(message))
    ends = [*(one.start() for one in found[1:]), len(message)]
    reasons: dict[int, str] = {}
    for one, end in zip(found, ends, strict=False):
        number = by_name.get(plain_name(one[1] or one[2]))
        if number is not None:
            reasons.setdefault(number, message[one.start() : end].strip(" ,[]"))
    return reasons


def _judged(reason: str) -> CloudError | NotReady:
    """Return NotReady if another change came first; otherwise the refusal is for good."""
    text = reason.removeprefix("InvalidChangeBatch: ")
    if _RACED.search(text):
        return NotReady(f"the record has changed since SEF looked at it: {text}")
    return CloudError("InvalidChangeBatch", text, Remedy.OPERATOR)
