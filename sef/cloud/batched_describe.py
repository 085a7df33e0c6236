"""Look up single instances; one DescribeInstances call serves all threads that ask at once.

EC2 limits the number of calls. In a storm of notices, one call for each standby would exceed the
limit.
"""

from collections.abc import Sequence

from sef.batching import Batcher
from sef.cloud.ec2 import FILTER_VALUES, Ec2, Instance
from sef.cloud.errors import CloudError

MAX_WAITING = 10_000
"""Maximum number of look-ups that wait for a call."""

PATIENCE = 1.0
"""Seconds that a look-up waits for the running call, which may hang, before it makes its own."""

BatchedDescribe = Batcher[str, "Instance | CloudError | None"]
"""Takes an instance id; returns the instance, None if EC2 does not show it, or the error."""


def batched_describe(ec2: Ec2) -> BatchedDescribe:
    """Return a batcher of DescribeInstances calls to `ec2`."""

    def describe(ids: Sequence[str]) -> Sequence[Instance | CloudError | None]:
        try:
            instances = ec2.instances(set(ids))
        except CloudError as error:
            return [error] * len(ids)
        return [instances.get(instance_id) for instance_id in ids]

    return Batcher(describe, limit=MAX_WAITING, at_once=FILTER_VALUES, patience=PATIENCE)
