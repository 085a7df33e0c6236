"""Refuse requests to Route 53 beyond AWS's limits of one account.

An account has five requests a second, over all actions; the next ones are refused with 400 and
`Throttling`. While a hosted zone processes a change, another change of the zone is refused with
400 and `PriorRequestNotComplete`
(https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html). AWS does not say
how a second is counted, nor for how long a zone is busy: here a second is the last one, a refused
request counts too, and the time is an option.
"""

from collections import deque
from typing import Protocol

from sef.simulator.server.faults import Error
from sef.simulator.server.wire import Answer, Call, refusal

_BUSY = Error.of(
    "PriorRequestNotComplete",
    "The request was rejected because Route 53 was still processing a prior request.",
    400,
)


class Limits(Protocol):
    """The options of the simulator that this module reads."""

    @property
    def route53_per_second(self) -> float: ...

    @property
    def route53_change_seconds(self) -> float: ...


class Route53Limits:
    """The requests of the last second, and the time until which each zone is busy."""

    def __init__(self) -> None:
        self._requests: deque[float] = deque()
        self._busy: dict[str, float] = {}

    def refusal(self, call: Call, now: float, limits: Limits) -> Answer | None:
        """Count a request; return the refusal if it exceeds a limit."""
        if call.service != "route53":
            return None
        if limits.route53_per_second and self._count(now) > limits.route53_per_second:
            return refusal(Error.of("Throttling", "Rate exceeded", 400), call.service)
        if limits.route53_change_seconds and call.action == "ChangeResourceRecordSets":
            zone = call.path.rstrip("/").removesuffix("/rrset").rpartition("/")[2]
            if now < self._busy.get(zone, 0.0):
                return refusal(_BUSY, call.service)
            self._busy[zone] = now + limits.route53_change_seconds
        return None

    def _count(self, now: float) -> int:
        while self._requests and self._requests[0] <= now - 1:
            self._requests.popleft()
        self._requests.append(now)
        return len(self._requests)
