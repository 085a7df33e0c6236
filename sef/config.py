"""Every setting, its default and its meaning; `docs/configuration.md` is held equal by a test."""

import os
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url

from sef import failpoints
from sef.db.url import check_database_url
from sef.errors import ConfigurationError
from sef.terms import Interpolation, NotificationSeverity, parse_pool

PREFIX = "SEF_"

LONGEST_SPAN = 31_536_000
"""Seconds: a year."""


class Settings(BaseSettings):
    """Each field is the environment variable `SEF_` + its name in capitals. Spans are seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", allow_inf_nan=False
    )

    host: str = Field("127.0.0.1", description="Address to serve on.")
    port: int = Field(5000, ge=1, le=65535, description="Port to serve on.")
    workers: int = Field(1, ge=1, le=256, description="Worker processes.")
    threads: int = Field(
        128, ge=1, le=1024, description="Requests that one worker works on at once."
    )
    queue_limit: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Reports that may wait in one process while others are being written; beyond "
        "that they are answered with 503.",
    )
    var: Path = Field(
        Path("var"), description="Folder of the embedded database and of the simulated EC2."
    )
    database_url: str = Field(
        "",
        description="SQLAlchemy URL, such as `mysql+mysqlconnector://user:password@host/sef`; of "
        "several hosts, `mysql+mysqlconnector://user:password@/sef?host=a:3306&host=b`. "
        "Empty: SQLite in the folder `SEF_VAR`.",
    )
    cloud: Literal["simulated", "aws"] = Field(
        "simulated",
        description="Where instances are launched: `simulated`, or `aws` for Amazon EC2.",
    )
    region: str = Field(
        "", description="AWS region. Empty: what boto3 finds; `us-east-1` when simulated."
    )
    ec2_endpoint: str = Field(
        "", description="Another EC2 endpoint, for a private or a test cloud. Empty: Amazon's."
    )
    launch_template: str = Field(
        "",
        description="Launch template, by id or name and optionally `:version`, for agents that "
        "have neither one of their own nor a known instance.",
    )
    pools: str = Field(
        "",
        description="Spot pools to choose standbys from, comma-separated, such as "
        "`m5.large.us-east-1a`. Empty: the instance's type in every zone.",
    )
    on_demand_allowed: bool = Field(
        False,
        description="Whether a standby for a rebalance or in manual mode may be on-demand when no "
        "spot pool has capacity. A termination notice always may.",
    )
    on_demand_prices: Path | None = Field(
        None,
        description='JSON file of on-demand prices, `{"m5.large": 0.096}`, for the risk. '
        "Unset: closeness to on-demand is left out.",
    )
    simulated_pending: float = Field(
        1.0, ge=0, description="How long an instance of the simulated EC2 stays `pending`."
    )
    pairing_tolerance: float = Field(
        30,
        ge=0,
        le=LONGEST_SPAN,
        description="How far apart a primary's and a replica's report may be to be one.",
    )
    divergence_limit: float = Field(
        0.05,
        gt=0,
        le=2,
        description="Difference, as a share of the mean, above which a pair is "
        "not averaged: the primary's price stands.",
    )
    gap_detection_threshold: float = Field(
        600, ge=0, le=LONGEST_SPAN, description="A wider distance between two points is a gap."
    )
    interpolation_max_gap: float = Field(
        1800, ge=0, le=LONGEST_SPAN, description="A wider gap is not filled."
    )
    interpolation_step: float = Field(
        300, ge=1, le=LONGEST_SPAN, description="Distance of interpolated points."
    )
    interpolation_method: Interpolation = Field(
        Interpolation.LINEAR, description="`linear`, or `previous` to carry the price forward."
    )
    data_retention_window: float = Field(
        300,
        ge=0,
        le=LONGEST_SPAN,
        description="How long a report waits for its other half at most.",
    )
    price_retention_days: int = Field(
        0,
        ge=0,
        le=36_500,
        description="How many days prices are kept; of older ones an hourly and a daily series "
        "remain. 0: for ever.",
    )
    cleanup_interval: float = Field(
        300, gt=0, description="How often overdue reports are released."
    )
    rebalance_risk_threshold: float = Field(
        0.30, ge=0, le=1, description="Risk from which a recommendation gets a standby."
    )
    standby_ttl: float = Field(
        7200,
        gt=0,
        description="How long a standby is kept for a recommendation that no termination follows.",
    )
    drain: float = Field(
        60, ge=0, description="How long the old primary is kept after an automatic switch."
    )
    enable_wait: float = Field(
        8,
        ge=0,
        le=60,
        description="How long `manual-replica/enable` waits for the standby at most.",
    )
    launch_timeout: float = Field(
        600, gt=0, description="How long an instance may take to run before it is given up."
    )
    pool_cooldown: float = Field(
        300, ge=0, description="How long a pool without capacity is left alone."
    )
    interrupted_pool_cooldown: float = Field(
        3600, ge=0, description="How long a pool that AWS interrupted is left alone."
    )
    probation: float = Field(
        1800,
        ge=0,
        description="How long a fresh spot primary in a risky pool has a standby of its own. Risky "
        "is a pool that is left alone, or in which instances were terminated in the last 90 days "
        "and whose risk is at or above `SEF_REBALANCE_RISK_THRESHOLD`. 0: never.",
    )
    on_demand_stay: float = Field(
        1800,
        gt=0,
        description="How long an on-demand primary stays at least, and between two attempts to "
        "return to spot.",
    )
    returns_per_day: int = Field(
        4, ge=0, description="How often an agent returns from on-demand to spot in 24 hours."
    )
    launches_per_hour: int = Field(
        20,
        ge=0,
        description="How many instances are launched for one agent in an hour at most. "
        "0: no limit.",
    )
    max_instances: int = Field(
        1000,
        ge=0,
        description="How many instances that SEF launched may run at once, in all: for every "
        "agent that was failed over its primary, and the standbys. 0: no limit.",
    )
    terminations_per_cycle: int = Field(
        20,
        ge=0,
        description="How many instances one run of a periodic job terminates at most. A sweep "
        "that finds more orphans terminates none. 0: no limit.",
    )
    run_instances_burst: int = Field(
        5, ge=1, description="How many RunInstances calls EC2 takes at once from your account."
    )
    run_instances_rate: float | None = Field(
        None,
        ge=0,
        description="How many more it takes each second. Two of the burst are kept for "
        "emergencies. 0: not limited. Unset: 2; not limited when simulated.",
    )
    terminate_instances_burst: int = Field(
        100, ge=1, description="How many TerminateInstances calls EC2 takes at once."
    )
    terminate_instances_rate: float | None = Field(
        None,
        ge=0,
        description="How many more it takes each second. 0: not limited. Unset: 5; not limited "
        "when simulated.",
    )
    loss_silence: float = Field(
        420,
        ge=0,
        description="How long an agent has to be silent before EC2 is asked whether its instance "
        "is lost: a little more than your agents' interval. 0: never.",
    )
    loss_check_interval: float = Field(
        30, gt=0, description="How often silent agents are looked after."
    )
    orphan_check_interval: float = Field(
        60, gt=0, description="How often instances that no row has a use for are looked for."
    )
    switchover_check_interval: float = Field(
        60, gt=0, description="How often drills and returns to spot are begun that are due."
    )
    reconcile_interval: float = Field(
        2, gt=0, description="How often unfinished work is looked for."
    )
    standby_check_interval: float = Field(
        30, gt=0, description="How often a ready standby is checked to be still running."
    )
    notify: str = Field(
        "",
        description="Whom to notify: Apprise URLs, separated by white space or commas. "
        "Empty: nobody. See [Notifications](notifications.md).",
    )
    notify_severity: NotificationSeverity = Field(
        NotificationSeverity.WARNING,
        description="The least severity that a thread of messages begins with: `info`, `warning` "
        "or `error`.",
    )
    notify_interval: float = Field(
        2, gt=0, description="How often messages that are due are looked for."
    )
    notification_retention_days: int = Field(
        90,
        ge=0,
        le=36_500,
        description="How many days messages are kept that were sent, given up, or not for anybody. "
        "Those of an incident that is not over stay. 0: for ever.",
    )
    webhook_networks: str = Field(
        "",
        description="Networks, comma-separated, such as `10.1.0.0/16`, that webhooks and "
        "notifications may go to although they are private. Empty: none.",
    )
    jobs: bool = Field(True, description="Whether this process runs the periodic jobs.")
    cors_origins: str = Field(
        "", description="Origins, comma-separated, whose pages may call the API. Empty: none."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="How much is logged: `debug`, `info`, `warning` or `error`."
    )

    @field_validator("database_url")
    @classmethod
    def _is_a_known_database(cls, value: str) -> str:
        if value:
            check_database_url(value)
        return value

    @field_validator("pools")
    @classmethod
    def _are_pools(cls, value: str) -> str:
        for pool in comma_separated(value):
            if parse_pool(pool) is None:
                raise ValueError(f"{pool} is no pool; one looks like m5.large.us-east-1a")
        return value

    @field_validator("webhook_networks")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in comma_separated(value):
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"{error}; a network looks like 10.1.0.0/16") from None
        return value

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.var / 'sef.db'}"

    @property
    def base_url(self) -> str:
        """Where the API is served."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def shown_database(self) -> str:
        """The database URL without its password."""
        return make_url(self.database).render_as_string(hide_password=True)

    @property
    def is_embedded(self) -> bool:
        return not self.database_url

    @property
    def pool_list(self) -> tuple[str, ...]:
        return comma_separated(self.pools)

    @property
    def webhook_network_list(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(ip_network(network) for network in comma_separated(self.webhook_networks))


def comma_separated(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def load(**options: Any) -> Settings:
    """Settings from the environment; options that are not None stand above it.

    Raises:
        ConfigurationError: for the first setting that cannot be used, naming it; also for a
            variable that begins with SEF_ and is none of ours, which is most often a typing error.
    """
    _refuse_unknown(os.environ)
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        source = f"--{name.replace('_', '-')}" if name in given else PREFIX + name.upper()
        message = first["msg"].removeprefix("Value error, ")
        # A database URL can hold a password, and so can the URL of a channel.
        shown = "" if name in ("database_url", "notify") else f"={first['input']!r}"
        raise ConfigurationError(f"{source}{shown}: {message}") from None


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {variable(name) for name in Settings.model_fields} | {failpoints.VARIABLE}
    for name in environment:
        if name.startswith(PREFIX) and name not in known:
            raise ConfigurationError(f"{name} is not a setting of SEF; see docs/configuration.md")
