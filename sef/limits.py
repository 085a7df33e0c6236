"""Limits against damage: what SEF does not do, however good its reasons look.

A defect, a wrong row or a loop in somebody's scripts must not launch or terminate without end. Each
limit that is hit is said once for an episode, and what it holds back is tried again.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock

from sqlalchemy import Connection

from sef.config import Settings, variable
from sef.core.notices import Moment
from sef.core.words import counted
from sef.store import limits
from sef.store.deployment import CLOCKS_DIFFER
from sef.store.events import Event, write_events

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Reached:
    """A limit that is hit; `setting` is the field of `Settings` that sets it."""

    setting: str
    found: str
    agent_id: str | None = None

    @property
    def reason(self) -> str:
        """What was found, and which setting forbids to go on."""
        return f"{self.found}, the limit of {variable(self.setting)}"


def launch_limit(
    connection: Connection,
    agent_id: str,
    now: datetime,
    settings: Settings,
    *,
    is_decision: bool = False,
) -> Reached | None:
    """The limit that forbids to launch an instance for an agent now, if there is one.

    For a decision the caller has changed, or is about to change, the agent's replica: two launches
    of one agent cannot both be under the limit. Those of the whole fleet take turns for it.
    """
    most = settings.launches_per_hour
    if most:
        until = now + CLOCKS_DIFFER
        launched = limits.launches_between(connection, agent_id, now - HOUR, until)
        if launched >= most:
            were = "was" if launched == 1 else "were"
            said = f"{counted(launched, 'instance')} {were} launched for it within an hour"
            return Reached("launches_per_hour", said, agent_id)
    most = settings.max_instances
    if most:
        if is_decision:
            limits.take_turns(connection, "max_instances")
        live = limits.live_instances(connection)
        if live >= most:
            said = f"SEF has {counted(live, 'instance')} running in all"
            return Reached("max_instances", said)
    return None


def tell(
    connection: Connection,
    reached: Reached,
    consequence: str,
    now: datetime,
    *,
    incident_id: str | None = None,
) -> None:
    """Say, once for an episode, that a limit is hit and what follows from that."""
    if not limits.begins_episode(connection, reached.setting, reached.agent_id or "", now):
        return
    name = variable(reached.setting)
    event = Event(
        "limit_reached",
        f"{reached.reason}: {consequence}",
        reached.agent_id,
        "error",
        {"limit": name},
        incident_id if reached.agent_id else None,
        moment=Moment.ALERT,
    )
    write_events(connection, [event], now)


class Allowance:
    """The terminations that a cycle has left, shared by its threads; of 0 there is no end."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._is_endless = count == 0
        self._lock = Lock()
        self.refused: set[str] = set()
        """The instances that have to wait for the next cycle."""

    def take(self, instance_id: str) -> bool:
        with self._lock:
            if self._is_endless:
                return True
            if self._left == 0:
                self.refused.add(instance_id)
                return False
            self._left -= 1
            return True
