"""The simulated EC2: moto, with in front of it what moto lacks, and a journal behind it.

One lock is held for every look at moto's state: moto is not made for threads, and a call's ids come
from dice that no other call may throw meanwhile. Waiting is done outside it.
"""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from decimal import Decimal
from math import inf
from pathlib import Path
from typing import Any

from moto.ec2.models.instances import Instance

from sef.simulator.server.faults import Error, FaultEffect, Faults, Rule
from sef.simulator.server.journal import FORMAT, Journal, Record, StateUnusable
from sef.simulator.server.launches import Launch, Tokens
from sef.simulator.server.moto import Answer, Call, Moto, Region, interrupt, launched_at
from sef.simulator.server.prices import Prices
from sef.simulator.server.wire import Pages, refusal, without, xml
from sef.terms import Pool, parse_pool

_UNWRITTEN = Error.of("InternalError", "The simulated EC2 could not write its journal.")


@dataclass(frozen=True, slots=True)
class Options:
    """How the simulated EC2 behaves; each can be changed while it runs.

    Attributes:
        pending_seconds: how long a new instance is `pending`.
        visible_after_seconds: how long no call but RunInstances knows a new instance yet.
        refuse_token_of_terminated: answer the token of a terminated instance with
            IdempotentInstanceTerminated, as EC2 documents, rather than with the instance.
        healthy_after_seconds: how long a target of a target group is `initial`.
    """

    pending_seconds: float = 1.0
    visible_after_seconds: float = 0.0
    refuse_token_of_terminated: bool = True
    healthy_after_seconds: float = 0.0

    def __post_init__(self) -> None:
        spans = (self.pending_seconds, self.visible_after_seconds, self.healthy_after_seconds)
        if not all(0 <= span < inf for span in spans):
            raise ValueError("seconds are 0 or more")


