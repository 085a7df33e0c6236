import os
import signal
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Self

import requests

from sef.errors import CloudUnavailable

_HTTP_SECONDS = 10.0
_POLL_SECONDS = 0.02


class SimulationError(CloudUnavailable):
    """The simulated EC2 cannot be started or reached, or refuses; the message is one line."""

    def __str__(self) -> str:
        return self.told


@dataclass(frozen=True, slots=True)
class SimulatedInstance:
    id: str
    pool: str
    market: str
    state: str
    launched_at: float
    client_token: str | None
    interrupted: bool
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SimulatedPool:
    pool: str
    capacity: bool
    room: int | None
    """For how many more spot instances there is room; None: there is no end to it."""
    price: Decimal | None

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        price = told["price"]
        return cls(
            told["pool"], told["capacity"], told["room"], None if price is None else Decimal(price)
        )


class Simulation:
    """A running simulated EC2. Every method raises `SimulationError` when it does not answer."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._http = requests.Session()
        # A proxy of the user's is not for this machine.
        self._http.trust_env = False

    def health(self) -> dict[str, Any]:
        """Its `pid`, the folder it belongs to as `state`, and since when it exists."""
        health: dict[str, Any] = self._ask("GET", "health")
        return health

    def instances(self) -> list[SimulatedInstance]:
        """Every instance ever launched, the oldest first."""
        return [SimulatedInstance(**told) for told in self._ask("GET", "instances")]

    def pools(self) -> list[SimulatedPool]:
        return [SimulatedPool.read(told) for told in self._ask("GET", "pools")]

    def set_pool(
        self,
        pool: str,
        *,
        capacity: bool | None = None,
        room: int | None = None,
        price: Decimal | float | None = None,
    ) -> None:
        """Give a pool another spot price, or take its spot capacity away or give it back.

        With `room` it has capacity for so many more spot instances, until `capacity=True`.

        On-demand instances can still be launched in a pool without spot capacity.
        """
        told = None if price is None else str(price)
        self._ask("PUT", f"pools/{pool}", {"capacity": capacity, "room": room, "price": told})

    def add_fault(
        self,
        action: str,
        *,
        pool: str | None = None,
        market: Literal["spot", "on-demand"] | None = None,
        count: int | None = None,
        error_code: str | None = None,
        http_status: int | None = None,
        message: str = "",
        delay_seconds: float = 0.0,
        lose_reply: bool = False,
        omit: Collection[str] = (),
        lag_seconds: float = 0.0,
        as_of: float | None = None,
        page_size: int | None = None,
    ) -> None:
        """Let the next `count` calls of an action that fit, or all, go wrong.

        `lose_reply` does the call and then closes the connection, after `delay_seconds`;
        otherwise the delay comes before the call. See `sef.simulator.server.faults.Rule`.
        """
        rule = {
            "action": action,
            "pool": pool,
            "market": market,
            "count": count,
            "error_code": error_code,
            "http_status": http_status,
            "message": message,
            "delay_seconds": delay_seconds,
            "lose_reply": lose_reply,
            "omit": list(omit),
            "lag_seconds": lag_seconds,
            "as_of": as_of,
            "page_size": page_size,
        }
        self._ask("POST", "faults", rule)

    def throttle(self, action: str = "*", *, count: int | None = None) -> None:
        """Answer as EC2 does when there have been too many calls."""
        self.add_fault(action, count=count, error_code="RequestLimitExceeded")

    def faults(self) -> list[dict[str, Any]]:
        """The faults in force; `count` is how often each still applies, None for always."""
        faults: list[dict[str, Any]] = self._ask("GET", "faults")
        return faults

    def clear_faults(self) -> None:
        self._ask("DELETE", "faults")

    def set_options(
        self,
        *,
        pending_seconds: float | None = None,
        visible_after_seconds: float | None = None,
        refuse_token_of_terminated: bool | None = None,
        healthy_after_seconds: float | None = None,
    ) -> None:
        """See `sef.simulator.server.ec2.Options`; what is None stays as it is."""
        given = {
            "pending_seconds": pending_seconds,
            "visible_after_seconds": visible_after_seconds,
            "refuse_token_of_terminated": refuse_token_of_terminated,
            "healthy_after_seconds": healthy_after_seconds,
        }
        self._ask("PUT", "options", {k: v for k, v in given.items() if v is not None})

    def interrupt(self, instance_id: str, *, terminate_after_seconds: float | None = None) -> None:
        """Mark an instance as being interrupted; after a time, if one is given, it is terminated.

        Nothing is announced to anybody: whoever simulates an interruption posts the signal.
        """
        self._ask(
            "POST",
            f"instances/{instance_id}/interrupt",
            {"terminate_after_seconds": terminate_after_seconds},
        )

    def terminate(self, instance_id: str) -> None:
        """Take an instance away at once, as AWS does without a notice."""
        self._ask("POST", f"instances/{instance_id}/terminate")

    def age(self, instance_id: str, seconds: float) -> None:
        """Let an instance have been launched so much longer ago."""
        self._ask("POST", f"instances/{instance_id}/age", {"seconds": seconds})

    def forget_instances(self) -> None:
        """End all instances and know nothing of them afterwards, as EC2 does after an hour."""
        self._ask("DELETE", "instances")

    def on_demand_prices(self) -> dict[str, Decimal]:
        """USD per hour by instance type."""
        told = self._ask("GET", "on-demand-prices")
        return {kind: Decimal(price) for kind, price in told.items()}

    def stop(self) -> None:
        """End the process; what it knows is kept. Returns when it does not answer any more."""
        os.kill(self.health()["pid"], signal.SIGTERM)
        deadline = time.monotonic() + _HTTP_SECONDS
        while self._answers():
            if time.monotonic() > deadline:
                raise SimulationError(f"the simulated EC2 at {self.endpoint} does not stop")
            time.sleep(_POLL_SECONDS)

    def _answers(self) -> bool:
        try:
            self.health()
        except SimulationError:
            return False
        return True

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        url = f"{self.endpoint}/simulation/{path}"
        try:
            response = self._http.request(method, url, json=body, timeout=_HTTP_SECONDS)
            answer = response.json()
        except requests.RequestException as error:
            raise SimulationError(
                f"the simulated EC2 at {self.endpoint} does not answer ({type(error).__name__})"
            ) from error
        if not response.ok:
            raise SimulationError(f"the simulated EC2 refuses: {answer['message']}")
        return answer
