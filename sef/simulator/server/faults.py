"""Inject faults on demand: rules that match calls to the simulated EC2 and change the result."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import inf
from typing import Any

STATUS = {
    "InsufficientInstanceCapacity": 500,
    "InsufficientHostCapacity": 500,
    "InsufficientAddressCapacity": 500,
    "InsufficientCapacity": 500,
    "InternalError": 500,
    "InternalFailure": 500,
    "RequestLimitExceeded": 503,
    "ServiceUnavailable": 503,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
    "AuthFailure": 401,
}
"""HTTP status that EC2 sends with an error code; every other code has 400."""

MARKETS = ("spot", "on-demand")


@dataclass(frozen=True, slots=True)
class Error:
    """An error answer of EC2."""

    code: str
    message: str
    status: int

    @classmethod
    def of(cls, code: str, message: str = "", status: int | None = None) -> "Error":
        return cls(code, message or f"Simulated: {code}.", status or STATUS.get(code, 400))


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault: matching calls are delayed, refused, left without an answer, or answered wrongly.

    Attributes:
        action: EC2 action to match, such as `RunInstances`; `*` matches every action.
        pool: match only launches into this pool, such as `m5.large.us-east-1a`.
        market: match only launches on `spot` or `on-demand`.
        count: number of calls to match; None: no limit.
        error_code: code to refuse with; `http_status` and `message` follow from it unless given.
        delay_seconds: delay in seconds before the call or, with `lose_reply`, after it.
        lose_reply: make the call, then close the connection without an answer.
        omit: elements to leave out of the answer, such as `tagSet` or `launchTime`; `item` empties
            every list in it.
        lag_seconds: answer a reading call with the instances as they were this long ago.
        as_of: answer a reading call with the instances as they were at this time, in epoch seconds.
        page_size: reservations on each page of DescribeInstances; with 0, the first page is empty
            and the second one has all.
    """

    action: str
    pool: str | None = None
    market: str | None = None
    count: int | None = None
    error_code: str | None = None
    http_status: int | None = None
    message: str = ""
    delay_seconds: float = 0.0
    lose_reply: bool = False
    omit: tuple[str, ...] = ()
    lag_seconds: float = 0.0
    as_of: float | None = None
    page_size: int | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "Rule":
        """Return the rule; raise ValueError, with one sentence, if a field is not allowed."""
        names = [f.name for f in fields(cls)]
        unknown = given.keys() - set(names)
        if unknown:
            raise ValueError(f"unknown field {min(unknown)}; allowed: {', '.join(names)}")
        if not given.get("action"):
            raise ValueError("a fault needs an action, such as RunInstances, or *")
        rule = cls(**(dict(given) | {"omit": tuple(given.get("omit") or ())}))
        if rule.market not in (None, *MARKETS):
            raise ValueError(f"market must be {' or '.join(MARKETS)}, not {rule.market}")
        if rule.count is not None and rule.count < 1:
            raise ValueError("count must be at least 1, or null for every call")
        if not 0 <= rule.delay_seconds < inf:
            raise ValueError("delay_seconds must be 0 or more")
        if not 0 <= rule.lag_seconds < inf:
            raise ValueError("lag_seconds must be 0 or more")
        if rule.page_size is not None and rule.page_size < 0:
            raise ValueError("page_size must be 0 or more")
        if not rule.has_effect:
            raise ValueError(
                "a fault needs error_code, delay_seconds, lose_reply, omit, lag_seconds, as_of "
                "or page_size"
            )
        return rule

    @property
    def has_effect(self) -> bool:
        return bool(
            self.error_code
            or self.delay_seconds
            or self.lose_reply
            or self.omit
            or self.lag_seconds
            or self.as_of is not None
            or self.page_size is not None
        )

    def matches(self, action: str, pool: str | None, market: str | None) -> bool:
        return (
            self.action in ("*", action)
            and self.pool in (None, pool)
            and self.market in (None, market)
        )

    @property
    def refuses_launches(self) -> bool:
        """True if the rule refuses new launches only; a repeat with a known token succeeds."""
        return bool(self.error_code) and (self.pool is not None or self.market is not None)


@dataclass(slots=True)
class FaultEffect:
    """The combined effect of the rules that match one call."""

    error: Error | None = None
    delay_seconds: float = 0.0
    lose_reply: bool = False
    omit: set[str] = field(default_factory=set)
    lag_seconds: float = 0.0
    as_of: float | None = None
    page_size: int | None = None
    used: list[int] = field(default_factory=list)
    """Numbers of the matching rules that have a count."""

    def answered_as_of(self, now: float) -> float | None:
        """Return the past moment whose state the answer shows; None: the present."""
        if self.as_of is not None:
            return self.as_of
        return now - self.lag_seconds if self.lag_seconds else None


class Faults:
    """The active rules, oldest first. Matching rules apply up to the first refusal."""

    def __init__(self) -> None:
        self._rules: dict[int, Rule] = {}
        self._left: dict[int, int] = {}
        self._added = 0

    def add(self, rule: Rule) -> None:
        self._added += 1
        self._rules[self._added] = rule
        if rule.count is not None:
            self._left[self._added] = rule.count

    def clear(self) -> None:
        self._rules.clear()
        self._left.clear()

    def effect(
        self, action: str, *, pool: str | None, market: str | None, is_repeat: bool
    ) -> FaultEffect:
        """Return the effect of the rules on a call; `is_repeat` if its token is known."""
        effect = FaultEffect()
        for number, rule in self._rules.items():
            if not rule.matches(action, pool, market) or (is_repeat and rule.refuses_launches):
                continue
            if number in self._left:
                effect.used.append(number)
            effect.delay_seconds += rule.delay_seconds
            effect.lose_reply |= rule.lose_reply
            effect.omit |= set(rule.omit)
            effect.lag_seconds = max(effect.lag_seconds, rule.lag_seconds)
            effect.as_of = effect.as_of if rule.as_of is None else rule.as_of
            effect.page_size = effect.page_size if rule.page_size is None else rule.page_size
            if rule.error_code:
                effect.error = Error.of(rule.error_code, rule.message, rule.http_status)
                break
        return effect

    def use(self, numbers: list[int]) -> None:
        """Count one call for each of these rules, and remove a rule that is used up."""
        for number in numbers:
            self._left[number] -= 1
            if self._left[number] == 0:
                del self._left[number], self._rules[number]

    def listing(self) -> list[dict[str, Any]]:
        """Return the rules, each with its remaining number of calls as `count`."""
        return [
            asdict(rule) | {"count": self._left.get(number)} for number, rule in self._rules.items()
        ]
