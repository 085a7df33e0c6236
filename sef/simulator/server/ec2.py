"""Answer AWS calls with moto and with the behaviour that moto lacks, and journal every change.

One lock guards moto's state: moto is not thread-safe, and a call's ids come from a random generator
that is seeded for this call. Delays happen outside the lock.
"""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moto.ec2.models.instances import Instance

from sef.simulator.server.changes import State
from sef.simulator.server.faults import Error, FaultEffect
from sef.simulator.server.journal import FORMAT, Journal, Record, StateUnusable
from sef.simulator.server.launches import Launch
from sef.simulator.server.moto import Moto
from sef.simulator.server.prices import Prices
from sef.simulator.server.region import Region, launched_at
from sef.simulator.server.wire import Answer, Call, Pages, refusal, without, xml

_WOULD_SUCCEED = Error.of(
    "DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412
)

_JOURNAL_FAILED = Error.of("InternalError", "The simulated EC2 could not write its journal.")


class SimulatedEc2:
    """The simulated EC2: `handle` answers AWS calls, `change` carries out the control API.

    Args:
        journal: everything that has happened so far; it is replayed first.
        spot_prices: CSV file of prices to replay; None: the built-in prices.
        options: values that take precedence over the options in the journal.

    Raises:
        StateUnusable: the journal cannot be replayed.
        ValueError: the price file or an option cannot be used.
    """

    def __init__(
        self, journal: Journal, spot_prices: Path | None, options: Mapping[str, Any]
    ) -> None:
        self._lock = threading.RLock()
        self._journal = journal
        self._records = 0
        records = journal.read()
        first = next(records, None) or self._begin()
        if first.get("format") != FORMAT:
            raise StateUnusable(
                "another version of SEF wrote simulated-ec2.journal; move it away to start with an "
                "empty simulated EC2"
            )
        self.born: float = first["at"]
        self._moto = Moto(first["seed"], self.born)
        prices = Prices(self.born)
        if spot_prices is not None:
            prices.follow(spot_prices)
        self.state = State(self._moto, prices)
        self._replayed: list[str] = []
        with self._moto.muted():
            for record in records:
                self._replay(record)
        self.state.options = self.state.options.replaced(options)

    def handle(self, call: Call) -> Answer | None:
        """Answer an AWS call; return None if a fault makes the answer get lost."""
        with self._lock:
            self.state.advance(time.time())
            effect = self._fault_effect(call)
        if not effect.lose_reply or effect.error:
            time.sleep(effect.delay_seconds)
        if effect.error:
            return refusal(effect.error, call.service)
        with self._lock:
            now = time.time()
            self.state.advance(now)
            limited = self.state.route53.refusal(call, now, self.state.options)
            answer = limited or self._answer(call, now, effect)
        if effect.lose_reply:
            time.sleep(effect.delay_seconds)
            return None
        return answer

    def change(self, change: str, **details: Any) -> None:
        """Make a change of `State.apply`, and write it to the journal for a restart.

        Raises:
            ValueError: a value is not allowed; nothing was changed.
            LookupError: there is no such instance.
        """
        with self._lock:
            now = time.time()
            self.state.advance(now)
            self.state.check(change, details)
            self._write({"at": now, "change": change, "details": details})
            self.state.apply(change, now, details)

    def instances(self) -> list[dict[str, Any]]:
        with self._lock:
            self.state.advance(time.time())
            return [
                self._describe(instance)
                for region in self._moto.regions()
                for instance in region.instances()
            ]

    def pools(self) -> list[dict[str, Any]]:
        with self._lock:
            return self.state.pools(time.time())

    def _answer(self, call: Call, now: float, effect: FaultEffect) -> Answer:
        pages = Pages(call, effect.page_size)
        answer = pages.page_of(self._whole_answer(pages.call, now, effect.answered_as_of(now)))
        return without(answer, effect.omit)

    def _whole_answer(self, call: Call, now: float, as_of: float | None) -> Answer:
        try:
            region = self._moto.region(call.region) if call.service == "ec2" else None
        except KeyError:
            return refusal(Error.of("InvalidParameterValue", f"No region {call.region}."))
        if region and call.action == "DescribeSpotPriceHistory":
            return xml(self.state.prices.describe(call.form, call.region, now))
        if region and call.form.get("DryRun") == "true":
            # moto's AssignPrivateIpAddresses ignores the parameter.
            return refusal(_WOULD_SUCCEED)
        if region and call.action == "RunInstances":
            launch = Launch.read(call.form, region)
            if launch and (answer := self._answer_without_launch(call, launch, region)):
                return answer
        if region and call.only_reads:
            with region.hiding(self._not_visible_yet(region, now)), region.as_of(as_of):
                return self._moto.call(call)
        if call.only_reads:
            return self._moto.call(call)
        if region and (unknown := self._not_visible_yet(region, now) & call.instance_ids):
            message = f"The instance ID '{min(unknown)}' does not exist"
            return refusal(Error.of("InvalidInstanceID.NotFound", message))
        try:
            number = self._write({"at": now, "call": asdict(call)})
        except OSError:
            return refusal(_JOURNAL_FAILED)
        answer, launched = self._make(number, now, call)
        if launched:
            # A restart compares these ids, to detect a version of moto that gives other ids.
            with suppress(OSError):
                self._write({"at": now, "launched": launched})
        return answer

    def _answer_without_launch(self, call: Call, launch: Launch, region: Region) -> Answer | None:
        """Return the answer for a known token or a full pool; None if the call is to launch."""
        tokens = self.state.tokens_of(call.region)
        launched = tokens.launched(launch)
        if launched:
            strict = self.state.options.refuse_token_of_terminated
            if error := tokens.refusal(launch, of_terminated=strict):
                return refusal(error)
            with region.answering_with(launched):
                return self._moto.call(call, launch.form)
        room = self.state.room_for(launch)
        if room is not None and room < launch.least:
            return refusal(
                Error.of(
                    "InsufficientInstanceCapacity",
                    f"We currently do not have sufficient {launch.instance_type} capacity in the "
                    f"Availability Zone you requested ({launch.zone}).",
                )
            )
        return None

    def _make(self, number: int, at: float, call: Call) -> tuple[Answer, list[str]]:
        """Let moto carry out a journalled call; return the answer and the launched ids.

        A restart repeats this with the same number and time, and gets the same ids.
        """
        region = self._moto.region(call.region) if call.service == "ec2" else None
        with self._moto.at(at, f"record {number}"):
            if not region:
                return self._moto.call(call), []
            if call.action == "RunInstances":
                return self._launch(region, at, call)
            answer = self._moto.call(call)
            region.record_states(call.instance_ids, at)
            self.state.sweep(at)
            return answer, []

    def _launch(self, region: Region, at: float, call: Call) -> tuple[Answer, list[str]]:
        launch = Launch.read(call.form, region)
        room = self.state.room_for(launch) if launch else None
        answer = self._moto.call(call, launch.asking_for(room) if launch else None)
        launched = region.take_launched()
        if not launch or not launched:
            return answer, []
        for instance in launched.instances:
            # moto generates a token if the call has none.
            instance.client_token = launch.token
        if launch.market == "spot":
            region.spot_requests.note(launched.instances, launch.form)
        self.state.take_room(launch, len(launched.instances))
        self.state.tokens_of(call.region).remember(launch, launched)
        ids = [i.id for i in launched.instances]
        region.record_states(ids, at)
        return answer, ids

    def _fault_effect(self, call: Call) -> FaultEffect:
        launch = None
        if call.service == "ec2" and call.action == "RunInstances":
            try:
                launch = Launch.read(call.form, self._moto.region(call.region))
            except KeyError:
                return FaultEffect()
        effect = self.state.faults.effect(
            call.action,
            pool=launch.pool if launch else None,
            market=launch.market if launch else None,
            is_repeat=bool(launch and self.state.tokens_of(call.region).launched(launch)),
        )
        if effect.used:
            self._write({"at": time.time(), "used": effect.used})
            self.state.faults.use(effect.used)
        return effect

    def _replay(self, record: Record) -> None:
        self._records += 1
        self.state.advance(record["at"])
        if "call" in record:
            call = Call(**record["call"])
            _, self._replayed = self._make(self._records, record["at"], call)
        elif "change" in record:
            self.state.apply(record["change"], record["at"], record["details"])
        elif "used" in record:
            self.state.faults.use(record["used"])
        elif record.get("launched") != self._replayed:
            raise StateUnusable(
                "the journal does not give the same instances again: another version of moto wrote "
                "it; move simulated-ec2.journal away to start with an empty simulated EC2"
            )

    def _begin(self) -> Record:
        record = {"format": FORMAT, "at": time.time(), "seed": f"{time.time_ns():x}"}
        self._journal.append(record)
        return record

    def _write(self, record: Record) -> int:
        self._journal.append(record)
        self._records += 1
        return self._records

    def _not_visible_yet(self, region: Region, now: float) -> frozenset[str]:
        if not self.state.options.visible_after_seconds:
            return frozenset()
        since = now - self.state.options.visible_after_seconds
        return frozenset(i.id for i in region.instances() if launched_at(i) > since)

    def _describe(self, instance: Instance) -> dict[str, Any]:
        return {
            "id": instance.id,
            "pool": f"{instance.instance_type}.{instance.placement.zone}",
            "market": "spot" if instance.lifecycle == "spot" else "on-demand",
            "state": instance.state,
            "launched_at": launched_at(instance),
            "client_token": instance.client_token,
            "interrupted": instance.id in self.state.interrupted,
            "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()},
        }
