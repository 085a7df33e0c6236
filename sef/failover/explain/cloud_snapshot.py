"""Read the answers of EC2 that a dry run needs, before its transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sef.agents import Agent
from sef.cloud.errors import CloudError
from sef.context import Context
from sef.failover.cutover.checks import TargetCheck, check_targets
from sef.failover.instances.candidates import (
    LaunchOptions,
    NoLaunchConfiguration,
    launch_options,
)
from sef.failover.instances.place_warnings import router_warnings
from sef.failover.snapshot import read_snapshot
from sef.failover.standbys.retirements import running_retirements
from sef.failover.standbys.rows import Replica
from sef.failover.standbys.watch import Observed, classify, unknown_state
from sef.terms import ReplicaStatus, parse_pool


@dataclass(frozen=True, slots=True)
class LostStandby:
    """A standby that is ready by its row, while EC2 shows that its instance has ended."""

    standby: Replica
    reason: str


@dataclass(frozen=True, slots=True)
class CloudSnapshot:
    """The answers of EC2 about one agent."""

    primary: str | None
    """Instance of the primary when EC2 was asked."""
    options: LaunchOptions | None
    problem: NoLaunchConfiguration | CloudError | None
    """Reason why there are no `options`."""
    lost: LostStandby | None
    targets: TargetCheck
    running: frozenset[str] = frozenset()
    """The spare instances of the agent that run."""
    routes: Sequence[str] = ()
    """Warnings about routes to the primary."""

    def options_for(self, agent: Agent) -> LaunchOptions | None:
        """Return the launch options for the primary that the agent has in the dry run."""
        if self.options is None or agent.instance_id == self.primary:
            return self.options
        source = replace(self.options.source, primary_pool=parse_pool(agent.pool_id))
        return replace(self.options, source=source)


def read_cloud(ctx: Context, agent_id: str, *, must_run: bool) -> CloudSnapshot:
    """Ask EC2 about the standby, the cutover targets and the launch options of an agent.

    Args:
        must_run: raise unless EC2 shows that a ready standby is running.

    Raises:
        CloudError: `must_run` is true, and EC2 does not show that the standby is running.
    """
    snapshot = ctx.database.read(read_snapshot, agent_id)
    lost = _lost_standby(ctx, snapshot.standby, must_run=must_run)
    standby_id = snapshot.standby.instance_id if snapshot.standby and not lost else None
    targets = check_targets(ctx, snapshot.agent, standby_id)
    running = _running_spares(ctx, agent_id, snapshot.releasing)
    primary = snapshot.agent.instance_id
    try:
        options = launch_options(ctx, snapshot.agent)
    except (NoLaunchConfiguration, CloudError) as error:
        return CloudSnapshot(primary, None, error, lost, targets, running)
    routes = router_warnings(ctx, snapshot.agent, options)
    return CloudSnapshot(primary, options, None, lost, targets, running, routes)


def _running_spares(ctx: Context, agent_id: str, releasing: Sequence[Replica]) -> frozenset[str]:
    """Return the spare instances that EC2 shows running; none if EC2 does not answer."""
    spares = [one.instance_id for one in ctx.database.read(running_retirements, agent_id)]
    spares += [replica.instance_id for replica in releasing if replica.instance_id is not None]
    try:
        instances = ctx.ec2.instances(spares) if spares else {}
    except CloudError:
        return frozenset()
    return frozenset(i.id for i in instances.values() if i.ec2_state == "running")


def _lost_standby(ctx: Context, standby: Replica | None, *, must_run: bool) -> LostStandby | None:
    if standby is None or standby.status is not ReplicaStatus.READY or not standby.instance_id:
        return None
    try:
        instance = ctx.ec2.instances([standby.instance_id]).get(standby.instance_id)
    except CloudError:
        if must_run:
            raise
        return None
    if instance is not None and classify(instance) is Observed.GONE:
        return LostStandby(standby, f"its instance is {instance.ec2_state}")
    if must_run and classify(instance) is not Observed.RUNNING:
        raise unknown_state(standby)
    return None
