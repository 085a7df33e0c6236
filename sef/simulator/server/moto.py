"""Make moto repeatable: the same calls at the same times give the same instances and ids.

Only this module, `region` and `aws_checks` change the inside of moto. Only the simulator's process
imports them.
"""

import datetime
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import moto.ec2.utils
from moto.ec2.responses._base_response import EC2BaseResponse
from moto.moto_api._internal import mock_random
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from sef.simulator.server.aws_checks import check_all_regions
from sef.simulator.server.endings import let_things_end
from sef.simulator.server.region import Region
from sef.simulator.server.spot_requests import start_with_launch_time
from sef.simulator.server.wire import DEFAULT_REGION, Answer, Call


class Moto:
    """moto in this process: its WSGI applications, its regions, its clock and its random ids.

    Args:
        seed: with the same seed, the same calls get the same ids.
        born: creation time of everything that exists from the beginning, in epoch seconds.
    """

    def __init__(self, seed: str, born: float) -> None:
        self._seed = seed
        self._born = born
        self._regions: dict[str, Region] = {}
        self._is_muted = False
        self._clock = _replace_clock()
        self.target_health = check_all_regions()
        self.draining = let_things_end()
        start_with_launch_time()
        # moto always answers RunInstances with "pending"; EC2 answers a repeated token with the
        # present state.
        transformed = EC2BaseResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER
        transformed.pop("RunInstances.Reservation.Instances.Instance.State", None)
        moto.ec2.utils.filter_dict_attribute_mapping.update(
            {"client-token": "client_token", "instance-lifecycle": "lifecycle"}
        )
        # The applications create the default region too, with unseeded ids: create it first.
        self.region(DEFAULT_REGION)
        self._ec2 = create_backend_app("ec2")
        self._others = DomainDispatcherApplication(create_backend_app)

    def regions(self) -> list[Region]:
        return list(self._regions.values())

    def region(self, name: str) -> Region:
        """Return a region; raise KeyError if AWS has no region of this name."""
        if name not in self._regions:
            with self.at(self._born, f"region {name}"):
                self._regions[name] = Region(name)
                self._regions[name].is_muted = self._is_muted
        return self._regions[name]

    def call(self, call: Call, form: Mapping[str, str] | None = None) -> Answer:
        """Let moto answer a call, with another form as its body if one is given."""
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
            started[:] = status, headers

        application: Any = self._ec2
        if call.service != "ec2":
            application = self._others
            # Other services look up EC2's state in their region. A global service such as Route 53
            # has a region name that EC2 does not know.
            with suppress(KeyError):
                self.region(call.region)
        chunks = application(call.environ(form), start_response)
        return Answer(started[0], started[1], b"".join(chunks))

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Allow incomplete answers while a restart replays the journal: it reads no answers."""
        self._mute(True)
        try:
            yield
        finally:
            self._mute(False)

    def _mute(self, is_muted: bool) -> None:
        self._is_muted = is_muted
        for region in self._regions.values():
            region.is_muted = is_muted

    @contextmanager
    def at(self, moment: float, seed: str) -> Iterator[None]:
        """Stop the clock at a moment, and seed the random ids for one change."""
        outer = self._clock.stopped_at
        self._clock.stopped_at = moment
        mock_random.seed(f"{self._seed} {seed}")
        try:
            yield
        finally:
            self._clock.stopped_at = outer


class _Clock:
    """A clock that can be stopped at a moment, in epoch seconds."""

    stopped_at: float | None = None

    def read(self) -> float:
        return time.time() if self.stopped_at is None else self.stopped_at


def _replace_clock() -> _Clock:
    """Make moto's `utcnow` read the returned clock, in every module that imported it."""
    clock = _Clock()

    class Clocked(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(clock.read(), tz)

    vars(moto.core.utils)["datetime"] = SimpleNamespace(**{**vars(datetime), "datetime": Clocked})
    return clock
