"""Control a running simulated EC2 over its HTTP control API."""

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
    """The simulated EC2 cannot be started or reached, or refuses a call. The message is a line."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


@dataclass(frozen=True, slots=True)
class SimulatedInstance:
    """An instance as the control API shows it; `launched_at` is in epoch seconds."""

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
    """A spot pool as the control API shows it; `price` is in US dollars per hour."""

    pool: str
    capacity: bool
    room: int | None
    """Number of further spot instances that fit in; None: no limit."""
    price: Decimal | None

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Self:
        price = None if entry["price"] is None else Decimal(entry["price"])
        return cls(entry["pool"], entry["capacity"], entry["room"], price)


class Simulation:
    """A running simulated EC2.

    Raises:
        SimulationError: it does not answer, or refuses the call.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._http = requests.Session()
        # The simulator is on this machine: ignore the user's proxy settings.
        self._http.trust_env = False

    def health(self) -> dict[str, Any]:
        """Return its `pid`, its folder as `state`, and its start as `began_at`."""
        health: dict[str, Any] = self._ask("GET", "health")
        return health

    def instances(self) -> list[SimulatedInstance]:
        """Return every instance ever launched, oldest first."""
        return [SimulatedInstance(**entry) for entry in self._ask("GET", "instances")]

    def pools(self) -> list[SimulatedPool]:
        return [SimulatedPool.read(entry) for entry in self._ask("GET", "pools")]

    def set_pool(
        self,
        pool: str,
        *,
        capacity: bool | None = None,
        room: int | None = None,
        price: Decimal | float | None = None,
    ) -> None:
        """Change the spot capacity or the spot price of a pool; None leaves a value unchanged.

        On-demand instances can always be launched.

        Args:
            capacity: False: no spot capacity; True: unlimited.
            room: number of further spot instances that fit in, until `capacity=True`.
            price: USD per hour.
        """
        text = None if price is None else str(price)
        self._ask("PUT", f"pools/{pool}", {"capacity": capacity, "room": room, "price": text})

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
        """Inject a fault into the next `count` matching calls, or into all.

        The parameters are the fields of `sef.simulator.server.faults.Rule`.
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
        """Refuse calls with RequestLimitExceeded, as EC2 does after too many calls."""
        self.add_fault(action, count=count, error_code="RequestLimitExceeded")

    def faults(self) -> list[dict[str, Any]]:
        """Return the active faults; `count` is the remaining number of calls, None: no limit."""
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
        route53_per_second: float | None = None,
        route53_change_seconds: float | None = None,
        draining_seconds: float | None = None,
        spot_return_seconds: float | None = None,
    ) -> None:
        """Set fields of `sef.simulator.server.changes.Options`; None leaves a field unchanged."""
        options = {
            "pending_seconds": pending_seconds,
            "visible_after_seconds": visible_after_seconds,
            "refuse_token_of_terminated": refuse_token_of_terminated,
            "healthy_after_seconds": healthy_after_seconds,
            "route53_per_second": route53_per_second,
            "route53_change_seconds": route53_change_seconds,
            "draining_seconds": draining_seconds,
            "spot_return_seconds": spot_return_seconds,
        }
        self._ask("PUT", "options", {k: v for k, v in options.items() if v is not None})

    def interrupt(self, instance_id: str, *, terminate_after_seconds: float | None = None) -> None:
        """Mark an instance as interrupted, and terminate it after the given time, if any.

        The simulator sends no signal; the caller posts it to SEF.
        """
        self._ask(
            "POST",
            f"instances/{instance_id}/interrupt",
            {"terminate_after_seconds": terminate_after_seconds},
        )

    def terminate(self, instance_id: str) -> None:
        """Terminate an instance at once, as AWS does without a notice."""
        self._ask("POST", f"instances/{instance_id}/terminate")

    def age(self, instance_id: str, seconds: float) -> None:
        """Move the launch time of an instance into the past, by a number of seconds."""
        self._ask("POST", f"instances/{instance_id}/age", {"seconds": seconds})

    def forget_instances(self) -> None:
        """Terminate and forget all instances; EC2 forgets an instance an hour after its end."""
        self._ask("DELETE", "instances")

    def on_demand_prices(self) -> dict[str, Decimal]:
        """Return USD per hour by instance type."""
        prices = self._ask("GET", "on-demand-prices")
        return {kind: Decimal(price) for kind, price in prices.items()}

    def stop(self) -> None:
        """Stop the process and wait until it does not answer any more. Its state is kept."""
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
