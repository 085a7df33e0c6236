"""Change the simulated EC2: as its control API requests, and as time passes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from moto.ec2.models.instances import Instance

from sef.simulator.server.faults import Faults, Rule
from sef.simulator.server.launches import Launch, Tokens
from sef.simulator.server.moto import Moto
from sef.simulator.server.prices import Prices
from sef.simulator.server.region import interrupt
from sef.simulator.server.route53_limits import Route53Limits
from sef.terms import LONGEST_SPAN, Pool, parse_pool


@dataclass(frozen=True, slots=True)
class Options:
    """Behaviour of the simulated EC2; each option can be changed while it runs.

    Attributes:
        pending_seconds: time that a new instance is `pending`.
        visible_after_seconds: time until calls other than RunInstances know a new instance.
        refuse_token_of_terminated: answer the token of a terminated instance with
            IdempotentInstanceTerminated, as EC2 documents, rather than with the instance.
        healthy_after_seconds: time that a target of a target group is `initial`.
        route53_per_second: requests to Route 53 that are answered in a second; 0: no limit.
        route53_change_seconds: time for which a hosted zone accepts no other change.
        draining_seconds: time that a deregistered target is `draining`; None: the deregistration
            delay of its group.
        spot_return_seconds: time until a persistent spot request launches or starts an instance
            again, if its pool has room.
    """

    pending_seconds: float = 1.0
    visible_after_seconds: float = 0.0
    refuse_token_of_terminated: bool = True
    healthy_after_seconds: float = 0.0
    route53_per_second: float = 0.0
    route53_change_seconds: float = 0.0
    draining_seconds: float | None = None
    spot_return_seconds: float = 60.0

    def __post_init__(self) -> None:
        spans = (
            self.pending_seconds,
            self.visible_after_seconds,
            self.healthy_after_seconds,
            self.route53_per_second,
            self.route53_change_seconds,
            self.draining_seconds or 0.0,
            self.spot_return_seconds,
        )
        if not all(0 <= span <= LONGEST_SPAN for span in spans):
            raise ValueError(f"seconds must be from 0 to {LONGEST_SPAN}")

    def replaced(self, details: Mapping[str, Any]) -> "Options":
        return Options(**(asdict(self) | dict(details)))


class State:
    """The state of the simulator that moto does not have.

    Attributes:
        interrupted: ids of the interrupted instances, with the time of the end; None: no end.
    """

    def __init__(self, moto: Moto, prices: Prices) -> None:
        self.prices = prices
        self.options = Options()
        self.faults = Faults()
        self.route53 = Route53Limits()
        self.interrupted: dict[str, float | None] = {}
        self._moto = moto
        self._room: dict[Pool, int] = {}
        self._room_since: dict[Pool, float] = {}
        self._tokens: dict[str, Tokens] = {}

    def tokens_of(self, region: str) -> Tokens:
        return self._tokens.setdefault(region, Tokens())

    def room_for(self, launch: Launch) -> int | None:
        """Return the number of further instances that fit into a launch's pool; None: no limit."""
        pool = parse_pool(launch.pool)
        return self._room.get(pool) if pool and launch.market == "spot" else None

    def take_room(self, launch: Launch, instances: int) -> None:
        """Reduce the room of a launch's pool, if the room is limited."""
        room, pool = self.room_for(launch), parse_pool(launch.pool)
        if room is not None and pool is not None:
            self._room[pool] = room - instances

    def pools(self, now: float) -> list[dict[str, Any]]:
        """Return the pools that have a price or limited room, as the control API shows them."""
        prices = self.prices.current(now)
        return [
            {
                "pool": str(pool),
                "capacity": self._room.get(pool) != 0,
                "room": self._room.get(pool),
                "price": f"{prices[pool]:f}" if pool in prices else None,
            }
            for pool in sorted(prices.keys() | self._room.keys())
        ]

    def find(self, instance_id: str) -> Instance | None:
        instances = (region.instance(instance_id) for region in self._moto.regions())
        return next((instance for instance in instances if instance), None)

    def advance(self, now: float) -> None:
        """Let pending instances run and interrupted instances end once they are due."""
        self._moto.target_health.initial_seconds = self.options.healthy_after_seconds
        self._moto.draining.seconds = self.options.draining_seconds
        for region in self._moto.regions():
            region.advance(now, self.options.pending_seconds)
        due = [(at, i) for i, at in self.interrupted.items() if at is not None and at <= now]
        for at, instance_id in sorted(due):
            self.interrupted[instance_id] = None
            with self._moto.at(at, f"end of {instance_id}"):
                if not self._stop(instance_id, at):
                    self._end(instance_id, at)
                self.sweep(at)
        self._bring_back(now)

    def sweep(self, at: float) -> None:
        """Let spot requests follow their instances, after a change at a moment."""
        for region in self._moto.regions():
            region.spot_requests.sweep(at, self.options.spot_return_seconds)

    def check(self, change: str, details: Mapping[str, Any]) -> None:
        """Check a change before it is written to the journal.

        Raises:
            ValueError: a value is not allowed; the message is one sentence.
            LookupError: there is no such instance.
        """
        match change:
            case "set_pool":
                _check_pool(details)
            case "add_fault":
                Rule.parse(details)
            case "set_options":
                unknown = details.keys() - asdict(self.options).keys()
                if unknown:
                    allowed = ", ".join(sorted(asdict(self.options)))
                    raise ValueError(f"unknown option {min(unknown)}; allowed: {allowed}")
                self.options.replaced(details)
            case "interrupt" | "terminate" | "age":
                for name in ("seconds", "terminate_after_seconds"):
                    if not 0 <= (details.get(name) or 0) <= LONGEST_SPAN:
                        raise ValueError(f"{name} must be from 0 to {LONGEST_SPAN}")
                if self.find(details["instance_id"]) is None:
                    raise LookupError(f"there is no instance {details['instance_id']}")

    def apply(self, change: str, at: float, details: Mapping[str, Any]) -> None:
        """Make a change that `check` has accepted, at a moment."""
        with self._moto.at(at, change):
            match change:
                case "set_pool":
                    self._set_pool(at, **details)
                case "add_fault":
                    self.faults.add(Rule.parse(details))
                case "clear_faults":
                    self.faults.clear()
                case "set_options":
                    self.options = self.options.replaced(details)
                case "interrupt":
                    after = details["terminate_after_seconds"]
                    end = None if after is None else at + after
                    self.interrupted[details["instance_id"]] = end
                case "terminate":
                    self._end(details["instance_id"], at)
                case "age":
                    self._age(**details)
                case "forget":
                    self._forget()
                case _:
                    raise ValueError(f"there is no change {change}")
            self.sweep(at)

    def _set_pool(
        self,
        at: float,
        pool: str,
        capacity: bool | None,
        price: str | None,
        room: int | None = None,
    ) -> None:
        parsed = parse_pool(pool)
        assert parsed is not None, "`check` has accepted the pool"
        if capacity:
            self._room.pop(parsed, None)
        elif capacity is not None:
            self._room[parsed] = 0
        if room is not None:
            self._room[parsed] = room
        if capacity or room:
            self._room_since[parsed] = at
        if price is not None:
            self.prices.set(parsed, Decimal(price), at)

    def _stop(self, instance_id: str, at: float) -> bool:
        """Stop an instance, if that is what an interruption does to it; return False if not."""
        for region in self._moto.regions():
            instance = region.instance(instance_id)
            if instance is None or instance.state != "running":
                continue
            delay = self.options.spot_return_seconds
            if region.spot_requests.stop_interrupted(instance, at, delay):
                region.record_states([instance_id], at)
                return True
        return False

    def _bring_back(self, now: float) -> None:
        """Let open spot requests launch or start their instances where the pool has room."""
        for region in self._moto.regions():
            for due, request in region.spot_requests.due(now):
                pool = parse_pool(request.pool)
                room = None if pool is None else self._room.get(pool)
                if room == 0:
                    continue
                at = due if pool is None else max(due, self._room_since.get(pool, due))
                if at > now:
                    continue
                with self._moto.at(at, f"spot request {request.id} at {at}"):
                    instance_id = region.spot_requests.fulfil(request)
                region.take_launched()
                region.record_states([instance_id], at)
                if room is not None and pool is not None:
                    self._room[pool] = room - 1

    def _end(self, instance_id: str, at: float) -> None:
        instance = self.find(instance_id)
        if instance and instance.state not in ("terminated", "shutting-down"):
            interrupt(instance)
            for region in self._moto.regions():
                region.record_states([instance_id], at)

    def _age(self, instance_id: str, seconds: float) -> None:
        instance = self.find(instance_id)
        assert instance is not None, "`check` has found the instance"
        instance.launch_time -= timedelta(seconds=seconds)

    def _forget(self) -> None:
        for region in self._moto.regions():
            region.forget()
        self.interrupted.clear()
        self._tokens.clear()


def _check_pool(details: Mapping[str, Any]) -> None:
    if parse_pool(details["pool"]) is None:
        raise ValueError(f"invalid pool {details['pool']}; expected e.g. m5.large.us-east-1a")
    if (details.get("room") or 0) < 0:
        raise ValueError("room must be 0 or more")
    if details["price"] is not None:
        price = Decimal(details["price"])
        if not (price.is_finite() and price > 0):
            raise ValueError("price must be greater than 0")