class SimulatedEc2:
    """State and behaviour; `handle` answers a request, `change` what is asked over the control API.

    Args:
        journal: what has happened so far is in it, and done again first.
        spot_prices: a CSV file of prices to follow.
        given: options that stand above those of the journal.
    """

    def __init__(
        self, journal: Journal, spot_prices: Path | None, given: Mapping[str, Any]
    ) -> None:
        self._lock = threading.RLock()
        self._journal = journal
        self._records = 0
        records = journal.read()
        begun = next(records, None) or self._begin()
        if begun.get("format") != FORMAT:
            raise StateUnusable("the journal is of another version of SEF; move it away")
        self.born: float = begun["at"]
        self._moto = Moto(begun["seed"], self.born)
        self.prices = Prices(self.born)
        if spot_prices is not None:
            self.prices.follow(spot_prices)
        self.options = Options()
        self.faults = Faults()
        self._room: dict[Pool, int] = {}
        self._interrupted: dict[str, float | None] = {}
        self._tokens: dict[str, Tokens] = {}
        self._replayed: list[str] = []
        with self._moto.unheard():
            for record in records:
                self._replay(record)
        self.options = Options(**(asdict(self.options) | dict(given)))

    def handle(self, call: Call) -> Answer | None:
        """Answer a request to AWS; None when the answer is to be lost."""
        with self._lock:
            self._settle(time.time())
            outcome = self._outcome(call)
        if not outcome.lose_reply or outcome.error:
            time.sleep(outcome.delay_seconds)
        if outcome.error:
            return refusal(outcome.error, call.service)
        with self._lock:
            now = time.time()
            self._settle(now)
            answer = self._answer(call, now, outcome)
        if outcome.lose_reply:
            time.sleep(outcome.delay_seconds)
            return None
        return answer

    def change(self, what: str, **details: Any) -> None:
        """Do one of the changes below, `_set_pool` and so on, so that it survives a restart.

        Raises:
            ValueError: it makes no sense, in one sentence; nothing was changed.
            LookupError: there is no such instance.
        """
        with self._lock:
            now = time.time()
            self._settle(now)
            self._check(what, details)
            self._write({"at": now, "change": what, "details": details})
            self._do(what, now, details)

    def instances(self) -> list[dict[str, Any]]:
        with self._lock:
            self._settle(time.time())
            return [
                self._seen(region, instance)
                for region in self._moto.regions()
                for instance in region.instances()
            ]

    def pools(self) -> list[dict[str, Any]]:
        with self._lock:
            prices = self.prices.current(time.time())
            return [
                {
                    "pool": str(pool),
                    "capacity": self._room.get(pool) != 0,
                    "room": self._room.get(pool),
                    "price": f"{prices[pool]:f}" if pool in prices else None,
                }
                for pool in sorted(prices.keys() | self._room.keys())
            ]

    def _answer(self, call: Call, now: float, outcome: FaultEffect) -> Answer:
        pages = Pages(call, outcome.page_size)
        answer = pages.fold(self._whole_answer(pages.call, now, outcome.seen_at(now)))
        return without(answer, outcome.omit)

    def _whole_answer(self, call: Call, now: float, seen_at: float | None) -> Answer:
        try:
            region = self._moto.region(call.region) if call.service == "ec2" else None
        except KeyError:
            return refusal(Error.of("InvalidParameterValue", f"No region {call.region}."))
        if region and call.action == "DescribeSpotPriceHistory":
            return xml(self.prices.describe(call.form, call.region, now))
        if region and call.action == "RunInstances":
            launch = Launch.read(call.form, region)
            if launch and (answer := self._known_or_refused(call, launch, region)):
                return answer
        if region and call.only_reads:
            with region.hiding(self._not_visible_yet(region, now)), region.as_of(seen_at):
                return self._moto.call(call)
        if call.only_reads:
            return self._moto.call(call)
        if region and (unknown := self._not_visible_yet(region, now) & call.instance_ids):
            said = f"The instance ID '{min(unknown)}' does not exist"
            return refusal(Error.of("InvalidInstanceID.NotFound", said))
        try:
            number = self._write({"at": now, "call": asdict(call)})
        except OSError:
            return refusal(_UNWRITTEN)
        answer, launched = self._make(number, now, call)
        if launched:
            # Only to notice, at a restart, that moto gives other ids now.
            with suppress(OSError):
                self._write({"at": now, "launched": launched})
        return answer

    def _known_or_refused(self, call: Call, launch: Launch, region: Region) -> Answer | None:
        tokens = self._tokens_of(call.region)
        known = tokens.launched(launch)
        if known:
            strict = self.options.refuse_token_of_terminated
            if error := tokens.refusal(launch, of_terminated=strict):
                return refusal(error)
            with region.answering_with(known):
                return self._moto.call(call, launch.form)
        room = self._room_for(launch)
        if room is not None and room < launch.least:
            return refusal(
                Error.of(
                    "InsufficientInstanceCapacity",
                    f"We currently do not have sufficient {launch.instance_type} capacity in the "
                    f"Availability Zone you requested ({launch.zone}).",
                )
            )
        return None

    def _room_for(self, launch: Launch) -> int | None:
        """How many more instances the pool of a launch has; None: there is no end to it."""
        pool = parse_pool(launch.pool)
        return self._room.get(pool) if pool and launch.market == "spot" else None

    def _make(self, number: int, at: float, call: Call) -> tuple[Answer, list[str]]:
        """Have moto do what the journal has; the same at a restart as at first."""
        region = self._moto.region(call.region) if call.service == "ec2" else None
        with self._moto.at(at, f"record {number}"):
            if not region:
                return self._moto.call(call), []
            if call.action != "RunInstances":
                answer = self._moto.call(call)
                region.note(call.instance_ids, at)
                return answer, []
            launch = Launch.read(call.form, region)
            room = self._room_for(launch) if launch else None
            answer = self._moto.call(call, launch.asking_for(room) if launch else None)
            launched = region.take_launched()
            if not launch or not launched:
                return answer, []
            for instance in launched.instances:
                # moto invents a token where none was given.
                instance.client_token = launch.token
            pool = parse_pool(launch.pool)
            if room is not None and pool is not None:
                self._room[pool] = room - len(launched.instances)
            self._tokens_of(call.region).remember(launch, launched)
            ids = [i.id for i in launched.instances]
            region.note(ids, at)
            return answer, ids

    def _outcome(self, call: Call) -> FaultEffect:
        launch = None
        if call.service == "ec2" and call.action == "RunInstances":
            try:
                launch = Launch.read(call.form, self._moto.region(call.region))
            except KeyError:
                return FaultEffect()
        outcome = self.faults.outcome(
            call.action,
            pool=launch.pool if launch else None,
            market=launch.market if launch else None,
            is_repeat=bool(launch and self._tokens_of(call.region).launched(launch)),
        )
        if outcome.used:
            self._write({"at": time.time(), "used": outcome.used})
            self.faults.use(outcome.used)
        return outcome

    def _settle(self, now: float) -> None:
        """Let happen what time brings: pending instances run, interrupted ones end."""
        self._moto.health.seconds = self.options.healthy_after_seconds
        for region in self._moto.regions():
            region.settle(now, self.options.pending_seconds)
        due = [(at, i) for i, at in self._interrupted.items() if at is not None and at <= now]
        for at, instance_id in sorted(due):
            self._interrupted[instance_id] = None
            with self._moto.at(at, f"end of {instance_id}"):
                self._end(instance_id, at)

    def _check(self, what: str, details: Mapping[str, Any]) -> None:
        if what == "set_pool" and parse_pool(details["pool"]) is None:
            raise ValueError(f"{details['pool']} is no pool; one looks like m5.large.us-east-1a")
        if what == "set_pool" and (details.get("room") or 0) < 0:
            raise ValueError("room is 0 or more")
        if what == "set_pool" and details["price"] is not None:
            price = Decimal(details["price"])
            if not (price.is_finite() and price > 0):
                raise ValueError("price is greater than 0")
        if what == "add_fault":
            Rule.parse(details)
        if what == "set_options":
            unknown = details.keys() - asdict(self.options).keys()
            if unknown:
                raise ValueError(f"there is no option {sorted(unknown)[0]}")
            Options(**(asdict(self.options) | dict(details)))
        if what in ("interrupt", "terminate", "age") and self._find(details["instance_id"]) is None:
            raise LookupError(f"there is no instance {details['instance_id']}")

    def _do(self, what: str, at: float, details: Mapping[str, Any]) -> None:
        with self._moto.at(at, what):
            match what:
                case "set_pool":
                    self._set_pool(at, **details)
                case "add_fault":
                    self.faults.add(Rule.parse(details))
                case "clear_faults":
                    self.faults.clear()
                case "set_options":
                    self.options = Options(**(asdict(self.options) | dict(details)))
                case "interrupt":
                    after = details["terminate_after_seconds"]
                    end = None if after is None else at + after
                    self._interrupted[details["instance_id"]] = end
                case "terminate":
                    self._end(details["instance_id"], at)
                case "age":
                    self._age(**details)
                case "forget":
                    for region in self._moto.regions():
                        region.forget()
                    self._interrupted.clear()
                    self._tokens.clear()
                case _:
                    raise ValueError(f"there is no {what}")

    def _set_pool(
        self,
        at: float,
        pool: str,
        capacity: bool | None,
        price: str | None,
        room: int | None = None,
    ) -> None:
        named = parse_pool(pool)
        assert named is not None, "checked before it was written down"
        if capacity:
            self._room.pop(named, None)
        elif capacity is not None:
            self._room[named] = 0
        if room is not None:
            self._room[named] = room
        if price is not None:
            self.prices.set(named, Decimal(price), at)

    def _end(self, instance_id: str, at: float) -> None:
        instance = self._find(instance_id)
        if instance and instance.state not in ("terminated", "shutting-down"):
            interrupt(instance)
            for region in self._moto.regions():
                region.note([instance_id], at)

    def _age(self, instance_id: str, seconds: float) -> None:
        instance = self._find(instance_id)
        assert instance is not None, "checked before it was written down"
        instance.launch_time -= timedelta(seconds=seconds)

    def _replay(self, record: Record) -> None:
        self._records += 1
        self._settle(record["at"])
        if "call" in record:
            call = Call(**record["call"])
            _, self._replayed = self._make(self._records, record["at"], call)
        elif "change" in record:
            self._do(record["change"], record["at"], record["details"])
        elif "used" in record:
            self.faults.use(record["used"])
        elif record.get("launched") != self._replayed:
            raise StateUnusable(
                "the journal does not give the same instances again: it was written with another "
                "moto; move simulated-ec2.journal away to start with an empty simulated EC2"
            )

    def _begin(self) -> Record:
        now = time.time()
        record = {"format": FORMAT, "at": now, "seed": f"{time.time_ns():x}"}
        self._journal.append(record)
        return record

    def _write(self, record: Record) -> int:
        self._journal.append(record)
        self._records += 1
        return self._records

    def _tokens_of(self, region: str) -> Tokens:
        return self._tokens.setdefault(region, Tokens())

    def _find(self, instance_id: str) -> Instance | None:
        found = (region.instance(instance_id) for region in self._moto.regions())
        return next((instance for instance in found if instance), None)

    def _not_visible_yet(self, region: Region, now: float) -> frozenset[str]:
        if not self.options.visible_after_seconds:
            return frozenset()
        since = now - self.options.visible_after_seconds
        return frozenset(i.id for i in region.instances() if launched_at(i) > since)

    def _seen(self, region: Region, instance: Instance) -> dict[str, Any]:
        return {
            "id": instance.id,
            "pool": f"{instance.instance_type}.{instance.placement.zone}",
            "market": "spot" if instance.lifecycle == "spot" else "on-demand",
            "state": instance.state,
            "launched_at": launched_at(instance),
            "client_token": instance.client_token,
            "interrupted": instance.id in self._interrupted,
            "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()},
        }
