"""The clients of AWS's services: every one is built here, with the same time-outs."""

from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.utils import parse_timestamp

from sef import failpoints
from sef.cloud.errors import NO_CAPACITY, translate

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_elbv2.client import ElasticLoadBalancingv2Client
    from mypy_boto3_route53.client import Route53Client

# boto3's own default, 60 s and 5 tries, is longer than the notice that AWS gives.
_TIMEOUTS = Config(
    connect_timeout=2,
    read_timeout=8,
    retries={"mode": "standard", "total_max_attempts": 2},
    max_pool_connections=32,
)
_building = Lock()  # boto3: clients may be shared by threads, a session that makes them may not


@cache
def _session() -> boto3.session.Session:
    """One for the process: each reads half a second's worth of AWS's descriptions anew."""
    session = botocore.session.get_session()
    parsers = session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_timestamp)
    return boto3.session.Session(botocore_session=session)


def _timestamp(told: Any) -> datetime:
    # botocore's own takes any form there is, and a fourth of the time of reading an answer.
    try:
        return datetime.fromisoformat(told)
    except (TypeError, ValueError):
        return parse_timestamp(told)


@dataclass(frozen=True)
class Clients:
    """The clients of one region, each built when it is used first.

    A client raises CloudError when it cannot be built, as without a region.

    Args:
        region: what boto3 finds, if empty.
        ec2_endpoint: EC2's own, if empty. The other services have those that boto3 finds.
        simulated: the endpoint is the simulated cloud's, which has all the services.
    """

    region: str = ""
    ec2_endpoint: str = ""
    simulated: bool = False

    @cached_property
    def ec2(self) -> "EC2Client":
        client: EC2Client = self._build("ec2", self.ec2_endpoint)
        return client

    @cached_property
    def elbv2(self) -> "ElasticLoadBalancingv2Client":
        client: ElasticLoadBalancingv2Client = self._build("elbv2", self._endpoint_of_others)
        return client

    @cached_property
    def route53(self) -> "Route53Client":
        client: Route53Client = self._build("route53", self._endpoint_of_others)
        return client

    @property
    def _endpoint_of_others(self) -> str:
        return self.ec2_endpoint if self.simulated else ""

    def _build(self, service: str, endpoint: str) -> Any:
        options: dict[str, Any] = {"config": _TIMEOUTS}
        if self.simulated:
            options = {
                "aws_access_key_id": "simulated",
                "aws_secret_access_key": "simulated",
                "config": _TIMEOUTS.merge(Config(proxies={})),  # it is on this machine
            }
        try:
            with _building:
                client = _session().client(
                    service,  # type: ignore[call-overload]
                    region_name=self.region or None,
                    endpoint_url=endpoint or None,
                    **options,
                )
            if service == "ec2":
                client.meta.events.register_first("needs-retry.ec2.RunInstances", _as_final)
            return failpoints.instrument(client)
        except BotoCoreError as error:
            raise translate(error) from error


def _as_final(response: tuple[Any, dict[str, Any]] | None, **_: Any) -> None:
    """Take a lack of capacity for the final answer that it is.

    EC2 sends InsufficientInstanceCapacity as a 500, which boto3 repeats after up to a second. In an
    emergency that second is lost for every pool that is full; the next pool may serve at once.
    """
    if response is not None:
        http, parsed = response
        if parsed.get("Error", {}).get("Code") in NO_CAPACITY:
            http.status_code = 400  # what boto3 looks at before it repeats
