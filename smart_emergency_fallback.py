"""SmartEmergencyFallback: one public method for each use of SEF.

    from smart_emergency_fallback import SmartEmergencyFallback, integrate_with_backend

    sef = SmartEmergencyFallback("mysql+mysqlconnector://user:password@host/sef")
    integrate_with_backend(app, sef)

Threads may share an object. All state is in the database: any number of objects, processes and
hosts may work on one database.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any
from uuid import uuid4

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
from sef.failover import losses, signals, work_queue
from sef.failover.explain import dry_run_signal, timeline
from sef.failover.incidents import pool_history, switchovers
from sef.failover.instances import attributes, orphans, run_instances
from sef.notifications import outbox
from sef.notifications.channels import channels
from sef.notifications.deliver import Notifier, delete_old_messages
from sef.notifications.failures import report_failure_at
from sef.operators import adopt, fleet, idempotency, modes, registration, status, switch
from sef.parsing import parse_agent_id, parse_dry_run, parse_signal
from sef.prices.reports import Reports
from sef.prices.retention import delete_old_prices
from sef.prices.series import CleaningRules
from sef.terms import SignalType
from sef.web.operators import integrate_with_backend
from sef.wiring import build_context

__all__ = ["Refused", "SefError", "SmartEmergencyFallback", "integrate_with_backend"]


class SmartEmergencyFallback:
    """Clean prices, standbys and failover for a fleet of Spot agents.

    The methods are grouped: prices, interruptions, operators, views, and periodic work, which
    `sef.jobs.start_jobs` runs. docs/architecture.md describes the packages that they call.

    A method raises `SefError`, with the `reason`, `message` and HTTP `status` of the API's answer,
    if the call cannot be carried out, and `Refused` for input that is rejected.
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
        """Use a database, and create the tables that it lacks.

        Args:
            db: a SQLAlchemy Engine, a database URL, or an open mysql.connector connection. A
                connection is used for one transaction at a time; SEF first commits a transaction
                that the caller has left open on it.
            settings: read from the environment if None.
            cloud: EC2; if None, SEF connects as the settings say when EC2 is first needed.
            clients: clients of AWS's other services, and of EC2 for moving targets; if None, SEF
                connects in the same way.
            clock: returns the time, aware and in UTC.

        Raises:
            ConfigurationError: a setting cannot be used.
            SchemaMismatch: the database has tables with SEF's names that are not SEF's.
            Unavailable: the database cannot be reached.
        """
        self.settings = config.check(settings) if settings else config.load()
        if cloud is None:
            check_cloud(self.settings)
        prices = on_demand_prices(self.settings)
        self._database = Database(db)
        self._clock = clock
        self._build_context = partial(
            build_context, self._database, self.settings, clock, prices, ec2=cloud, clients=clients
        )
        self._holder = uuid4().hex
        self._notifier = Notifier(
            self._database, channels(self.settings), self.settings.notification_min_severity, clock
        )
        self._reports = Reports(self._database, self.settings, clock)
        self._database.create_tables()

    @property
    def gap_detection_threshold(self) -> float:
        """Distance between two points of a series above which there is a gap, in seconds."""
        return self._reports.rules.gap_detection_threshold.total_seconds()

    @gap_detection_threshold.setter
    def gap_detection_threshold(self, seconds: float) -> None:
        self._reports.change_settings(gap_detection_threshold=seconds)

    @property
    def interpolation_max_gap(self) -> float:
        """Maximum length of a gap that is filled, in seconds."""
        return self._reports.rules.interpolation_max_gap.total_seconds()

    @interpolation_max_gap.setter
    def interpolation_max_gap(self, seconds: float) -> None:
        self._reports.change_settings(interpolation_max_gap=seconds)

    @property
    def rules(self) -> CleaningRules:
        """The rules of a clean series that this object applies."""
        return self._reports.rules

    # Prices

    def process_incoming_data(
        self, agent_id: str, data_type: str, payload: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Store one report and return its clean record; SEF has written the row itself.

        Args:
            agent_id: a new agent is registered.
            data_type: must be `pricing`.
            payload: `spot_price`, `pool_id`, `timestamp`, and optionally `is_replica` and
                `instance_id`.

        Returns:
            `status` is `success`, with `spot_price`, `pool_id`, `timestamp`, `data_quality_flag`
            and `interpolated`, the number of filled points; or `buffered`, while the report waits
            for the second half of its pair; or `rejected`, with `reason` and `message`. Price and
            time are those of the stored point, which both reports of a pair share.
        """
        return self._reports.take(agent_id, data_type, payload)

    def process_batch(self, reports: Sequence[Any]) -> dict[str, Any]:
        """Store many reports, each with its `agent_id`; bad input rejects only its own report.

        Return the numbers of reports `accepted`, `buffered` and `duplicates` (already stored), the
        number of points `interpolated`, and the index and reason of each report `rejected`.
        """
        return self._reports.take_batch(reports)

    def cleanup_old_buffers(self) -> int:
        """Release every report that has waited long enough for the second half of its pair.

        A released report is stored as a point of its own. Also delete idempotency keys after a
        week, and old messages. Return the number of changed series.
        """
        released, now = self._reports.release_overdue(), self._clock()
        self._database.write(idempotency.delete_expired_keys, now)
        age = timedelta(days=self.settings.notification_retention_days)
        if age:
            delete_old_messages(self._database, now - age)
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
        """Return the clean points of an agent, oldest first, from `start` to `end` inclusive."""
        return self._reports.series(agent_id, pool_id=pool_id, start=start, end=end, limit=limit)

    # Interruptions. With `dry_run`, as an argument or in the payload, SEF only returns its plan.

    def handle_interruption(
        self, agent_id: str, payload: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Receive a signal with its `signal_type`; return what SEF did."""
        return self._receive_signal(agent_id, payload, dry_run)

    def handle_rebalance_recommendation(
        self, agent_id: str, payload: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Receive a rebalance recommendation: `timestamp`, and optionally `instance_id`."""
        return self._receive_signal(agent_id, payload, dry_run, SignalType.REBALANCE)

    def handle_termination_notice(
        self, agent_id: str, payload: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Receive a termination notice: `timestamp`, optional `termination_time`, `instance_id`."""
        return self._receive_signal(agent_id, payload, dry_run, SignalType.TERMINATION)

    def _receive_signal(
        self,
        agent_id: str,
        payload: Mapping[str, Any],
        dry_run: bool,
        signal_type: SignalType | None = None,
    ) -> dict[str, Any]:
        now = self._clock()
        if signal_type is not None:
            payload = {**payload, "signal_type": signal_type}
        signal = parse_signal(payload, now, needs_time=signal_type is None)
        is_dry_run = parse_dry_run(payload.get("dry_run")) or dry_run
        receive = dry_run_signal.dry_run_signal if is_dry_run else signals.receive_signal
        return receive(self._context, parse_agent_id(agent_id), signal)

    # Operators: a call repeated with its `idempotency_key` returns the stored answer of the first.

    def enable_manual_replica_mode(
        self, agent_id: str, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Turn manual replica mode on, and wait up to `SEF_ENABLE_WAIT_SECONDS` for the standby."""
        return modes.enable_manual(self._context, agent_id, idempotency_key)

    def disable_manual_replica_mode(
        self, agent_id: str, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Turn manual replica mode off; SEF terminates the standby."""
        return modes.disable_manual(self._context, agent_id, idempotency_key)

    def execute_manual_switch(
        self, agent_id: str, *, dry_run: bool = False, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Promote the standby, terminate the old primary, and launch the next standby.

        With `dry_run`, only return what SEF would do, or raise the error of the call.
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

    def adopt_instance(self, agent_id: str, instance_id: str, role: str | None = None) -> Any:
        """Adopt an unknown instance as `primary`, `standby` or `surplus`; see docs/restore.md."""
        return adopt.adopt_instance(self._context, agent_id, instance_id, role)

    # Views

    def unknown_instances(self) -> list[dict[str, Any]]:
        """Return the running instances that SEF launched, no row refers to, and SEF keeps."""
        return adopt.unknown_instances(self._context)

    def get_agent_status(self, agent_id: str) -> dict[str, Any]:
        """Return the answer of `sef-status`: agent, mode, standby, data quality, open incident."""
        ttl = timedelta(seconds=self.settings.standby_ttl_seconds)
        view = self._database.read(status.agent_status, agent_id, self._clock(), ttl)
        return {"status": "success", **view}

    def list_agents(self, *, after: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return a page of the fleet, in order of the ids: the agents after the id `after`."""
        return self._database.read(fleet.fleet_page, after=after, limit=limit)

    def agent_events(
        self, agent_id: str, *, before: int | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return a page of an agent's events, newest first; `before` is the id of an event."""
        return self._database.read(fleet.events_page, agent_id, before=before, limit=limit)

    def agent_incidents(
        self, agent_id: str, *, before: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return a page of an agent's incidents, newest first; `before` is an incident's id."""
        page = timeline.incident_page
        return self._database.read(page, agent_id, before=before, limit=limit, now=self._clock())

    def get_incident(self, incident_id: str) -> dict[str, Any]:
        """Return an incident with its timeline, oldest entry first."""
        view = self._database.read(timeline.incident_story, incident_id, self._clock())
        return {"status": "success", **view}

    def list_pools(self) -> list[dict[str, Any]]:
        """Return each pool with its history, its risk and its cooldown."""
        settled_after = timedelta(seconds=self.settings.standby_ttl_seconds)
        return self._database.read(pool_history.pool_entries, self._clock(), settled_after)

    # Periodic work

    def reconcile(self) -> int:
        """Continue all unfinished work; return the number of agents that had unfinished work."""
        return work_queue.reconcile_all(self._context)

    def sweep_orphans(self) -> int:
        """Terminate orphans, instances of SEF that no row refers to; return their number."""
        ctx = self._context
        run_instances.tag_remaining(ctx)
        attributes.set_remaining(ctx)
        return orphans.sweep_orphans(ctx, self._clock())

    def delete_old_prices(self) -> int:
        """Roll up and delete old prices; return the number of days of series, at most 500."""
        age = timedelta(days=self.settings.price_retention_days)
        return delete_old_prices(self._database, age, self._clock()) if age else 0

    def detect_losses(self) -> int:
        """Open an incident for each primary that was lost without a notice; return the number."""
        return losses.detect_losses(self._context)

    def plan_switchovers(self) -> int:
        """Begin the drills and the returns to spot that are due; return their number."""
        return switchovers.plan_switchovers(self._database, self.settings, self._clock())

    def deliver_notifications(self) -> int:
        """Send the messages that are due; return the number that is known to be sent."""
        return self._notifier.deliver()

    def test_notifications(self) -> dict[str, str | None]:
        """Send a test message to every channel now; return its error, or None, by channel."""
        return self._notifier.test()

    def outbox(self) -> dict[str, Any]:
        """Return the numbers of messages `pending`, `sent` and `failed`, and the last failures."""
        return self._database.read(outbox.overview)

    def holds_lease(self, name: str, duration: timedelta) -> bool:
        """Take or extend the lease of a periodic job; return False if another object holds it."""
        now = self._clock()
        return self._database.write(leases.take_lease, name, self._holder, now, duration)

    def report_failure(self, job: str, error: Exception) -> None:
        """Log an exception that ended a run of a job, and notify people, once for an episode."""
        report_failure_at(self._database, None, job, error, self._clock())

    def check_ready(self) -> None:
        """Read a table of the database; raise Unavailable if that fails."""
        self._database.read(leases.ping)

    def close(self) -> None:
        """Close the database connections; messages that are being sent may still be delivered."""
        self._notifier.close()
        self._database.dispose()

    @cached_property
    def _context(self) -> Context:
        """Context, built at its first use: an application that only stores prices needs no EC2."""
        return self._build_context()
