"""Remember the instance that gave a volume or an interface, until the new primary has it.

Between the detachment and the attachment nobody has the target. If nothing presses and the new
primary is refused the target, it goes back to the instance that serves. It is not taken again
before the new primary has changed: each attempt would interrupt the service.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sef.cloud.changes import PlannedChange


@dataclass(frozen=True, slots=True)
class Taken:
    """A target that was taken from an instance.

    Attributes:
        instance_id: instance that gave it; None: it was not taken.
        bound: how that instance had it: `device` or `device_index`.
        given_at: first attempt to attach it to the new primary.
        refusal: why the new primary cannot have it; None: it was not refused.
        seen: fingerprint of the new primary when the target went back; None: it has not gone back.
    """

    instance_id: str | None = None
    bound: Mapping[str, Any] | None = None
    given_at: str | None = None
    refusal: str | None = None
    seen: str | None = None

    @classmethod
    def read(cls, column: Mapping[str, Any] | None) -> "Taken":
        return cls(**(column or {}))

    def to_column(self) -> dict[str, Any] | None:
        return None if self.instance_id is None else asdict(self)

    @property
    def goes_back(self) -> bool:
        """True if the target was refused and has not gone back yet."""
        return self.refusal is not None and self.seen is None

    def after_claim(self, change: PlannedChange, seen: str | None, now: datetime) -> "Taken":
        """Return what is to be committed before a change is made.

        Args:
            seen: fingerprint of the new primary, if the change puts the target back.
        """
        if change.bound is not None:
            return Taken(change.holder, change.bound)
        if seen is not None:
            return replace(self, seen=seen)
        if self.instance_id is not None and self.given_at is None:
            return replace(self, given_at=now.isoformat())
        return self

    def after_refusal(
        self, message: str, *, is_final: bool, patience: timedelta, now: datetime
    ) -> "Taken":
        """Return the state after an attempt to attach the target to the new primary failed.

        Args:
            is_final: waiting does not help. Otherwise it counts as refused after `patience`.
        """
        if self.given_at is None or self.refusal is not None:
            return self
        if not is_final and now - datetime.fromisoformat(self.given_at) < patience:
            return self
        return replace(
            self,
            refusal=f"{message}; {self.instance_id} gets it back and serves with it, and SEF takes "
            "it again once the new primary has changed, or once the target is named anew",
        )
