"""Every setting, with its default and its meaning; a test holds docs/configuration.md equal."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url

from sef.db.url import check_database_url
from sef.terms import LONGEST_SPAN, Interpolation, LaunchAway, NotificationSeverity, parse_pool

PREFIX = "SEF_"

SHORTEST_INTERVAL = 0.01
"""Minimum interval of a periodic job, in seconds."""

MAX_FILLED_POINTS = 110_000
"""Maximum number of points that fill one gap, since one transaction writes them."""

Span = Annotated[float, Field(ge=0, le=LONGEST_SPAN)]
PositiveSpan = Annotated[float, Field(gt=0, le=LONGEST_SPAN)]
Interval = Annotated[float, Field(ge=SHORTEST_INTERVAL, le=LONGEST_SPAN)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
PositiveCount = Annotated[int, Field(ge=1, le=1_000_000)]
Days = Annotated[int, Field(ge=0, le=36_500)]


class Settings(BaseSettings):
    """The settings; the environment variable of a setting is `SEF_` and its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", allow_inf_nan=False
    )

    host: str = Field("127.0.0.1", description="Address to serve on.")
    port: int = Field(5000, ge=1, le=65535, description="Port to serve on.")
    workers: int = Field(1, ge=1, le=256, description="Number of worker processes.")
    threads: int = Field(
        128,
        ge=1,
        le=1024,
        description="Number of requests that one worker handles at the same time.",
    )
    max_queued_reports: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Maximum number of reports that wait in one process while others are being "
        "written. Beyond that, a report is answered with 503.",
    )
    var: Path = Field(
        Path("var"), description="Folder of the embedded database and of the simulated EC2."
    )
    database_url: str = Field(
        "",
        description="SQLAlchemy URL, such as `mysql+mysqlconnector://user:password@host/sef`; with "
        "several hosts, `mysql+mysqlconnector://user:password@/sef?host=a:3306&host=b`."
        " Empty: SQLite in the folder `SEF_VAR`.",
    )
    cloud: Literal["simulated", "aws"] = Field(
        "simulated",
        description="Where instances are launched: `simulated`, or `aws` for Amazon EC2.",
    )
    region: str = Field(
        "",
        description="AWS region. Empty: the region that boto3 finds; `us-east-1` when simulated.",
    )
    ec2_endpoint: str = Field(
        "",
        description="URL of another EC2 endpoint, for a private or a test cloud. Empty: Amazon's.",
    )
    launch_template: str = Field(
        "",
        description="Launch template, by id or name and optionally `:version`, for agents that have"
        " neither a template of their own nor an instance that EC2 knows. Empty: none.",
    )
    spot_pools: str = Field(
        "",
        description="Spot pools to choose standbys from, separated by commas, such as "
        "`m5.large.us-east-1a`. Empty: the instance's type in every zone.",
    )
    allow_on_demand: bool = Field(
        False,
        description="Whether a standby for a rebalance recommendation or in manual mode may be "
        "on-demand when no spot pool has capacity. After a termination notice it always"
        " may.",
    )
    launch_away_from_targets: LaunchAway = Field(
        LaunchAway.EMERGENCY,
        description="When to launch where a cutover target cannot follow, if no pool where all can "
        "follow has capacity. `emergency`: only to replace a primary that is being lost, to keep "
        "the service alive; operators are told which targets stay behind. `always`: also for "
        "standbys that are kept ready. `never`: SEF retries until such a pool has capacity.",
    )
    on_demand_prices_file: Path | None = Field(
        None,
        description='JSON file of on-demand prices in USD per hour, such as `{"m5.large": 0.096}`, '
        "for the risk. Unset: the risk ignores how close a spot price is to on-demand.",
    )
    simulator_pending_seconds: Span = Field(
        1.0, description="Time that an instance of the simulated EC2 stays `pending`, in seconds."
    )
    pairing_tolerance_seconds: Span = Field(
        30,
        description="Maximum gap between a primary's and a replica's report for them to be paired, "
        "in seconds.",
    )
    divergence_limit: float = Field(
        0.05,
        gt=0,
        le=2,
        description="Maximum difference between the two prices of a pair that is averaged, as a "
        "share of their mean. Above it, the primary's price stands.",
    )
    gap_detection_threshold: Span = Field(
        600, description="Distance between two points above which there is a gap, in seconds."
    )
    interpolation_max_gap: Span = Field(
        1800, description="Maximum length of a gap that is filled, in seconds."
    )
    interpolation_step_seconds: float = Field(
        300, ge=1, le=LONGEST_SPAN, description="Distance between interpolated points, in seconds."
    )
    interpolation_method: Interpolation = Field(
        Interpolation.LINEAR, description="`linear`, or `previous` to carry the price forward."
    )
    data_retention_window: Span = Field(
        300,
        description="Maximum time that the first report of a pair waits for the second, in seconds."
        " It does not delete anything.",
    )
    price_retention_days: Days = Field(
        0,
        description="Days to keep prices. Older prices remain as an hourly and a daily series. 0: "
        "for ever.",
    )
    cleanup_interval_seconds: Interval = Field(
        300,
        description="Interval at which reports that have waited too long for the second half of a "
        "pair are released, in seconds.",
    )
    rebalance_risk_threshold: float = Field(
        0.30,
        ge=0,
        le=1,
        description="Risk at or above which a rebalance recommendation launches a standby, from 0 "
        "to 1.",
    )
    standby_ttl_seconds: PositiveSpan = Field(
        7200,
        description="Time to keep a standby after a recommendation that no termination follows, in "
        "seconds.",
    )
    drain_seconds: Span = Field(
        60,
        description="Time to keep the old primary after an automatic switch, in seconds. 0: it is "
        "terminated at once.",
    )
    enable_wait_seconds: float = Field(
        8,
        ge=0,
        le=60,
        description="Maximum time that `manual-replica/enable` waits for the standby, in seconds. "
        "0: it does not wait.",
    )
    launch_timeout_seconds: PositiveSpan = Field(
        600,
        description="Maximum time from the launch of an instance until it runs, in seconds. After "
        "that SEF terminates it. After a notice or a loss SEF tries another pool beside it after "
        "25 s.",
    )
    pool_cooldown_seconds: Span = Field(
        300,
        description="Time to avoid a pool that has no capacity, in seconds. 0: it is not avoided.",
    )
    interrupted_pool_cooldown_seconds: Span = Field(
        3600,
        description="Time to avoid a pool in which AWS interrupted an instance, in seconds. 0: it "
        "is not avoided.",
    )
    probation_seconds: Span = Field(
        1800,
        description="Time that a new spot primary in a risky pool has a standby, in seconds. A pool"
        " is risky if it is in a cooldown, or if instances in it were terminated in the"
        " last 90 days and its risk is at or above `SEF_REBALANCE_RISK_THRESHOLD`. 0: "
        "never.",
    )
    on_demand_min_seconds: PositiveSpan = Field(
        1800,
        description="Minimum time on an on-demand primary, and between two attempts to return to "
        "spot, in seconds.",
    )
    max_spot_returns_per_day: int = Field(
        4,
        ge=0,
        le=1000,
        description="Maximum number of returns of one agent from on-demand to spot in 24 hours. 0: "
        "none.",
    )
    max_launches_per_hour: Count = Field(
        20,
        description="Maximum number of instances launched for one agent in an hour. A quarter of "
        "them, at least 2, is kept for notices and losses of its primary; 1 is for whichever comes "
        "first. 0: no limit.",
    )
    max_instances: Count = Field(
        1000,
        description="Maximum number of running instances that SEF launched: standbys, and the "
        "primaries of agents that were failed over. A quarter of them, at least 2, is kept for "
        "notices and losses of primaries. 0: no limit.",
    )
    max_terminations_per_run: Count = Field(
        20,
        description="Maximum number of instances that one run of a periodic job terminates. A sweep"
        " that finds more orphans terminates none. 0: no limit.",
    )
    run_instances_burst: PositiveCount = Field(
        5, description="Size of EC2's RunInstances bucket for your account, in calls."
    )
    run_instances_per_second: float | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Refill rate of that bucket, in calls per second. Two calls of the burst are "
        "reserved for emergencies. 0: calls are not limited. Unset: 2; not limited when"
        " simulated.",
    )
    route53_requests_per_second: float | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Requests to Route 53 per second and worker. A worker that Route 53 throttles "
        "halves its own pace for a while. 0: requests are not limited. Unset: 5, the limit of an "
        "account; not limited when simulated.",
    )
    terminate_instances_burst: PositiveCount = Field(
        100, description="Size of EC2's TerminateInstances bucket for your account, in calls."
    )
    terminate_instances_per_second: float | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Refill rate of that bucket, in calls per second. 0: calls are not limited. "
        "Unset: 5; not limited when simulated.",
    )
    silence_threshold_seconds: Span = Field(
        420,
        description="Time without a report after which SEF asks EC2 about an agent's primary, in "
        "seconds; choose a little more than the interval of your agents. 0: never.",
    )
    loss_check_interval_seconds: Interval = Field(
        30, description="Interval of the check of silent agents, in seconds."
    )
    orphan_check_interval_seconds: Interval = Field(
        60, description="Interval of the search for orphans, in seconds."
    )
    switchover_check_interval_seconds: Interval = Field(
        60, description="Interval at which due drills and returns to spot begin, in seconds."
    )
    reconcile_interval_seconds: Interval = Field(
        2, description="Interval of the search for unfinished work, in seconds."
    )
    standby_check_interval_seconds: Interval = Field(
        30,
        description="Interval of the health checks of a ready standby, in seconds. A standby that "
        "EC2 does not show is checked every 30 s.",
    )
    target_check_interval_seconds: Span = Field(
        3600,
        description="Time between two looks at where the cutover targets of an agent are, in "
        "seconds. 0: SEF does not look.",
    )
    restore_targets: bool = Field(
        False,
        description="Whether SEF moves a cutover target back to the primary that a look finds at a "
        "former primary, or at no instance. Unset: SEF only reports it.",
    )
    notification_urls: str = Field(
        "",
        description="Apprise URLs to notify, separated by white space or commas. Empty: none. See "
        "[Notifications](notifications.md).",
    )
    notification_min_severity: NotificationSeverity = Field(
        NotificationSeverity.WARNING,
        description="Minimum severity of the message that starts a thread: `info`, `warning` or "
        "`error`.",
    )
    notification_interval_seconds: Interval = Field(
        2, description="Interval at which due messages are sent, in seconds."
    )
    notification_retention_days: Days = Field(
        90,
        description="Days to keep messages that were sent, failed, or had no recipient. Messages of"
        " an open incident are kept. 0: for ever.",
    )
    allowed_private_networks: str = Field(
        "",
        description="Private networks that webhooks and notifications may reach, separated by "
        "commas, such as `10.1.0.0/16`. Empty: none.",
    )
    run_jobs: bool = Field(True, description="Whether this process runs the periodic jobs.")
    cors_origins: str = Field(
        "", description="Origins whose pages may call the API, separated by commas. Empty: none."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Minimum level of log messages: `debug`, `info`, `warning` or `error`."
    )

    @field_validator("interpolation_step_seconds")
    @classmethod
    def _fills_a_gap_with_few_points(cls, value: float, info: ValidationInfo) -> float:
        widest = info.data.get("interpolation_max_gap", 0.0)
        if widest / value > MAX_FILLED_POINTS:
            raise ValueError(
                f"a gap of {PREFIX}INTERPOLATION_MAX_GAP={widest} would be filled with more than "
                f"{MAX_FILLED_POINTS} points"
            )
        return value

    @field_validator("database_url")
    @classmethod
    def _is_a_known_database(cls, value: str) -> str:
        if value:
            check_database_url(value)
        return value

    @field_validator("spot_pools")
    @classmethod
    def _are_pools(cls, value: str) -> str:
        for pool in comma_separated(value):
            if parse_pool(pool) is None:
                raise ValueError(f"invalid pool {pool}; expected e.g. m5.large.us-east-1a")
        return value

    @field_validator("allowed_private_networks")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in comma_separated(value):
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"{error}; expected e.g. 10.1.0.0/16") from None
        return value

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.var / 'sef.db'}"

    @property
    def base_url(self) -> str:
        """URL of the API, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def shown_database(self) -> str:
        """URL of the database, without its password."""
        return make_url(self.database).render_as_string(hide_password=True)

    @property
    def is_embedded(self) -> bool:
        return not self.database_url

    @property
    def pool_list(self) -> tuple[str, ...]:
        return comma_separated(self.spot_pools)

    @property
    def webhook_network_list(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(
            ip_network(network) for network in comma_separated(self.allowed_private_networks)
        )


def comma_separated(value: str) -> tuple[str, ...]:
    """Split a value at its commas; return the parts that are not empty."""
    return tuple(part.strip() for part in value.split(",") if part.strip())
