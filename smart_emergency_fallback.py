"""SmartEmergencyFallback: everything that SEF does, one public method for each use.

    from smart_emergency_fallback import SmartEmergencyFallback, integrate_with_backend

    sef = SmartEmergencyFallback("mysql+mysqlconnector://user:password@host/sef")
    integrate_with_backend(app, sef)

An object may be shared by threads. All state is in the database: any number of objects, processes
and hosts may work on one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import uuid4

from flask import Flask
from mysql.connector.abstracts import MySQLConnectionAbstract
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from sef import config
from sef.candidates import Candidates
from sef.channels import channels
from sef.clock import Clock, utc_now
from sef.cloud.clients import Clients
from sef.cloud.connect import check_cloud, connect, on_demand_prices
from sef.cloud.ec2 import Ec2
from sef.cloud.moves import Moves
from sef.cloud.traffic import Traffic
from sef.config import Settings
from sef.core.inputs import (
    Refused,
    Report,
    Signal,
    SignalType,
    parse_agent_id,
    parse_dry_run,
    parse_idempotency_key,
    parse_report,
    parse_signal,
)
from sef.core.policy import Goal, Mode
from sef.core.pricing import Rules
from sef.core.series import Outcome
from sef.core.targets import parse_targets
from sef.cutover import Cutovers
from sef.errors import SefError
from sef.group_commit import GroupCommit
from sef.interruptions import Interruptions
from sef.launch_calls import LaunchCalls
from sef.launching import Launcher
from sef.losses import Losses
from sef.modes import Modes, Switched
from sef.notifying import Notifier
from sef.orphans import sweep_orphans
from sef.outbound import Outbound
from sef.reconcile import Reconciler
from sef.rehearsal import Rehearsals, Rehearsed
from sef.repeats import Keep, Repeats
from sef.requests import Requests
from sef.retention import delete_old_prices, forget
from sef.retiring import Retiring
from sef.store import deployment, fleet, notifications, reads, timeline
from sef.store.database import Database
from sef.store.events import iso
from sef.store.prices import Written, release_buffered, write_each, write_reports
from sef.store.tables import PROCESSED_BY
from sef.switchovers import Switchovers
from sef.watching import Watch
from sef.web.operators import operators_blueprint

__all__ = ["Refused", "SefError", "SmartEmergencyFallback", "integrate_with_backend"]

REPORTS_PER_TRANSACTION = 1000
SERIES_PER_RELEASE = 200


@dataclass(frozen=True, slots=True)
class _Operations:
    """What needs EC2, built when it is needed first: prices need none."""

    cloud: Ec2
    reconciler: Reconciler
    interruptions: Interruptions
    modes: Modes
    losses: Losses


class SmartEmergencyFallback:
    """Clean prices, standbys and failover for a fleet of Spot agents.

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
        self._rules = self.settings.rules
        self._holder = uuid4().hex
        self._repeats = Repeats(self._database, clock)
        self._switchovers = Switchovers(self._database, self.settings, clock)
        self._notifier = Notifier(
            self._database, channels(self.settings), self.settings.notify_severity, clock
        )
        self._reports = GroupCommit(self._write_each, limit=self.settings.queue_limit)
        self._database.create_tables()

    @property
    def gap_detection_threshold(self) -> float:
        """Seconds; a wider distance between two points of a series is a gap."""
        return self._rules.gap_detection_threshold.total_seconds()

    @gap_detection_threshold.setter
    def gap_detection_threshold(self, seconds: float) -> None:
        self._rules = replace(self._rules, gap_detection_threshold=timedelta(seconds=seconds))

    @property
    def interpolation_max_gap(self) -> float:
        """Seconds; a wider gap is not filled."""
        return self._rules.interpolation_max_gap.total_seconds()

    @interpolation_max_gap.setter
    def interpolation_max_gap(self, seconds: float) -> None:
        self._rules = replace(self._rules, interpolation_max_gap=timedelta(seconds=seconds))

    @property
    def rules(self) -> Rules:
        return self._rules

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
        if data_type != "pricing":
            return _rejected(Refused("unknown_data_type", "data_type must be pricing."))
        try:
            report = parse_report(agent_id, payload, self._clock())
        except Refused as refused:
            return _rejected(refused)
        outcome, interpolated = self._reports.submit(report)
        return _record(report, outcome) | {"interpolated": interpolated}

    def process_batch(self, reports: Sequence[Any]) -> dict[str, Any]:
        """Store many reports, each with its `agent_id`; a bad one is refused alone.

        Returns:
            How many were `accepted`, `buffered` and `duplicates` (repeats of what is stored), how
            many points were `interpolated`, and of those `rejected` the index and the reason.
        """
        now = self._clock()
        parsed: list[Report] = []
        rejected = []
        for index, entry in enumerate(reports):
            try:
                agent_id = entry.get("agent_id") if isinstance(entry, Mapping) else None
                parsed.append(parse_report(agent_id, entry, now))
            except Refused as refused:
                rejected.append(
                    {"index": index, "reason": refused.reason, "message": refused.message}
                )
        counts = {"accepted": 0, "buffered": 0, "duplicates": 0, "interpolated": 0}
        for start in range(0, len(parsed), REPORTS_PER_TRANSACTION):
            written = self._write(parsed[start : start + REPORTS_PER_TRANSACTION])
            counts["interpolated"] += sum(written.interpolated.values())
            for outcome in written.outcomes:
                counts[_kind(outcome)] += 1
        return {**counts, "rejected": rejected}

    def cleanup_old_buffers(self) -> int:
        """Release every report that has waited long enough for its other half.

        It also forgets idempotency keys that are a week old, and messages that were sent so long
        ago as `SEF_NOTIFICATION_RETENTION_DAYS` says.

        Returns:
            How many series were touched. Nothing is dropped: what is released is stored.
        """
        released = 0
        window = timedelta(seconds=self.settings.data_retention_window)
        while True:
            now = self._clock()
            count = self._database.write(
                lambda c, now=now: release_buffered(  # type: ignore[misc]
                    c, now=now, rules=self._rules, window=window, limit=SERIES_PER_RELEASE
                )
            )
            released += count
            if count < SERIES_PER_RELEASE:
                break
        days = self.settings.notification_retention_days
        forget(self._database, timedelta(days=days) if days else None, self._clock())
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
        """The clean points of an agent, oldest first."""

        def read(connection: Any) -> Sequence[dict[str, Any]]:
            fleet.read_agent(connection, agent_id)
            return reads.series_points(
                connection, agent_id, pool_id=pool_id, start=start, end=end, limit=limit
            )

        return self._database.read(read)

    def _write_each(self, reports: Sequence[Report]) -> Sequence[tuple[Outcome, int]]:
        now = self._clock()
        window = timedelta(seconds=self.settings.data_retention_window)
        return self._database.write(
            lambda c: write_each(c, reports, now=now, rules=self._rules, window=window),
            is_shared=len(reports) > 1,
        )

    def _write(self, reports: Sequence[Report]) -> Written:
        now = self._clock()
        window = timedelta(seconds=self.settings.data_retention_window)
        return self._database.write(
            lambda c: write_reports(c, reports, now=now, rules=self._rules, window=window)
        )

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
        interruptions = self._operations.interruptions
        if parse_dry_run(payload.get("dry_run")) or dry_run:
            return interruptions.rehearse(parse_agent_id(agent_id), signal)
        return interruptions.receive(parse_agent_id(agent_id), signal)

    # Operators

    # A call with an `idempotency_key` has its effect once; repeated, it gets its first answer.

    def enable_manual_replica_mode(
        self, agent_id: str, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Keep a standby for an agent; waits a moment for it to be ready."""
        modes = self._operations.modes
        on = "Manual replica mode is on"

        def work(keep: Keep) -> dict[str, Any]:
            at_first = {"status": "success", "message": on, "replica": None}
            standby = modes.enable_manual(agent_id, lambda c: keep(c, at_first))
            if standby is None:
                message = f"{on}; no standby can be had now, it is tried again"
            elif standby.ready_at is None:
                message = f"{on}; the standby is still launching"
            else:
                message = f"{on}; {standby.instance_id} stands by"
            replica = reads.replica_fields(standby) if standby else None
            return {"status": "success", "message": message, "replica": replica}

        return self._once(idempotency_key, agent_id, "manual-replica/enable", work)

    def disable_manual_replica_mode(
        self, agent_id: str, *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Keep no standby any more; the one there is is terminated."""
        modes = self._operations.modes
        answer = {"status": "success", "message": "Manual replica mode is off"}

        def work(keep: Keep) -> dict[str, Any]:
            modes.disable_manual(agent_id, lambda c: keep(c, answer))
            return answer

        return self._once(idempotency_key, agent_id, "manual-replica/disable", work)

    def execute_manual_switch(
        self, agent_id: str, *, dry_run: bool = False, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Make the standby the primary, terminate the old primary, launch the next standby.

        With `dry_run` it only says so, or raises what would be raised.
        """
        modes = self._operations.modes
        if dry_run:
            return _rehearsed_switch(modes.rehearse_switch(agent_id))

        def work(keep: Keep) -> dict[str, Any]:
            switched = modes.switch(agent_id, lambda c, begun: keep(c, _switched(begun)))
            return _switched(switched)

        return self._once(idempotency_key, agent_id, "manual-switch", work)

    def set_auto_mode(
        self, agent_id: str, mode: str, *, enabled: bool, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Turn `auto-switch` or `auto-terminate` on or off."""
        modes = self._operations.modes
        answer = {"status": "success", "message": f"{mode} is {'on' if enabled else 'off'}"}

        def work(keep: Keep) -> dict[str, Any]:
            modes.set_auto(agent_id, mode, lambda c: keep(c, answer), enabled=enabled)
            return answer

        word = "enable" if enabled else "disable"
        return self._once(idempotency_key, agent_id, f"{mode}/{word}", work)

    def _once(
        self, key: str | None, agent_id: str, call: str, work: Callable[[Keep], dict[str, Any]]
    ) -> dict[str, Any]:
        return self._repeats.once(parse_idempotency_key(key), agent_id, call, work)

    def register_agent(self, agent_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Register an agent, or change its `instance_id`, `pool_id`, `launch_template`,
        `drill_interval` or `cutover`."""
        if changes.get("cutover") is not None:
            changes = {**changes, "cutover": parse_targets(changes["cutover"])}
        registered = self._operations.modes.register(agent_id, changes)
        agent = self._database.read(lambda c: fleet.read_agent(c, agent_id))
        return {
            "status": "success",
            "message": "registered" if registered.is_new else "changed",
            "warnings": list(registered.warnings),
            "agent": reads.agent_fields(agent),
        }

    def get_agent_status(self, agent_id: str) -> dict[str, Any]:
        """What `sef-status` answers: agent, mode, standby, data quality, open incident."""
        now, ttl = self._clock(), timedelta(seconds=self.settings.standby_ttl)
        status = self._database.read(lambda c: reads.agent_status(c, agent_id, now, ttl))
        return {"status": "success", **status}

    def list_agents(self, *, after: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """A page of the fleet, in order of the ids."""
        return self._database.read(lambda c: reads.fleet_page(c, after=after, limit=limit))

    def agent_events(
        self, agent_id: str, *, before: int | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """A page of an agent's history, newest first."""
        return self._database.read(
            lambda c: reads.events_page(c, agent_id, before=before, limit=limit)
        )

    def agent_incidents(
        self, agent_id: str, *, before: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """A page of an agent's incidents, newest first; `before` is the id of one."""
        now = self._clock()
        return self._database.read(
            lambda c: timeline.incident_page(c, agent_id, before=before, limit=limit, now=now)
        )

    def get_incident(self, incident_id: str) -> dict[str, Any]:
        """What happened in an incident, in order."""
        now = self._clock()
        story = self._database.read(lambda c: timeline.incident_story(c, incident_id, now))
        return {"status": "success", **story}

    def list_pools(self) -> list[dict[str, Any]]:
        """What is known of each pool: its past, its risk, and whether it is left alone now."""
        settled_after = timedelta(seconds=self.settings.standby_ttl)
        return self._database.read(lambda c: reads.pool_entries(c, self._clock(), settled_after))

    # Periodic work

    def reconcile(self) -> int:
        """Go on with all unfinished work; returns for how many agents there was any."""
        return self._operations.reconciler.reconcile_all()

    def sweep_orphans(self) -> int:
        """Terminate instances of ours that no row knows of; returns how many."""
        self._operations.reconciler.launcher.calls.tag_the_rest()
        return sweep_orphans(self._database, self._operations.cloud, self.settings, self._clock())

    def delete_old_prices(self) -> int:
        """Roll up and delete prices older than `SEF_PRICE_RETENTION_DAYS`; returns how many days
        of series went, at most 500."""
        days = self.settings.price_retention_days
        if not days:
            return 0
        return delete_old_prices(self._database, timedelta(days=days), self._clock())

    def detect_losses(self) -> int:
        """Look for primaries that are gone without a notice; returns how many were found.

        Each is an incident from then on, which `reconcile` works on.
        """
        return self._operations.losses.detect()

    def plan_switchovers(self) -> int:
        """Begin the drills and the returns to spot that are due; returns how many."""
        return self._switchovers.plan()

    def deliver_notifications(self) -> int:
        """Send the messages that are due; returns how many went, as far as is known now."""
        return self._notifier.deliver()

    def test_notifications(self) -> dict[str, str | None]:
        """Send a message to every channel now; returns for each what is wrong, or None."""
        return self._notifier.test()

    def outbox(self) -> dict[str, Any]:
        """How many messages are `pending`, `sent` and `failed`, and the last that failed."""
        return self._database.read(
            lambda c: {**notifications.counts(c), "last_failed": notifications.failed(c)}
        )

    def holds_lease(self, name: str, duration: timedelta) -> bool:
        """Whether this object is the one, of all on its database, to do a periodic job now."""
        now = self._clock()
        return self._database.write(
            lambda c: deployment.take_lease(c, name, self._holder, now, duration)
        )

    def check_ready(self) -> None:
        """Raises Unavailable unless a table of the database can be read."""
        self._database.read(reads.answers)

    def close(self) -> None:
        """Give the database connections back; messages that are being sent may still go."""
        self._notifier.close()
        self._database.dispose()

    @cached_property
    def _connected(self) -> tuple[Settings, Clients]:
        return connect(self.settings)

    def _clients(self) -> Clients:
        return self._given_clients or self._connected[1]

    @cached_property
    def _operations(self) -> _Operations:
        settings = self.settings
        cloud = self._given_cloud
        if cloud is None:
            settings, clients = self._connected
            cloud = Ec2(clients.ec2)
        moves = Moves(self._clients)
        outbound = Outbound(settings.webhook_network_list)
        cutovers = Cutovers(self._database, moves, Traffic(self._clients), outbound, self._clock)
        prices = self._on_demand_prices
        requests = Requests(self._database, settings, self._clock)
        candidates = Candidates(cloud, moves, settings, self._clock, prices)
        calls = LaunchCalls(self._database, cloud, requests, settings, self._clock)
        launcher = Launcher(self._database, cloud, candidates, calls, settings, self._clock)
        watch = Watch(self._database, cloud, settings, self._clock)
        retiring = Retiring(self._database, cloud, calls, watch, requests, self._clock)
        reconciler = Reconciler(
            self._database, launcher, cutovers, watch, retiring, settings, self._clock
        )
        rehearsals = Rehearsals(self._database, reconciler, launcher, settings, self._clock)
        return _Operations(
            cloud,
            reconciler,
            Interruptions(self._database, reconciler, rehearsals, settings, self._clock, prices),
            Modes(self._database, reconciler, rehearsals, settings, self._clock),
            Losses(self._database, cloud, settings, self._clock),
        )


def integrate_with_backend(app: Flask, sef: SmartEmergencyFallback) -> None:
    """Register the manual-replica, manual-switch and sef-status routes on a Flask app.

    The routes bring their own error answers and change nothing else of the app.
    """
    app.register_blueprint(operators_blueprint(sef))


def _kind(outcome: Outcome) -> str:
    if outcome.is_repeat:
        return "duplicates"
    return "accepted" if outcome.point else "buffered"


def _record(report: Report, outcome: Outcome) -> dict[str, Any]:
    point = outcome.point
    return {
        "status": "success" if point else "buffered",
        "agent_id": report.agent_id,
        "pool_id": report.pool_id,
        "spot_price": float(point.price if point else report.observation.price),
        "timestamp": iso(point.at if point else report.observation.at),
        "data_quality_flag": point.flag.value if point else None,
        "processed_by": PROCESSED_BY,
    }


def _switched(switched: Switched) -> dict[str, Any]:
    promotion, standby, cutover = switched.promotion, switched.standby, switched.cutover
    return {
        "status": "success",
        "message": f"Switched to {promotion.new_instance_id}",
        "old_instance_id": promotion.old_instance_id,
        "new_instance_id": promotion.new_instance_id,
        "epoch": promotion.epoch,
        "replica": reads.replica_fields(standby) if standby else None,
        "cutover": {"id": cutover.id, "status": cutover.status} if cutover else None,
    }


def _rehearsed_switch(rehearsed: Rehearsed) -> dict[str, Any]:
    promotion = rehearsed.answer
    return {
        "status": "success",
        "dry_run": True,
        "action": "promoted",
        "message": f"Would switch to {promotion['new_instance_id']}",
        "incident_id": promotion["incident_id"],
        "goal": Goal.SWITCH,
        "reason": "an operator switched",
        "risk": None,
        "threshold": None,
        "mode": Mode.MANUAL,
        "old_instance_id": promotion["old_instance_id"],
        "new_instance_id": promotion["new_instance_id"],
        "epoch": promotion["epoch"],
        "plan": rehearsed.plan,
        "budget": rehearsed.budget,
    }


def _rejected(refused: Refused) -> dict[str, Any]:
    return {"status": "rejected", "reason": refused.reason, "message": refused.message}
