"""Translate errors of AWS: named sets of codes, and the remedy for each set.

Where no other source is given, a code and its meaning are from AWS's list,
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError
from botocore.parsers import ResponseParserError

from sef.errors import CloudUnavailable


class Remedy(StrEnum):
    """The action that SEF takes after an error."""

    NEXT_POOL = "next pool"
    """Launch in another pool: the refusal concerns only this one."""
    ON_DEMAND = "on-demand"
    """Launch on demand: every spot pool would refuse."""
    WAIT = "wait, same token"
    """Repeat the same call later, with the same client token: EC2 may have made the first call."""
    NEW_TOKEN = "new token"
    """Launch again with a new client token: the old token launches nothing any more."""
    OPERATOR = "operator"
    """Tell an operator: repeating the call does not help."""


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
"""The pool has no capacity now; another pool may have capacity."""

SPOT_QUOTA = frozenset({"MaxSpotInstanceCountExceeded"})
"""The account's spot quota is used up, so every spot pool refuses."""

ON_DEMAND_QUOTA = frozenset({"InstanceLimitExceeded", "VcpuLimitExceeded"})
"""The quota for this type is used up; another type may have a quota of its own."""

QUOTA = SPOT_QUOTA | ON_DEMAND_QUOTA
"""A quota of the account is used up."""

SPENT_TOKEN = frozenset({"IdempotentParameterMismatch", "IdempotentInstanceTerminated"})
"""The client token cannot launch anything any more."""

THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
"""AWS throttled the call; the same call may be repeated a little later.

All are in botocore's list of throttling errors (`botocore.retries.standard`), of which two are left
out: `LimitExceededException` can be a quota, and `ProvisionedThroughputExceededException` is of
DynamoDB. `PriorRequestNotComplete`: the hosted zone still processes another change.
"""

TRANSIENT = THROTTLED | frozenset(
    {
        "InternalError",
        "InternalFailure",
        "ServiceUnavailable",
        "Unavailable",
        "RequestTimeout",
    }
)
"""The result is unknown; the same call may be repeated, with the same token.

`RequestTimeout` is in botocore's list of transient errors (`botocore.retries.standard`).
"""

DENIED = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"})
"""The credentials lack the right to make the call.

EC2 sends UnauthorizedOperation; other services send AccessDenied or AccessDeniedException (their
lists of common errors).
"""

NOT_FOUND = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})
"""EC2 does not know the instance: it is too new, or ended long ago."""


class CloudError(CloudUnavailable):
    """A call to AWS that failed, or whose result is unknown.

    Attributes:
        code: AWS's error code, or the name of boto3's exception.
        call: the call, if `sef.cloud.ec2.timed` made it, with its duration.
    """

    def __init__(self, code: str, message: str, remedy: Remedy) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.remedy = remedy
        self.call: dict[str, Any] | None = None
        self._aws_message = message

    @property
    def is_throttled(self) -> bool:
        return self.code in THROTTLED

    def __str__(self) -> str:
        return f"{self.code}: {self._aws_message}"

    def again(self) -> "CloudError":
        """Return a copy for another thread that waited for the call.

        An exception that two threads raise would mix their tracebacks.
        """
        return CloudError(self.code, self._aws_message, self.remedy)


def translate(error: ClientError | BotoCoreError) -> CloudError:
    """Return an error of boto3 as a `CloudError`. An unknown code gets the remedy OPERATOR."""
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
    """Raise errors of boto3 calls, and of reading their answers, as `CloudError`.

    An answer without an expected element has the code `IncompleteAnswer` and the remedy WAIT:
    AWS may have carried out the call.
    """
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise translate(error) from error
    except (LookupError, ResponseParserError) as error:
        raise CloudError("IncompleteAnswer", f"the answer lacks {error}", Remedy.WAIT) from error


def _remedy(code: str, status: int) -> Remedy:
    if code in NO_CAPACITY or code in ON_DEMAND_QUOTA:
        return Remedy.NEXT_POOL
    if code in SPOT_QUOTA:
        return Remedy.ON_DEMAND
    if code in SPENT_TOKEN:
        return Remedy.NEW_TOKEN
    if code in TRANSIENT or status >= 500 or status == 429:
        return Remedy.WAIT
    return Remedy.OPERATOR
