"""Forecast how long a step takes, from the time that earlier steps of its kind took."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import Connection, select

from sef.clock import milliseconds
from sef.db.tables import cutover_steps, incidents, replica_instances
from sef.terms import Market, StepKind, StepStatus

MAX_AGE = timedelta(days=90)
"""Age up to which a measurement counts."""

MAX_MEASUREMENTS = 200
"""Maximum number of measurements, latest first."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The expected duration of a step."""

    seconds: float | None
    """None if nothing was measured."""
    basis: str
    """The measurements that the forecast rests on, or the reason why there is none."""


def typical_duration(seconds: Sequence[float], measured: str) -> Forecast:
    """Forecast the duration of a step as the median of `seconds`.

    Args:
        seconds: measured durations.
        measured: the steps that were measured, as a plural noun.
    """
    if not seconds:
        return Forecast(None, f"no {measured} so far")
    if len(seconds) == 1:
        return Forecast(round(seconds[0], 3), f"the only one of the {measured} so far")
    return Forecast(round(median(seconds), 3), f"the median of the last {len(seconds)} {measured}")


def forecast_launch(connection: Connection, market: Market | None, now: datetime) -> Forecast:
    """Forecast the time from the request for a standby until its instance runs."""
    if market is None:
        return Forecast(None, "no launch so far")
    columns = replica_instances.c
    rows = connection.execute(
        select(columns.created_at, columns.ready_at)
        .where(
            columns.ready_at.is_not(None),
            columns.created_at > now - MAX_AGE,
            columns.market == market,
        )
        .order_by(columns.created_at.desc())
        .limit(MAX_MEASUREMENTS)
    )
    seconds = [milliseconds(row.created_at, row.ready_at) / 1000 for row in rows]
    return typical_duration(seconds, f"{market} launches")


def forecast_promotion(connection: Connection, now: datetime) -> Forecast:
    """Forecast the time from a termination notice to the promotion of a ready standby."""
    incident, replica = incidents.c, replica_instances.c
    rows = connection.scalars(
        select(incident.failover_time_ms)
        .join(replica_instances, replica.id == incident.replica_id)
        .where(
            incident.termination_at > now - MAX_AGE,
            incident.failover_time_ms.is_not(None),
            replica.ready_at <= incident.termination_at,
        )
        .order_by(incident.termination_at.desc())
        .limit(MAX_MEASUREMENTS)
    )
    return typical_duration(_seconds(rows.all()), "failovers to a standby that was ready")


def forecast_cutover_step(connection: Connection, kind: StepKind, now: datetime) -> Forecast:
    """Forecast the time from the first attempt of a cutover step to its end."""
    columns = cutover_steps.c
    rows = connection.scalars(
        select(columns.latency_ms)
        .where(
            columns.kind == kind,
            columns.status == StepStatus.DONE,
            columns.finished_at > now - MAX_AGE,
            columns.latency_ms.is_not(None),
        )
        .order_by(columns.finished_at.desc())
        .limit(MAX_MEASUREMENTS)
    )
    return typical_duration(_seconds(rows.all()), f"steps of kind {kind}")


def _seconds(milliseconds: Sequence[int | None]) -> list[float]:
    return [duration / 1000 for duration in milliseconds if duration is not None]
