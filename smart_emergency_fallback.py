"""SmartEmergencyFallback: everything that SEF does, one public method for each use.

    from smart_emergency_fallback import SmartEmergencyFallback, integrate_with_backend

    sef = SmartEmergencyFallback("mysql+mysqlconnector://user:password@host/sef")
    integrate_with_backend(app, sef)

An object may be shared by threads. All state is in the database: any number of objects, processes
and hosts may work on one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import uuid4

from flask import Flask
from mysql.connector.abstracts import MySQLConnectionAbstract
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from sef import config
from sef.clock import Clock, utc_now
from sef.cloud.clients import Clients
from sef.cloud.connect import check_cloud, on_demand_prices
from sef.cloud.ec2 import Ec2
from sef.config import Settings
from sef.context import Context
from sef.db import leases
from sef.db.database import Database
from sef.errors import Refused, SefError
from sef.failover.explain import timeline
from sef.failover.explain.dry_run_signal import dry_run_signal
from sef.failover.incidents import pool_history
from sef.failover.incidents.switchovers import plan_switchovers
from sef.failover.instances.orphans import sweep_orphans
from sef.failover.instances.run_instances import tag_remaining
from sef.failover.losses import detect_losses
from sef.failover.signals import receive_signal
from sef.failover.work_queue import reconcile_all
from sef.notifications import outbox
from sef.notifications.channels import channels
from sef.notifications.deliver import Notifier, delete_old_messages
from sef.operators import fleet, modes, registration, status, switch
from sef.operators.idempotency import delete_expired_keys
from sef.parsing import parse_agent_id, parse_dry_run, parse_signal
from sef.prices.reports import Reports
from sef.prices.retention import delete_old_prices
from sef.prices.series import CleaningRules
from sef.terms import Signal, SignalType
from sef.web.operators import operators_blueprint
from sef.wiring import build_context

__all__ = ["Refused", "SefError", "SmartEmergencyFallback", "integrate_with_backend"]


class SmartEmergencyFallback:
    """Clean prices, standbys and failover for a fleet of Spot agents.

    One method for each use, in this order: prices, interruptions, what operators do, what is shown,
    and what the periodic jobs do (`sef.jobs.start_jobs` runs those). The work is done in the rooms
    of `sef`; docs/architecture.md tells which one.

    Methods raise `SefError` (with `reason`, `message` and the HTTP `status` of the same answer)
    when the call cannot be carried out, and `Refused` for input that cannot be read.
    """

    def __init__(
        self,
        db: Engine | str | URL | MySQLConnectionAbstract,
        *,
        settings: Settings | None = None,
        cloud: Ec2 | None = None,
        clients: Clients | None = None,
        clock: Clock = utc_now,
    ) -> None:
        """Use a database, creating the tables that it lacks.

        Args:
            db: a SQLAlchemy Engine, a database URL, or an open mysql.connector connection. The
                last is used for one transaction at a time, and whatever the caller has left open
                on it is committed first.
            settings: from the environment if None.
            cloud: connected to as the settings say, when it is needed first, if None.
            clients: those of AWS's other services, likewise; EC2's too, for what is moved.
            clock: tells the time, aware and in UTC.

        Raises:
            ConfigurationError: a setting cannot be used.
            SchemaMismatch: the database has tables of SEF's names that are not SEF's.
            Unavailable: the database cannot be reached.
        """
        self.settings = settings or config.load()
        if cloud is None:
            check_cloud(self.settings)
        self._on_demand_prices = on_demand_prices(self.settings)
        self._database = Database(db)
        self._given_cloud = cloud
        self._given_clients = clients
        self._clock = clock
        self._holder = uuid4().hex
        self._notifier = Notifier(
            self._database, channels(self.settings), self.settings.notification_min_severity, clock
        )
        self._reports = Reports(self._database, self.settings, clock)
        self._database.create_tables()

    @property
    def gap_detection_threshold(self) -> float:
        """Seconds; a wider distance between two points of a series is a gap."""
        return self._reports.rules.gap_detection_threshold.total_seconds()

    @gap_detection_threshold.setter
    def gap_detection_threshold(self, seconds: float) -> None:
        self._reports.rules = replace(
            self.rules, gap_detection_threshold=timedelta(seconds=seconds)
        )

    @property
    def interpolation_max_gap(self) -> float:
        """Seconds; a wider gap is not filled."""
        return self._reports.rules.interpolation_max_gap.total_seconds()

    @interpolation_max_gap.setter
    def interpolation_max_gap(self, seconds: float) -> None:
        self._reports.rules = replace(self.rules, interpolation_max_gap=timedelta(seconds=seconds))

    @property
    def rules(self) -> CleaningRules:
        """What a clean series is, as it is in force for this object."""
        return self._reports.rules

    # Prices

    def process_incoming_data(
        self, agent_id: str, data_type: str, payload: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Store one report and return its clean record; the row is written, do not insert it.

        Args:
            agent_id: registered if it is new.
            data_type: `pricing` is the one there is.
            payload: `spot_price`, `pool_id`, `timestamp`, and optionally `is_replica` and
                `instance_id`.

        Returns:
            `status` is `success`, with `spot_price`, `pool_id`, `timestamp`, `data_quality_flag`
            and `interpolated`, the number of points filled in; or `buffered` until the other half
            of the pair is there; or `rejected`, with `reason` and `message`. The record's price and
            time are those of the stored point, which a pair shares.
        """
        return self._reports.take(agent_id, data_type, payload)

    def process_batch(self, reports: Sequence[Any]) -> dict[str, Any]:
        """Store many reports, each with its `agent_id`; a bad one is refused alone.

        Returns:
            How many were `accepted`, `buffered` and `duplicates` (repeats of what is stored), how
            many points were `interpolated`, and of those `rejected` the index and the reason.
        """
        return self._reports.take_batch(reports)

    def cleanup_old_buffers(self) -> int:
        """Release every report that has waited long enough for its other half.

        It also forgets idempotency keys that are a week old, and messages that were sent so long
        ago as `SEF_NOTIFICATION_RETENTION_DAYS` says.

        Returns:
            How many series were touched. Nothing is dropped: what is released is stored.
        """
        released = self._reports.release_overdue()
        now = self._clock()
        self._database.write(delete_expired_keys, now)
        days = self.settings.notification_retention_days
        if days:
            delete_old_messages(self._database, now - timedelta(days=days))
        return released

    def price_series(
        self,
        agent_id: str,
        *,
        pool_id: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = 1000,
    ) -> Sequence[dict[str, Any]]:
        """The clean points of an agent, oldest first, from `start` to `end`, both included."""
        return self._reports.series(agent_id, pool_id=pool_id, start=start, end=end, limit=limit)

    # Interruptions

    # With `dry_run`, here or in the payload, a signal only says what it would lead to.

    def handle_interruption(
        self, agent_id: str, payload: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Take a signal whose `signal_type` says what it is, and answer with what was done."""
        return self._signal(agent_id, parse_signal(payload, self._clock()), payload, dry_run)

    def handle_rebalance_recommendation(
        self, agent_id: str, payload: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Take a rebalance recommendation: `timestamp`, and optionally `instance_id`."""
        signal = self._parse(SignalType.REBALANCE, payload)
        return self._signal(agent_id, signal, payload, dry_run)

    def handle_termination_notice(
        self, agent_id: str, payload: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Take a two-minute notice: `timestamp`, optionally `termination_time`, `instance_id`."""
        signal = self._parse(SignalType.TERMINATION, payload)
        return self._signal(agent_id, signal, payload, dry_run)

    def _parse(self, signal_type: SignalType, payload: Mapping[str, Any]) -> Signal:
        now = self._clock()
        given = {"timestamp": now.isoformat()} | dict(payload)
        return parse_signal(given | {"signal_type": signal_type}, now)

    def _signal(
        self, agent_id: str, signal: Signal, payload: Mapping[str, Any], dry_run: bool
    ) -> dict[str, Any]:
        is_dry_run = parse_dry_run(payload.get("dry_run")) or dry_run
        answer = dry_run_signal if is_dry_run else receive_signal
        return answer(self._context, parse_agent_id(agent_id), signal)

    # Operators

    # A call with an `idempotency_key` has its effect once; repeated, it gets its first answer.

    def enable_manual_replica_mode(
        self, agent_id: str, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Keep a standby for an agent; waits a moment for it to be ready."""
        return modes.enable_manual(self._context, agent_id, idempotency_key)

    def disable_manual_replica_mode(
        self, agent_id: str, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Keep no standby any more; the one there is is terminated."""
        return modes.disable_manual(self._context, agent_id, idempotency_key)

    def execute_manual_switch(
        self, agent_id: str, *, dry_run: bool = False, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Make the standby the primary, terminate the old primary, launch the next standby.

        With `dry_run` it only says so, or raises what would be raised.
        """
        if dry_run:
            return switch.dry_run_switch(self._context, agent_id)
        return switch.switch(self._context, agent_id, idempotency_key)

    def set_auto_mode(
        self, agent_id: str, mode: str, *, enabled: bool, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Turn `auto-switch` or `auto-terminate` on or off."""
        return modes.set_auto(self._context, agent_id, mode, idempotency_key, enabled=enabled)

    def register_agent(self, agent_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Register an agent, or change its fields.

        The fields are `instance_id`, `pool_id`, `launch_template`, `drill_interval` and `cutover`.
        """
        return registration.register(self._context, agent_id, changes)

    # What is shown

    def get_agent_status(self, agent_id: str) -> dict[str, Any]:
        """What `sef-status` answers: agent, mode, standby, data quality, open incident."""
        now, ttl = self._clock(), timedelta(seconds=self.settings.standby_ttl_seconds)
        shown = self._database.read(status.agent_status, agent_id, now, ttl)
        return {"status": "success", **shown}

    def list_agents(self, *, after: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """A page of the fleet, in order of the ids."""
        return self._database.read(fleet.fleet_page, after=after, limit=limit)

    def agent_events(
        self, agent_id: str, *, before: int | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """A page of an agent's history, newest first."""
        return self._database.read(fleet.events_page, agent_id, before=before, limit=limit)

    def agent_incidents(
        self, agent_id: str, *, before: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """A page of an agent's incidents, newest first; `before` is the id of one."""
        now = self._clock()
        return self._database.read(
            timeline.incident_page, agent_id, before=before, limit=limit, now=now
        )

    def get_incident(self, incident_id: str) -> dict[str, Any]:
        """What happened in an incident, in order."""
        now = self._clock()
        story = self._database.read(timeline.incident_story, incident_id, now)
        return {"status": "success", **story}

    def list_pools(self) -> list[dict[str, Any]]:
        """What is known of each pool: its past, its risk, and whether it is left alone now."""
        settled_after = timedelta(seconds=self.settings.standby_ttl_seconds)
        return self._database.read(pool_history.pool_entries, self._clock(), settled_after)

    # Periodic work

    def reconcile(self) -> int:
        """Go on with all unfinished work; returns for how many agents there was any."""
        return reconcile_all(self._context)

    def sweep_orphans(self) -> int:
        """Terminate instances of ours that no row knows of; returns how many."""
        tag_remaining(self._context)
        return sweep_orphans(
            self._database, self._context.ec2, self._context.settings, self._clock()
        )

    def delete_old_prices(self) -> int:
        """Roll up and delete prices older than `SEF_PRICE_RETENTION_DAYS`.

        Returns how many days of series were deleted, at most 500.
        """
        days = self.settings.price_retention_days
        if not days:
            return 0
        return delete_old_prices(self._database, timedelta(days=days), self._clock())

    def detect_losses(self) -> int:
        """Look for primaries that are gone without a notice; returns how many were found.

        Each is an incident from then on, which `reconcile` works on.
        """
        return detect_losses(self._context)

    def plan_switchovers(self) -> int:
        """Begin the drills and the returns to spot that are due; returns how many."""
        return plan_switchovers(self._database, self.settings, self._clock())

    def deliver_notifications(self) -> int:
        """Send the messages that are due; returns how many went, as far as is known now."""
        return self._notifier.deliver()

    def test_notifications(self) -> dict[str, str | None]:
        """Send a message to every channel now; returns for each what is wrong, or None."""
        return self._notifier.test()

    def outbox(self) -> dict[str, Any]:
        """How many messages are `pending`, `sent` and `failed`, and the last that failed."""
        return self._database.read(outbox.overview)

    def holds_lease(self, name: str, duration: timedelta) -> bool:
        """Whether this object is the one, of all on its database, to do a periodic job now."""
        now = self._clock()
        return self._database.write(leases.take_lease, name, self._holder, now, duration)

    def check_ready(self) -> None:
        """Raises Unavailable unless a table of the database can be read."""
        self._database.read(leases.ping)

    def close(self) -> None:
        """Give the database connections back; messages that are being sent may still go."""
        self._notifier.close()
        self._database.dispose()

    @cached_property
    def _context(self) -> Context:
        """Built at its first use, so that an application that only stores prices has no EC2."""
        return build_context(
            self._database,
            self.settings,
            self._clock,
            self._on_demand_prices,
            ec2=self._given_cloud,
            clients=self._given_clients,
        )


def integrate_with_backend(app: Flask, sef: SmartEmergencyFallback) -> None:
    """Register the manual-replica, manual-switch and sef-status routes on a Flask app.

    The routes bring their own error answers and change nothing else of the app.
    """
    app.register_blueprint(operators_blueprint(sef))
