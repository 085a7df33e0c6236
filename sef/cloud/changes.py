"""Define a planned change of a resource, and the reasons for which one is not made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

RACED = frozenset(
    {
        "IncorrectInstanceState",
        "IncorrectState",
        "InvalidAssociationID.NotFound",
        "InvalidAttachment.NotFound",
        "InvalidAttachmentID.NotFound",
        "InvalidIPAddress.InUse",
        "InvalidNetworkInterface.InUse",
        "Resource.AlreadyAssociated",
        "VolumeInUse",
    }
)
"""Codes of a change that failed because the state is no longer, or not yet, as the call requires.

The caller looks again. Source: EC2's list of error codes (see `sef.cloud.errors`).
"""


class NotReady(Exception):
    """The change has to wait; the caller looks again later. The message is the reason."""


class Waits(NotReady):
    """The change waits on purpose: what serves now has to go on serving."""


class Impossible(Exception):
    """The change cannot be made in the present state. The message is a sentence for an operator."""


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """A change from the state that was seen towards the wanted one.

    Attributes:
        description: the change as a clause in the past tense, for messages.
        make: makes the change; raises CloudError, with a code in RACED if the state has changed.
        is_all: True if the change reaches the wanted state; False if the caller has to look again.
        holder: instance that has the target now and loses it by the change; None: nobody loses it.
        holders: the instances that lose the target by the change; None: not looked up.
        bound: how the holder has a target that it loses before the new primary gets it.
        caveat: the point in which the result differs from what was asked for, for messages.
    """

    description: str
    make: Callable[[], None]
    is_all: bool = True
    holder: str | None = None
    holders: frozenset[str] | None = None
    bound: Mapping[str, Any] | None = None
    caveat: str = ""
