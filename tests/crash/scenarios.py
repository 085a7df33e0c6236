"""Define the scenarios of the crash tests, each from a signal to the last termination.

Together the scenarios pass every failpoint. A scenario does not depend on whether a request or a
job takes a step: after a crash, accepted requests are not repeated, and the jobs finish the work.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, update

from sef.clock import utc_now
from sef.cloud.ec2 import AGENT_TAG
from sef.db import tables
from sef.db.statements import upsert
from tests.crash.harness import DAY, HOUR, Story
from tests.failover.cutover.cutover_targets import ALL, SAME_ZONE, Belongings
from tests.harness import OTHERS, POOL, REBALANCE, TERMINATION
from tests.private_server import free_port
from tests.webhook_receiver import Receiver

PORT = free_port()
"""Port of the receiver of webhooks and messages."""
OFTEN = "0.25"
LIMITS = {
    "SEF_MAX_LAUNCHES_PER_HOUR": "1",
    "SEF_MAX_TERMINATIONS_PER_RUN": "1",
    "SEF_ORPHAN_CHECK_INTERVAL_SECONDS": OFTEN,
}
ONE_TOKEN = {
    "SEF_RUN_INSTANCES_BURST": "1",
    "SEF_RUN_INSTANCES_PER_SECOND": "0.5",
    "SEF_ORPHAN_CHECK_INTERVAL_SECONDS": "5",
}


@dataclass(frozen=True)
class Scenario:
    name: str
    play: Callable[[Story], None]
    environment: Mapping[str, str] = field(default_factory=dict)
    both: bool = False
    """Crash at each point on both databases. Otherwise the databases take every other point."""
    reads: bool = False
    """Crash also at calls that only read. Those differ little between scenarios."""


SCENARIOS: list[Scenario] = []


def scenario(
    *, both: bool = False, reads: bool = False, **environment: str
) -> Callable[[Callable[[Story], None]], Callable[[Story], None]]:
    def add(play: Callable[[Story], None]) -> Callable[[Story], None]:
        SCENARIOS.append(Scenario(play.__name__, play, environment, both, reads))
        return play

    return add


@scenario(both=True, reads=True)
def rebalance_then_termination(story: Story) -> None:
    primary = story.primary()
    story.arm()
    story.signal(REBALANCE, primary)
    story.until(lambda: story.standby_is("ready"))
    story.signal(TERMINATION, primary)
    story.settled(epoch=2)


@scenario(both=True)
def termination_without_a_standby(story: Story) -> None:
    primary = story.primary()
    story.arm()
    story.signal(TERMINATION, primary)
    story.settled(epoch=2)


@scenario(reads=True)
def termination_of_an_unknown_instance(story: Story) -> None:
    story.put(pool_id="m5.large.us-east-1a")
    story.arm()
    story.signal(TERMINATION)
    story.settled(epoch=2)


@scenario(
    SEF_SPOT_POOLS=",".join(OTHERS),
    SEF_PROBATION_SECONDS="0",
    SEF_SWITCHOVER_CHECK_INTERVAL_SECONDS=OFTEN,
)
def on_demand_without_spot_capacity_and_back(story: Story) -> None:
    primary = story.primary()
    for pool in OTHERS:
        story.world.simulation.set_pool(pool, capacity=False)
    story.arm()
    story.signal(TERMINATION, primary)
    story.until(lambda: story.epoch == 2)
    for pool in OTHERS:
        story.world.simulation.set_pool(pool, capacity=True)
    story.world.write(delete(tables.unavailable_pools))
    story.later("incidents", closed_at=HOUR)
    story.later("replica_instances", promoted_at=HOUR)
    story.settled(epoch=3)


@scenario(both=True)
def auto_switch_and_terminate(story: Story) -> None:
    primary = story.primary()
    story.arm()
    story.operate("auto-switch/enable", lambda: story.agent.auto_switch_enabled)
    story.operate("auto-terminate/enable", lambda: story.agent.auto_terminate_enabled)
    story.signal(REBALANCE, primary)
    story.settled(epoch=2)
    story.until(lambda: story.world.state(primary) == "terminated")


@scenario()
def former_primary_that_ec2_does_not_show_at_first(story: Story) -> None:
    primary = story.primary()
    story.operate("auto-switch/enable", lambda: story.agent.auto_switch_enabled)
    story.operate("auto-terminate/enable", lambda: story.agent.auto_terminate_enabled)
    unknown = "InvalidInstanceID.NotFound"
    story.world.simulation.add_fault("TerminateInstances", count=1, error_code=unknown)
    story.arm()
    story.signal(REBALANCE, primary)
    story.until(lambda: story.rows("retirements"))
    story.later("retirements", not_before=HOUR)
    story.until(lambda: story.world.state(primary) == "terminated")
    story.settled(epoch=2)


@scenario(both=True)
def manual_switch(story: Story) -> None:
    primary = story.primary()
    story.arm()
    story.operate("manual-replica/enable", lambda: story.agent.manual_replica_enabled)
    story.until(lambda: story.standby_is("ready"))
    story.operate("manual-switch", lambda: story.epoch == 2)
    story.settled(epoch=2, standbys=1)
    story.until(lambda: story.world.state(primary) == "terminated")
    story.operate("manual-replica/disable", lambda: not story.agent.manual_replica_enabled)
    story.settled(epoch=2)


@scenario()
def former_primary_that_is_kept_for_a_moment(story: Story) -> None:
    primary = story.primary()
    story.operate("manual-replica/enable", lambda: story.agent.manual_replica_enabled)
    standby = story.until(lambda: story.standby_is("ready")).instance_id
    story.world.simulation.throttle("TerminateInstances", count=4)
    story.arm()
    story.operate("manual-switch", lambda: story.epoch == 2)
    story.world.client.stop_instances(InstanceIds=[standby])
    story.later("agents", not_before=None)
    story.world.simulation.clear_faults()
    story.until(lambda: story.rows("retirements")[0].kept_because)
    story.world.client.start_instances(InstanceIds=[standby])
    story.later("retirements", not_before=HOUR)
    story.until(lambda: story.world.state(primary) == "terminated")
    story.settled(epoch=2, standbys=1)


@scenario()
def former_primary_that_may_not_be_tagged_at_first(story: Story) -> None:
    primary = story.primary()
    story.operate("manual-replica/enable", lambda: story.agent.manual_replica_enabled)
    story.until(lambda: story.standby_is("ready"))
    story.world.simulation.add_fault("CreateTags", error_code="UnauthorizedOperation")
    story.arm()
    story.operate("manual-switch", lambda: story.epoch == 2)
    story.later("agents", not_before=None)
    story.until(lambda: story.rows("retirements")[0].kept_because)
    story.world.simulation.clear_faults()
    story.later("retirements", not_before=HOUR)
    story.until(lambda: story.world.state(primary) == "terminated")
    story.settled(epoch=2, standbys=1)


@scenario()
def standby_whose_termination_is_throttled(story: Story) -> None:
    story.primary()
    story.operate("manual-replica/enable", lambda: story.agent.manual_replica_enabled)
    story.until(lambda: story.standby_is("ready"))
    story.world.simulation.throttle("TerminateInstances", count=2)
    story.arm()
    story.operate("manual-replica/disable", lambda: not story.agent.manual_replica_enabled)
    story.later("agents", not_before=None)
    story.settled(epoch=1)


@scenario()
def manual_switch_under_a_key(story: Story) -> None:
    story.primary()
    story.arm()
    story.operate_with_key("manual-switch", refused="manual_mode_not_enabled")
    story.operate_with_key("manual-replica/enable")
    story.until(lambda: story.standby_is("ready"))
    story.operate_with_key("manual-switch")
    story.settled(epoch=2, standbys=1)


@scenario()
def recommendation_that_expires(story: Story) -> None:
    primary = story.primary()
    story.arm()
    story.signal(REBALANCE, primary)
    story.until(lambda: story.standby_is("ready"))
    story.later("incidents", rebalance_at=3 * HOUR)
    story.settled(epoch=1)


@scenario(both=True, SEF_SWITCHOVER_CHECK_INTERVAL_SECONDS=OFTEN)
def drill(story: Story) -> None:
    story.primary(drill_interval=600)
    story.arm()
    story.later("agents", drilled_at=HOUR)
    story.settled(epoch=2)


@scenario(reads=True, SEF_LOSS_CHECK_INTERVAL_SECONDS=OFTEN)
def loss_without_a_notice(story: Story) -> None:
    primary = story.primary()
    story.world.simulation.terminate(primary)
    story.arm()
    story.later("agents", created_at=HOUR, primary_since=HOUR)
    story.settled(epoch=2)


def is_missed(story: Story) -> bool:
    [promoted] = story.world.replicas(story.agent_id, "promoted")
    return bool(promoted.misses)


def miss_the_primary(story: Story) -> None:
    """Let EC2 show no instance until the check for losses has missed the new primary."""
    primary = story.primary()
    story.signal(TERMINATION, primary)
    story.until(lambda: story.epoch == 2)
    story.world.simulation.set_options(visible_after_seconds=10**6)
    story.arm()
    story.later("agents", created_at=HOUR, primary_since=HOUR)
    story.until(lambda: is_missed(story))


@scenario(SEF_LOSS_CHECK_INTERVAL_SECONDS=OFTEN)
def primary_that_ec2_does_not_show_for_a_while(story: Story) -> None:
    miss_the_primary(story)
    story.world.simulation.set_options(visible_after_seconds=0)
    story.until(lambda: not is_missed(story))
    story.settled(epoch=2)


@scenario(SEF_LOSS_CHECK_INTERVAL_SECONDS=OFTEN)
def primary_that_reports_although_ec2_does_not_show_it(story: Story) -> None:
    miss_the_primary(story)
    story.report(0, story.agent.instance_id)
    story.later("replica_instances", checked_at=HOUR)
    story.until(lambda: not is_missed(story))
    story.world.simulation.set_options(visible_after_seconds=0)
    story.settled(epoch=2)


@scenario(reads=True, SEF_ORPHAN_CHECK_INTERVAL_SECONDS=OFTEN)
def orphan(story: Story) -> None:
    story.primary()
    story.until(lambda: story.world.rows("deployment", None))
    story.arm()
    [orphaned] = story.launch_orphans(1)
    story.until(lambda: story.world.state(orphaned) == "terminated")
    story.terminated_as_an_orphan(orphaned)
    story.settled(epoch=1)


@scenario(SEF_ORPHAN_CHECK_INTERVAL_SECONDS=OFTEN)
def orphan_that_is_registered_before_it_is_terminated(story: Story) -> None:
    story.until(lambda: story.world.rows("deployment", None))
    story.world.simulation.add_fault("TerminateInstances", error_code="UnauthorizedOperation")
    story.arm()
    [orphaned] = story.launch_orphans(1)
    story.until(lambda: story.rows("orphan_terminations"))
    story.put(instance_id=orphaned, pool_id=POOL)
    story.until(lambda: not story.rows("orphan_terminations"))
    story.world.simulation.clear_faults()
    assert story.agent.instance_id == orphaned
    assert story.world.state(orphaned) == "running"
    assert not story.world.events("orphan_terminated", story.agent_id)


@scenario()
def standby_that_is_signalled_itself(story: Story) -> None:
    primary = story.primary()
    story.arm()
    story.signal(REBALANCE, primary)
    first = story.until(lambda: story.standby_is("ready"))
    story.signal(TERMINATION, first.instance_id)
    story.until(lambda: story.has_another_than(first) and story.standby_is("ready"))
    story.signal(TERMINATION, primary)
    story.settled(epoch=2)


@scenario(reads=True)
def standby_that_disappears(story: Story) -> None:
    primary = story.primary()
    story.arm()
    story.signal(REBALANCE, primary)
    first = story.until(lambda: story.standby_is("ready"))
    story.world.simulation.terminate(first.instance_id)
    story.later("replica_instances", checked_at=2 * HOUR)
    story.until(lambda: story.has_another_than(first))
    story.later("agents", not_before=None)
    story.signal(TERMINATION, primary)
    story.settled(epoch=2)


@scenario()
def launch_whose_instance_terminates(story: Story) -> None:
    primary = story.primary()
    story.world.simulation.set_options(pending_seconds=3600)
    story.arm()
    story.signal(TERMINATION, primary)
    dying = story.until(story.launched)
    story.world.simulation.terminate(dying.instance_id)
    story.world.simulation.set_options(pending_seconds=0)
    story.later("agents", not_before=None)
    story.until(lambda: story.world.replicas(story.agent_id, "failed"))
    story.later("agents", not_before=None)
    story.settled(epoch=2)


@scenario(SEF_PROBATION_SECONDS="0")
def launch_that_hangs_and_its_relief(story: Story) -> None:
    primary = story.primary()
    story.world.simulation.set_options(pending_seconds=3600)
    story.arm()
    story.signal(TERMINATION, primary)
    story.until(story.launched)
    story.calls_were_long_ago()
    story.until(lambda: story.relief and story.relief.instance_id)
    story.world.simulation.set_options(pending_seconds=0)
    story.settled(epoch=2)


@scenario(SEF_PROBATION_SECONDS="0")
def launch_that_ec2_refuses_while_its_relief_launches(story: Story) -> None:
    primary = story.primary()
    simulation = story.world.simulation
    simulation.set_options(pending_seconds=3600)
    simulation.add_fault("RunInstances", error_code="InternalError")
    story.arm()
    story.signal(TERMINATION, primary)
    slow = story.until(lambda: story.standby)
    story.until(lambda: story.standby.pool_id)
    pool = {"pool": story.standby.pool_id, "market": story.standby.market}
    simulation.clear_faults()
    simulation.add_fault("RunInstances", **pool, error_code="InternalError")
    story.calls_were_long_ago()
    story.until(lambda: story.relief and story.relief.instance_id)
    simulation.clear_faults()
    simulation.add_fault("RunInstances", **pool, error_code="InsufficientInstanceCapacity")
    story.later("agents", not_before=None)
    story.until(lambda: story.has_another_than(slow))
    simulation.set_options(pending_seconds=0)
    story.settled(epoch=2)


@scenario()
def launch_that_ec2_shows_late_and_that_times_out(story: Story) -> None:
    primary = story.primary()
    story.world.simulation.set_options(pending_seconds=3600, visible_after_seconds=10**6)
    story.arm()
    story.signal(TERMINATION, primary)
    slow = story.until(story.launched)
    story.later("agents", not_before=None)
    story.until(lambda: story.standby.misses)
    story.world.simulation.set_options(visible_after_seconds=0)
    story.later("replica_instances", launched_at=HOUR)
    story.until(lambda: story.has_another_than(slow))
    story.world.simulation.set_options(pending_seconds=0)
    story.settled(epoch=2)


@scenario()
def one_termination_after_the_other(story: Story) -> None:
    primary = story.primary()
    story.arm()
    story.signal(TERMINATION, primary)
    story.until(lambda: story.epoch == 2)
    second = story.agent.instance_id
    story.signal(TERMINATION, second)
    story.until(lambda: story.epoch == 3)
    story.world.simulation.terminate(second)
    story.later("replica_instances", checked_at=2 * HOUR)
    story.settled(epoch=3)
    story.until(lambda: story.world.replicas(story.agent_id, "terminated"))


@scenario()
def launch_parameters_that_an_operator_corrects(story: Story) -> None:
    primary = story.primary(launch_template="no-such-template")
    story.arm()
    story.signal(TERMINATION, primary)
    story.until(lambda: story.world.events("operator_needed", story.agent_id))
    story.put(launch_template="sef-default")
    story.later("agents", not_before=None)
    story.settled(epoch=2)


@scenario()
def pool_that_is_interrupted(story: Story) -> None:
    several = story.with_others(2)
    primaries = [each.primary() for each in several]
    story.arm()
    for each, primary in zip(several, primaries, strict=True):
        each.signal(TERMINATION, primary)
    story.stage.free_jobs()
    for each in several:
        each.settled(epoch=2)
    [storm] = story.until(lambda: story.fleet_events("pool_interrupted"))
    assert storm.details["agents"] == len(several)


@scenario(**LIMITS)
def more_launches_than_an_hour_may_have(story: Story) -> None:
    primary = story.primary()
    story.signal(TERMINATION, primary)
    story.until(lambda: story.epoch == 2)
    story.arm()
    story.signal(TERMINATION, story.agent.instance_id)
    story.until(lambda: story.world.events("operator_needed", story.agent_id))
    assert story.epoch == 2
    story.world.write(update(tables.launch_attempts).values(created_at=utc_now() - 2 * HOUR))
    story.later("agents", not_before=None)
    story.settled(epoch=3)
    [limit] = story.world.events("limit_reached", story.agent_id)
    assert limit.details["limit"] == "SEF_MAX_LAUNCHES_PER_HOUR"


@scenario(**LIMITS)
def more_terminations_than_a_pass_may_do(story: Story) -> None:
    several = story.with_others(2)
    for each in several:
        each.signal(REBALANCE, each.primary())
        each.until(lambda each=each: each.standby_is("ready"))
    story.arm()
    story.world.write(update(tables.incidents).values(rebalance_at=utc_now() - 3 * HOUR))
    story.stage.free_jobs()
    for each in several:
        each.settled(epoch=1)
    # After a crash, the limit may have nothing to postpone, and then writes no event.
    limits = [limit.details["limit"] for limit in story.fleet_events("limit_reached")]
    assert len(limits) <= 1, limits


@scenario(**LIMITS)
def more_orphans_than_may_be_terminated(story: Story) -> None:
    story.primary()
    story.until(lambda: story.world.rows("deployment", None))
    story.arm()
    first, second = story.launch_orphans(2)
    story.until(lambda: story.fleet_events("limit_reached"))
    assert story.world.state(first) == story.world.state(second) == "running"
    story.world.simulation.terminate(first)
    story.terminated_as_an_orphan(second)
    story.settled(epoch=1)
    [limit] = story.fleet_events("limit_reached")
    assert limit.details["limit"] == "SEF_MAX_TERMINATIONS_PER_RUN"


@scenario()
def ec2_that_throttles(story: Story) -> None:
    primary = story.primary()
    story.world.simulation.throttle("RunInstances", count=2)
    story.arm()
    story.signal(TERMINATION, primary)
    story.until(lambda: story.agent.not_before or story.epoch == 2)
    story.later("agents", not_before=None)
    story.settled(epoch=2)


def set_tokens(story: Story, count: float) -> None:
    """Set the number of tokens in the bucket of RunInstances."""
    row = {"action": "RunInstances", "tokens": count, "refilled_at": utc_now(), "version": 1}
    with story.world.connect() as connection, connection.begin():
        upsert(connection, tables.request_buckets, [row])


@scenario(both=True, **ONE_TOKEN)
def launches_that_share_a_call(story: Story) -> None:
    both = {each: each.primary() for each in story.with_others(1)}
    set_tokens(story, -100)
    story.arm()
    for each, primary in both.items():
        each.signal(TERMINATION, primary)
        story.until(lambda each=each: story.world.attempts(each.agent_id))
    set_tokens(story, 1)
    story.stage.free_jobs()
    for each in both:
        each.settled(epoch=2)
        [attempt] = story.world.attempts(each.agent_id)
        assert attempt.call_token
    story.until(
        lambda: all(
            instance.tags.get(AGENT_TAG) == each.agent_id
            for each in both
            for instance in story.world.alive(each.agent_id)
        )
    )


@scenario(**ONE_TOKEN)
def launch_that_is_cancelled_before_its_call(story: Story) -> None:
    primary = story.primary()
    set_tokens(story, -100)
    story.arm()
    story.signal(REBALANCE, primary)
    story.until(lambda: story.world.attempts(story.agent_id))
    story.later("incidents", rebalance_at=3 * HOUR)
    story.settled(epoch=1)
    assert not story.world.tagged(story.agent_id), "nothing was launched"
    [attempt] = story.world.attempts(story.agent_id)
    assert (attempt.status, attempt.calls) == ("refused", 0)


@scenario(SEF_CLEANUP_INTERVAL_SECONDS=OFTEN)
def prices(story: Story) -> None:
    primary = story.primary()
    story.signal(REBALANCE, primary)
    story.until(lambda: story.standby_is("ready"))
    story.arm()
    story.report_in_a_batch(1500)
    story.report(900)
    story.report(0)
    story.until(lambda: story.world.rows("buffered_observations", story.agent_id))
    story.later("buffered_observations", received_at=HOUR)
    story.until(lambda: not story.world.rows("buffered_observations", story.agent_id))
    points = story.world.rows("pricing_reports", story.agent_id)
    flags = sorted(point.data_quality_flag for point in points)
    assert flags == ["interpolated"] * 2 + ["normal"] * 3, flags


@scenario(SEF_PRICE_RETENTION_DAYS="1")
def prices_older_than_the_retention(story: Story) -> None:
    story.primary()
    story.arm()
    old = [3 * DAY.total_seconds() + seconds for seconds in (1200, 900)]
    for seconds_ago in [*old, 0]:
        story.report(seconds_ago)
    story.later(
        "pricing_reports", received_at=2 * DAY
    )  # a day with a recent report is not rolled up
    story.until(lambda: len(story.rows("pricing_reports")) == 1)
    for table in ("pricing_hourly", "pricing_daily"):
        assert sum(bucket.points for bucket in story.rows(table)) == len(old)


@contextmanager
def receiver() -> Iterator[Receiver]:
    receiver = Receiver(port=PORT)
    try:
        yield receiver
    finally:
        receiver.stop()


@scenario(
    reads=True,
    SEF_CLOUD="simulated",
    SEF_SIMULATOR_PENDING_SECONDS="0",
    SEF_SPOT_POOLS=",".join(SAME_ZONE),
    SEF_ALLOWED_PRIVATE_NETWORKS="127.0.0.0/8",
)
def cutover_with_all_targets_and_webhooks(story: Story) -> None:
    primary = story.primary()
    belongings = Belongings(story.world, primary)
    with receiver() as webhooks:
        hooks = {when: f"{webhooks.url}{when}" for when in ("before", "after")}
        story.put(cutover={**belongings.targets, "webhooks": hooks})
        story.arm()
        story.signal(TERMINATION, primary)
        story.until(lambda: story.epoch == 2)
        story.later("agents", not_before=None)
        story.until(lambda: belongings.held(str(story.agent.instance_id)) == ALL)
        story.until(lambda: {c.status for c in story.rows("cutovers")} == {"done"})
    assert belongings.registered() == [story.agent.instance_id]
    keys = [(path, headers["Idempotency-Key"]) for path, headers, _ in webhooks.got]
    assert [path for path, _ in sorted(set(keys))] == ["/after", "/before"], (
        "each webhook has one key"
    )
    assert len(keys) <= 2 + story.stage.crashes
    story.settled(epoch=2)


@scenario(reads=True, SEF_CLOUD="simulated", SEF_SIMULATOR_PENDING_SECONDS="0")
def registration_of_cutover_targets(story: Story) -> None:
    belongings = Belongings(story.world, story.primary())
    story.arm()
    story.put(cutover=belongings.targets)
    assert story.agent.cutover
    story.settled(epoch=1)


@scenario(
    SEF_CLOUD="simulated",
    SEF_SIMULATOR_PENDING_SECONDS="0",
    SEF_SPOT_POOLS=",".join(SAME_ZONE),
    SEF_RESTORE_TARGETS="true",
)
def target_that_strays(story: Story) -> None:
    def is_moved_back() -> bool:
        story.later("target_looks", due_at=HOUR)
        return "volumes" in belongings.held(primary)

    primary = story.primary()
    belongings = Belongings(story.world, primary, "volumes")
    story.put(cutover=belongings.targets)
    belongings.ec2.detach_volume(VolumeId=belongings.volume_id)
    story.arm()
    story.until(is_moved_back)
    story.until(lambda: {c.status for c in story.rows("cutovers")} == {"done"})
    assert story.world.events("target_strayed", story.agent_id)
    story.settled(epoch=1)


@scenario(SEF_CLOUD="simulated", SEF_SIMULATOR_PENDING_SECONDS="0")
def late_change_of_a_target_group(story: Story) -> None:
    """Another instance is promoted while a call of the cutover is slow."""
    seconds = 3.0

    def is_registering() -> bool:
        steps = story.world.rows("cutover_steps", None)
        return any(step.attempts for step in steps if step.kind == "register")

    def is_put_right() -> bool:
        events = story.world.events("cutover_step", story.agent_id)
        return any("a late register" in event.message for event in events)

    primary = story.primary()
    belongings = Belongings(story.world, primary)
    story.put(cutover={"target_groups": belongings.targets["target_groups"]})
    simulation = story.world.simulation
    simulation.add_fault("RegisterTargets", count=1, delay_seconds=seconds)
    simulation.set_options(pending_seconds=0.2, healthy_after_seconds=10**6)
    story.arm()
    story.signal(TERMINATION, primary)
    story.later("agents", not_before=None)  # a job waits for the call, not the request
    story.until(is_registering)
    simulation.set_options(pending_seconds=0)
    story.signal(TERMINATION, story.agent.instance_id)
    story.until(lambda: is_put_right() or story.stage.crashes)
    if story.stage.crashes:
        time.sleep(seconds)  # the call may still run after its process has died
    simulation.set_options(healthy_after_seconds=0)
    story.until(lambda: [c.epoch for c in story.rows("cutovers") if c.status == "done"] == [3])
    assert belongings.registered() == [story.agent.instance_id]
    story.settled(epoch=3)


@scenario(
    SEF_NOTIFICATION_URLS=f"json://127.0.0.1:{PORT}",
    SEF_NOTIFICATION_MIN_SEVERITY="info",
    SEF_NOTIFICATION_INTERVAL_SECONDS=OFTEN,
    SEF_ALLOWED_PRIVATE_NETWORKS="127.0.0.0/8",
)
def notifications(story: Story) -> None:
    def now() -> bool:
        values = {"next_at": utc_now(), "claimed_until": None}
        pending = deliveries.c.status == "pending"
        story.world.write(update(deliveries).where(pending).values(values))
        return True

    def reject_the_second(request: BaseHTTPRequestHandler) -> None:
        request.send_response(503 if len(messages.got) == 2 else 200)
        request.send_header("Content-Length", "0")
        request.end_headers()

    deliveries = tables.notification_deliveries
    primary = story.primary()
    with receiver() as messages:
        messages.answers = reject_the_second
        story.arm()
        story.signal(TERMINATION, primary)
        story.until(lambda: story.epoch == 2)
        story.later("agents", not_before=None)
        story.settled(epoch=2)
        story.until(
            lambda: (
                now()
                and all(n.dispatched_at for n in story.world.rows("notifications", None))
                and {d.status for d in story.world.rows(deliveries.name, None)} == {"sent"}
            )
        )
    received = [(body["title"], body["message"]) for _, _, body in messages.got]
    del received[1]
    sent = len(story.world.rows(deliveries.name, None))
    assert len(set(received)) == sent > 1, "every message arrived"
    assert len(received) <= sent + story.stage.crashes


@scenario(SEF_ORPHAN_CHECK_INTERVAL_SECONDS=OFTEN)
def instance_that_the_database_lost(story: Story) -> None:
    """EC2 has a launch of this agent that no row knows, as after a restore."""
    story.primary()
    story.until(lambda: story.world.rows("deployment", None))
    story.arm()
    [lost] = story.launch_orphans(1, attempt="replica-0123456789abcdef-1")
    story.until(lambda: story.rows("kept_orphans"))
    story.signal(REBALANCE, lost)
    story.adopt(lost, "surplus")
    story.later("agents", not_before=None)
    story.until(lambda: story.world.state(lost) == "terminated")
    story.settled(epoch=1)


@scenario(SEF_LOSS_CHECK_INTERVAL_SECONDS=OFTEN)
def primary_that_is_stopped_and_started_again(story: Story) -> None:
    primary = story.primary()
    story.world.simulation.add_fault("RunInstances", error_code="InsufficientInstanceCapacity")
    story.world.client.stop_instances(InstanceIds=[primary])
    story.arm()
    story.later("agents", created_at=HOUR, primary_since=HOUR)
    story.until(lambda: story.rows("incidents"))
    story.world.client.start_instances(InstanceIds=[primary])
    story.until(lambda: {i.status for i in story.rows("incidents")} == {"released"})
    story.world.simulation.clear_faults()
    story.settled(epoch=1)


@scenario()
def primary_that_is_named_without_its_pool(story: Story) -> None:
    named = story.world.launch()
    story.arm()
    story.put(instance_id=named)
    story.settled(epoch=1)


@scenario(SEF_CLOUD="simulated", SEF_SIMULATOR_PENDING_SECONDS="0")
def target_that_another_worker_adds_during_a_cutover(story: Story) -> None:
    primary = story.primary()
    belongings = Belongings(story.world, primary)
    both = {name: belongings.targets[name] for name in ("target_groups", "elastic_ip")}
    story.put(cutover={"target_groups": both["target_groups"]})
    story.operate("manual-replica/enable", lambda: story.agent.manual_replica_enabled)
    story.until(lambda: story.standby_is("ready"))
    story.world.simulation.set_options(healthy_after_seconds=10**6)
    story.arm()
    story.operate("manual-switch", lambda: story.epoch == 2)
    story.world.write(update(tables.agents).values(cutover=both))
    story.later("agents", not_before=None)
    story.until(
        lambda: "elastic-ip" in {step.kind for step in story.world.rows("cutover_steps", None)}
    )
    story.world.simulation.set_options(healthy_after_seconds=0)
    story.until(lambda: {c.status for c in story.rows("cutovers")} == {"done"})
    assert "elastic_ip" in belongings.held(str(story.agent.instance_id))
    story.settled(epoch=2, standbys=1)


@scenario(
    SEF_NOTIFICATION_URLS=f"json://127.0.0.1:{PORT}",
    SEF_NOTIFICATION_MIN_SEVERITY="info",
    SEF_NOTIFICATION_INTERVAL_SECONDS=OFTEN,
    SEF_ALLOWED_PRIVATE_NETWORKS="127.0.0.0/8",
)
def more_messages_than_a_channel_takes(story: Story) -> None:
    rows = [
        {
            "thread": f"{story.agent_id}-{number}",
            "matter": uuid4().hex,
            "kind": "alert",
            "severity": "error",
            "title": f"message {number}",
            "body": "a message",
            "created_at": utc_now(),
        }
        for number in range(40)
    ]
    deliveries = tables.notification_deliveries

    def now() -> bool:
        values = {"next_at": utc_now(), "claimed_until": None}
        story.world.write(update(deliveries).where(deliveries.c.status == "pending").values(values))
        # The next digest need not wait for its turn.
        in_digest = deliveries.c.digest.is_not(None)
        story.world.write(update(deliveries).where(in_digest).values(sent_at=utc_now() - HOUR))
        return True

    story.primary()
    with receiver():
        story.arm()
        story.world.write(tables.notifications.insert(), rows)
        story.until(
            lambda: (
                now()
                and all(n.dispatched_at for n in story.world.rows("notifications", None))
                and {d.status for d in story.world.rows(deliveries.name, None)} == {"sent"}
            )
        )


def switch_by_hand(story: Story, **launch: Any) -> str:
    """Switch away from a primary that is launched in a certain way; return it."""
    primary = story.world.launch(**launch)
    story.put(instance_id=primary, pool_id=POOL)
    story.operate("manual-replica/enable", lambda: story.agent.manual_replica_enabled)
    story.until(lambda: story.standby_is("ready"))
    story.arm()
    story.operate("manual-switch", lambda: story.epoch == 2)
    story.later("agents", not_before=None)
    return str(primary)


@scenario(reads=True)
def primary_from_a_persistent_spot_request(story: Story) -> None:
    options = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "persistent"}}
    primary = switch_by_hand(story, InstanceMarketOptions=options)
    story.until(lambda: story.world.state(primary) == "terminated")
    story.settled(epoch=2, standbys=1)
    launched = {i.id for i in story.world.tagged(story.agent_id)}
    running = {i.id for i in story.world.simulation.instances() if i.state == "running"}
    assert running <= launched, "the request has launched no other instance"


def member_of_a_fleet(story: Story, key: str, fleet: str) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": fleet}]}]
    for action in ("DescribeFleets", "DescribeSpotFleetRequests", "DescribeSpotInstanceRequests"):
        story.world.simulation.add_fault(action, error_code="UnauthorizedOperation")
    primary = switch_by_hand(story, TagSpecifications=tags)
    story.until(lambda: fleet in (story.rows("retirements")[0].kept_because or ""))
    story.adopt(primary, "surplus")
    story.until(lambda: story.world.state(primary) == "terminated")
    story.settled(epoch=2, standbys=1)


@scenario(reads=True)
def member_of_a_fleet_that_an_operator_ends(story: Story) -> None:
    member_of_a_fleet(story, "aws:ec2:fleet-id", "fleet-1")


@scenario(reads=True)
def member_of_a_spot_fleet_that_an_operator_ends(story: Story) -> None:
    member_of_a_fleet(story, "aws:ec2spot:fleet-request-id", "sfr-1")


@scenario(SEF_CLOUD="simulated", SEF_SIMULATOR_PENDING_SECONDS="0")
def data_that_would_end_with_its_instance(story: Story) -> None:
    def flags() -> list[bool]:
        [volume] = ec2.describe_volumes(VolumeIds=[belongings.volume_id])["Volumes"]
        return [volume["Attachments"][0]["DeleteOnTermination"], *interface_flags()]

    def interface_flags() -> list[bool]:
        found = ec2.describe_network_interfaces(NetworkInterfaceIds=[belongings.interface_id])
        return [i["Attachment"]["DeleteOnTermination"] for i in found["NetworkInterfaces"]]

    primary = story.primary()
    belongings = Belongings(story.world, primary, "volumes", "network_interface")
    ec2 = belongings.ec2
    devices: Any = [{"DeviceName": "/dev/sdf", "Ebs": {"DeleteOnTermination": True}}]
    ec2.modify_instance_attribute(InstanceId=primary, BlockDeviceMappings=devices)
    found = ec2.describe_network_interfaces(NetworkInterfaceIds=[belongings.interface_id])
    attachment = found["NetworkInterfaces"][0]["Attachment"]["AttachmentId"]
    ec2.modify_network_interface_attribute(
        NetworkInterfaceId=belongings.interface_id,
        Attachment={"AttachmentId": attachment, "DeleteOnTermination": True},
    )
    assert flags() == [True, True]
    story.arm()
    story.put(cutover=belongings.targets)
    story.until(lambda: flags() == [False, False])
    story.settled(epoch=1)


@scenario(SEF_CLOUD="simulated", SEF_SIMULATOR_PENDING_SECONDS="0")
def released_standby_that_has_a_target(story: Story) -> None:
    belongings = Belongings(story.world, story.primary(), "elastic_ip")
    story.put(cutover=belongings.targets)
    story.operate("manual-replica/enable", lambda: story.agent.manual_replica_enabled)
    standby = story.until(lambda: story.standby_is("ready")).instance_id
    belongings.ec2.associate_address(
        AllocationId=belongings.allocation_id,
        NetworkInterfaceId=belongings.interface(standby)["NetworkInterfaceId"],
        AllowReassociation=True,
    )
    story.arm()
    story.operate("manual-replica/disable", lambda: not story.agent.manual_replica_enabled)
    story.later("agents", not_before=None)
    story.until(lambda: story.rows("retirements"))
    story.adopt(standby, "surplus")
    story.until(lambda: story.world.state(standby) == "terminated")
    story.settled(epoch=1)


@scenario(reads=True, SEF_CLOUD="simulated", SEF_SIMULATOR_PENDING_SECONDS="0")
def target_group_that_cannot_be_read_while_it_drains(story: Story) -> None:
    primary = story.primary()
    belongings = Belongings(story.world, primary, "target_groups")
    story.put(cutover=belongings.targets)
    story.operate("manual-replica/enable", lambda: story.agent.manual_replica_enabled)
    story.until(lambda: story.standby_is("ready"))
    simulation = story.world.simulation
    simulation.set_options(draining_seconds=10**6)
    story.arm()
    story.operate("manual-switch", lambda: story.epoch == 2)
    story.later("agents", not_before=None)
    story.until(lambda: {c.status for c in story.rows("cutovers")} == {"done"})
    simulation.add_fault("DescribeTargetHealth", error_code="AccessDenied")
    story.later("retirements", not_before=None)
    story.until(lambda: "may drain" in (story.rows("retirements")[0].kept_because or ""))
    simulation.clear_faults()
    simulation.set_options(draining_seconds=0)
    story.later("retirements", not_before=None)
    story.until(lambda: story.world.state(primary) == "terminated")
    story.settled(epoch=2, standbys=1)


@scenario(
    reads=True,
    SEF_CLOUD="simulated",
    SEF_SIMULATOR_PENDING_SECONDS="0",
    SEF_SPOT_POOLS="t3.large.us-east-1a,m5.large.us-east-1a",
)
def router_behind_a_load_balancer(story: Story) -> None:
    """The standby gets an attribute of its primary, two routes move, and one is created."""
    primary = story.world.launch("t3.large.us-east-1a")
    ec2 = story.world.client
    ec2.modify_instance_attribute(InstanceId=primary, SourceDestCheck={"Value": False})
    belongings = Belongings(story.world, primary, "target_groups")
    belongings.add_load_balancer("us-east-1a", "us-east-1b")
    interface = belongings.interface(primary)
    table = ec2.create_route_table(VpcId=interface["VpcId"])["RouteTable"]["RouteTableId"]
    ec2.create_route(
        RouteTableId=table,
        DestinationCidrBlock="10.99.0.0/16",
        NetworkInterfaceId=interface["NetworkInterfaceId"],
    )
    routes = [
        {"route_table_id": table, "destination_cidr": destination}
        for destination in ("10.98.0.0/16", "10.99.0.0/16")
    ]
    story.arm()
    story.put(
        instance_id=primary,
        pool_id="t3.large.us-east-1a",
        cutover={"target_groups": belongings.targets["target_groups"], "routes": routes},
    )
    story.signal(TERMINATION, primary)
    story.until(lambda: story.epoch == 2)
    story.later("agents", not_before=None)
    story.until(lambda: {c.status for c in story.rows("cutovers")} == {"done"})
    story.settled(epoch=2)
    new = story.agent.instance_id
    assert story.world.described(new)["SourceDestCheck"] is False
    [shown] = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
    led = {r["DestinationCidrBlock"]: r.get("NetworkInterfaceId") for r in shown["Routes"]}
    there = belongings.interface(new)["NetworkInterfaceId"]
    assert {led[route["destination_cidr"]] for route in routes} == {there}
