"""Build the boto3 clients of AWS's services, all with the same time-outs."""

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
from sef.cloud import late_calls
from sef.cloud.errors import NO_CAPACITY, translate

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_elbv2.client import ElasticLoadBalancingv2Client
    from mypy_boto3_route53.client import Route53Client

# boto3's defaults, 60 s and 5 tries, exceed the two minutes of a termination notice.
_TIMEOUTS = Config(
    connect_timeout=2,
    read_timeout=8,
    retries={"mode": "standard", "total_max_attempts": 2},
    max_pool_connections=32,
)
# Threads may share boto3 clients, but not the session that creates them (boto3's documentation).
_building = Lock()


@dataclass(frozen=True)
class Clients:
    """The clients of one region, each built at its first use.

    Args:
        region: AWS region; empty: the region that boto3 finds.
        ec2_endpoint: URL of EC2; empty: AWS's own. Other services use the URLs that boto3 finds.
        simulated: the endpoint belongs to the simulator, which serves all services.

    Raises:
        CloudError: a client cannot be built, for example because there is no region.
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
        # boto3 would repeat a throttled call at once, beyond SEF's own pace (`sef.cloud.pace`).
        once = Config(retries={"mode": "standard", "total_max_attempts": 1})
        client: Route53Client = self._build("route53", self._endpoint_of_others, once)
        return client

    @property
    def constants(self) -> dict[tuple[str, str], Any]:
        """Answers of AWS that do not change, by subject: facts about types, zones and volumes.

        A crash test must reach each call again, so nothing is kept while failpoints are on.
        """
        return {} if failpoints.reached is not None else self._constants

    @cached_property
    def _constants(self) -> dict[tuple[str, str], Any]:
        return {}

    @property
    def _endpoint_of_others(self) -> str:
        return self.ec2_endpoint if self.simulated else ""

    def _build(self, service: str, endpoint: str, config: Config | None = None) -> Any:
        config = _TIMEOUTS if config is None else _TIMEOUTS.merge(config)
        options: dict[str, Any] = {"config": config}
        if self.simulated:
            options = {
                "aws_access_key_id": "simulated",
                "aws_secret_access_key": "simulated",
                "config": config.merge(Config(proxies={})),  # the simulator is on this machine
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
                client.meta.events.register_first("needs-retry.ec2.RunInstances", _do_not_retry)
                late_calls.guard(client)
            return failpoints.instrument(client)
        except BotoCoreError as error:
            raise translate(error) from error


@cache
def _session() -> boto3.session.Session:
    """Return the session of this process: each new one takes half a second to load AWS's models."""
    session = botocore.session.get_session()
    parsers = session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_timestamp)
    return boto3.session.Session(botocore_session=session)


def _timestamp(text: Any) -> datetime:
    # botocore's own parser tries every format. That takes a quarter of the time to read an answer.
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return parse_timestamp(text)


def _do_not_retry(response: tuple[Any, dict[str, Any]] | None, **_: Any) -> None:
    """Keep boto3 from retrying a launch that lacks capacity.

    EC2 sends InsufficientInstanceCapacity as a 500, which boto3 repeats after up to a second. In
    an emergency that would cost a second for each full pool, while the next pool may have capacity.
    """
    if response is not None:
        http, parsed = response
        if parsed.get("Error", {}).get("Code") in NO_CAPACITY:
            http.status_code = 400  # boto3 decides by the status
