"""What the simulated EC2 does wrong on demand: rules that fit a call and say what happens to it."""

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
"""HTTP status that EC2 sends with a code; every other code is a 400."""

MARKETS = ("spot", "on-demand")


@dataclass(frozen=True, slots=True)
class Error:
    """A refusal, as EC2 words it."""

    code: str
    message: str
    status: int

    @classmethod
    def of(cls, code: str, message: str = "", status: int | None = None) -> "Error":
        return cls(code, message or f"Simulated: {code}.", status or STATUS.get(code, 400))


@dataclass(frozen=True, slots=True)
class Rule:
    """Calls that fit are delayed, refused, done without an answer, or answered badly.

    Attributes:
        action: such as `RunInstances`; `*` for every action.
        pool: only launches into this pool, such as `m5.large.us-east-1a`.
        market: only launches on `spot` or `on-demand`.
        count: for how many calls; None for all.
        error_code: refuse with it; `http_status` and `message` follow from it unless given.
        delay_seconds: wait before the call is done or, with `lose_reply`, after it.
        lose_reply: do the call, then close the connection without an answer.
        omit: leave these elements out of the answer, such as `tagSet` or `launchTime`; `item`
            empties every list of it.
        lag_seconds: what only reads is answered with the instances as they were so long ago.
        as_of: the same, with the moment itself, in epoch seconds.
        page_size: DescribeInstances is answered in pages of so many reservations; with 0, the
            first page is empty and the next one has all.
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
        """Raise ValueError with one sentence for what is no rule."""
        unknown = given.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"a fault has no {sorted(unknown)[0]}")
        if not given.get("action"):
            raise ValueError("a fault needs an action, such as RunInstances, or *")
        rule = cls(**(dict(given) | {"omit": tuple(given.get("omit") or ())}))
        if rule.market not in (None, *MARKETS):
            raise ValueError(f"market is spot or on-demand, not {rule.market}")
        if rule.count is not None and rule.count < 1:
            raise ValueError("count is at least 1, or null for every call")
        if not 0 <= rule.delay_seconds < inf:
            raise ValueError("delay_seconds is 0 or more")
        if not 0 <= rule.lag_seconds < inf:
            raise ValueError("lag_seconds is 0 or more")
        if rule.page_size is not None and rule.page_size < 0:
            raise ValueError("page_size is 0 or more")
        if not rule.does_something:
            raise ValueError(
                "a fault needs error_code, delay_seconds, lose_reply, omit, lag_seconds, as_of "
                "or page_size"
            )
        return rule

    @property
    def does_something(self) -> bool:
        return bool(
            self.error_code
            or self.delay_seconds
            or self.lose_reply
            or self.omit
            or self.lag_seconds
            or self.as_of is not None
            or self.page_size is not None
        )

    def fits(self, action: str, pool: str | None, market: str | None) -> bool:
        return (
            self.action in ("*", action)
            and self.pool in (None, pool)
            and self.market in (None, market)
        )

    @property
    def is_about_launching(self) -> bool:
        """Met when an instance is made, not at EC2's door; a repeated token does not meet it."""
        return bool(self.error_code) and (self.pool is not None or self.market is not None)


@dataclass(slots=True)
class FaultEffect:
    """What the rules make of one call."""

    error: Error | None = None
    delay_seconds: float = 0.0
    lose_reply: bool = False
    omit: set[str] = field(default_factory=set)
    lag_seconds: float = 0.0
    as_of: float | None = None
    page_size: int | None = None
    used: list[int] = field(default_factory=list)
    """Rules with a count, by number."""

    def seen_at(self, now: float) -> float | None:
        """The moment that the answer tells of; None: the present."""
        if self.as_of is not None:
            return self.as_of
        return now - self.lag_seconds if self.lag_seconds else None


class Faults:
    """The rules in force, oldest first. Every one that fits applies, up to a refusal."""

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

    def outcome(
        self, action: str, *, pool: str | None, market: str | None, is_repeat: bool
    ) -> FaultEffect:
        outcome = FaultEffect()
        for number, rule in self._rules.items():
            if not rule.fits(action, pool, market) or (is_repeat and rule.is_about_launching):
                continue
            if number in self._left:
                outcome.used.append(number)
            outcome.delay_seconds += rule.delay_seconds
            outcome.lose_reply |= rule.lose_reply
            outcome.omit |= set(rule.omit)
            outcome.lag_seconds = max(outcome.lag_seconds, rule.lag_seconds)
            outcome.as_of = outcome.as_of if rule.as_of is None else rule.as_of
            outcome.page_size = outcome.page_size if rule.page_size is None else rule.page_size
            if rule.error_code:
                outcome.error = Error.of(rule.error_code, rule.message, rule.http_status)
                break
        return outcome

    def use(self, numbers: list[int]) -> None:
        """Count a call against these rules; one that is used up is gone."""
        for number in numbers:
            self._left[number] -= 1
            if self._left[number] == 0:
                del self._left[number], self._rules[number]

    def listing(self) -> list[dict[str, Any]]:
        """The rules, with the calls that are left to each as its count."""
        return [
            asdict(rule) | {"count": self._left.get(number)} for number, rule in self._rules.items()
        ]
