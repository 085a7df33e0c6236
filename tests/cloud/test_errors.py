"""Every error of EC2 has a remedy."""

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)

from sef.cloud.errors import NOT_FOUND, CloudError, Remedy, translate

AT = "http://127.0.0.1:9"


def refusal(code: str, status: int = 400, message: str = "a message") -> ClientError:
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "RunInstances")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "status", "remedy"),
    [
        # The pool has no capacity. EC2 sends some of these codes as a 500: the code decides.
        ("InsufficientInstanceCapacity", 500, Remedy.NEXT_POOL),
        ("InsufficientInstanceCapacity", 400, Remedy.NEXT_POOL),
        ("InsufficientHostCapacity", 500, Remedy.NEXT_POOL),
        ("InsufficientReservedInstanceCapacity", 400, Remedy.NEXT_POOL),
        ("UnfulfillableCapacity", 400, Remedy.NEXT_POOL),
        ("SpotMaxPriceTooLow", 400, Remedy.NEXT_POOL),
        ("Unsupported", 400, Remedy.NEXT_POOL),
        ("InsufficientFreeAddressesInSubnet", 400, Remedy.NEXT_POOL),
        ("InstanceLimitExceeded", 400, Remedy.NEXT_POOL),
        ("VcpuLimitExceeded", 400, Remedy.NEXT_POOL),
        # Every spot pool refuses.
        ("MaxSpotInstanceCountExceeded", 400, Remedy.ON_DEMAND),
        # The token is spent.
        ("IdempotentParameterMismatch", 400, Remedy.NEW_TOKEN),
        ("IdempotentInstanceTerminated", 400, Remedy.NEW_TOKEN),
        # The result is unknown.
        ("RequestLimitExceeded", 503, Remedy.WAIT),
        ("Throttling", 400, Remedy.WAIT),
        ("ThrottlingException", 400, Remedy.WAIT),
        ("EC2ThrottledException", 400, Remedy.WAIT),
        ("InternalError", 500, Remedy.WAIT),
        ("InternalFailure", 500, Remedy.WAIT),
        ("ServiceUnavailable", 503, Remedy.WAIT),
        ("Unavailable", 503, Remedy.WAIT),
        ("RequestTimeout", 400, Remedy.WAIT),
        ("NeverHeardOf", 500, Remedy.WAIT),
        ("502", 502, Remedy.WAIT),
        # An operator has to act.
        ("UnauthorizedOperation", 403, Remedy.OPERATOR),
        ("AuthFailure", 401, Remedy.OPERATOR),
        ("InvalidParameterValue", 400, Remedy.OPERATOR),
        ("InvalidAMIID.NotFound", 400, Remedy.OPERATOR),
        ("InvalidLaunchTemplateName.NotFoundException", 400, Remedy.OPERATOR),
        ("PendingVerification", 400, Remedy.OPERATOR),
        ("OptInRequired", 401, Remedy.OPERATOR),
        ("NeverHeardOf", 400, Remedy.OPERATOR),
    ],
)
def test_every_code_has_its_remedy(code: str, status: int, remedy: Remedy) -> None:
    error = translate(refusal(code, status))
    assert error.remedy is remedy
    assert error.code == code
    assert str(error) == f"{code}: a message"
    assert isinstance(error, CloudError)


@pytest.mark.parametrize(
    "error",
    [
        ConnectTimeoutError(endpoint_url=AT),
        ReadTimeoutError(endpoint_url=AT),
        EndpointConnectionError(endpoint_url=AT),
        ConnectionClosedError(endpoint_url=AT),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_error_means_unknown(error: BotoCoreError) -> None:
    translated = translate(error)
    assert translated.remedy is Remedy.WAIT
    assert translated.code == type(error).__name__


@pytest.mark.parametrize(
    "error",
    [NoCredentialsError(), ParamValidationError(report="ImageId is no string")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_repeating_does_not_cure_needs_an_operator(error: BotoCoreError) -> None:
    assert translate(error).remedy is Remedy.OPERATOR


def test_an_answer_without_a_code_needs_an_operator() -> None:
    assert translate(ClientError({}, "RunInstances")).code == "Unknown"
    assert translate(ClientError({}, "RunInstances")).remedy is Remedy.OPERATOR


def test_an_unknown_instance_has_a_known_code() -> None:
    assert "InvalidInstanceID.NotFound" in NOT_FOUND
