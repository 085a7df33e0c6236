"""What EC2's errors mean for a launch: named sets of codes, and what follows from each."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError
from botocore.parsers import ResponseParserError

from sef.errors import CloudUnavailable


class Remedy(StrEnum):
    """What to do after an error."""

    NEXT_POOL = "next pool"
    ON_DEMAND = "on-demand"
    WAIT = "wait, same token"
    NEW_TOKEN = "new token"
    OPERATOR = "operator"


NO_CAPACITY = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "UnfulfillableCapacity",
        "SpotMaxPriceTooLow",
        "Unsupported",
        "InsufficientFreeAddressesInSubnet",
    }
)
"""This pool cannot serve now; another one may."""

SPOT_QUOTA = frozenset({"MaxSpotInstanceCountExceeded"})
"""No spot pool will serve: the account's spot quota is used up."""

ON_DEMAND_QUOTA = frozenset({"InstanceLimitExceeded", "VcpuLimitExceeded"})
"""No more instances of this kind; another type may have a quota of its own."""

QUOTA = SPOT_QUOTA | ON_DEMAND_QUOTA

SPENT_TOKEN = frozenset({"IdempotentParameterMismatch", "IdempotentInstanceTerminated"})
"""The token can launch nothing any more."""

THROTTLED = frozenset(
    {"RequestLimitExceeded", "Throttling", "ThrottlingException", "EC2ThrottledException"}
)
"""More calls than EC2 takes; the same call may be repeated a little later."""

TRANSIENT = THROTTLED | frozenset(
    {
        "InternalError",
        "InternalFailure",
        "ServiceUnavailable",
        "Unavailable",
        "RequestTimeout",
    }
)
"""EC2 could not say; the same call may be repeated, with the same token."""

NOT_FOUND = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})


class CloudError(CloudUnavailable):
    """A call to EC2 that did not succeed, or of which that is not known."""

    def __init__(self, code: str, message: str, remedy: Remedy) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.remedy = remedy
        self.call: dict[str, Any] | None = None
        """The call, where it was one that changes something: see `sef.cloud.timing`."""

    def __str__(self) -> str:
        return self.told

    def again(self) -> "CloudError":
        """The same for somebody else who waited for the call: no exception is raised twice."""
        return CloudError(self.code, self.told.removeprefix(f"{self.code}: "), self.remedy)


def translate(error: ClientError | BotoCoreError) -> CloudError:
    """The error of boto3 as SEF reads it. Whatever is not known to be harmless needs a person."""
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        code = str(details.get("Code", "Unknown"))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return CloudError(code, str(details.get("Message", "")), _remedy(code, status))
    is_connection = isinstance(error, ConnectionError | HTTPClientError)
    remedy = Remedy.WAIT if is_connection else Remedy.OPERATOR
    return CloudError(type(error).__name__, str(error), remedy)


@contextmanager
def translated() -> Iterator[None]:
    """Around calls of boto3 and what is read of their answers: errors are raised as CloudError."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise translate(error) from error
    except (LookupError, ResponseParserError) as error:
        # The call may have been done: what came of it is not known.
        raise CloudError("IncompleteAnswer", f"it lacks {error}", Remedy.WAIT) from error


def _remedy(code: str, status: int) -> Remedy:
    if code in NO_CAPACITY or code in ON_DEMAND_QUOTA:
        return Remedy.NEXT_POOL
    if code in SPOT_QUOTA:
        return Remedy.ON_DEMAND
    if code in SPENT_TOKEN:
        return Remedy.NEW_TOKEN
    if code in TRANSIENT or status >= 500:
        return Remedy.WAIT
    return Remedy.OPERATOR
