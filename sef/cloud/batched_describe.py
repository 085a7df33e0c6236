"""Look up single instances, with one DescribeInstances call for all that ask at once.

EC2 counts calls. In a storm of notices, a call for each standby would exhaust the request limit.
"""

from collections.abc import Sequence

from sef.batching import Batcher
from sef.cloud.ec2 import FILTER_VALUES, Ec2, Instance
from sef.cloud.errors import CloudError

MAX_WAITING = 10_000

PATIENCE = 1.0
"""Seconds that a look-up waits for the running call, which may hang, before it makes its own."""

BatchedDescribe = Batcher[str, "Instance | CloudError | None"]
"""Takes an instance id; answers with the instance, None if EC2 does not show it, or the error."""


def batched_describe(ec2: Ec2) -> BatchedDescribe:
    """Return a batcher of DescribeInstances calls to `ec2`."""

    def describe(ids: Sequence[str]) -> Sequence[Instance | CloudError | None]:
        try:
            found = ec2.instances(set(ids))
        except CloudError as error:
            return [error] * len(ids)
        return [found.get(instance_id) for instance_id in ids]

    return Batcher(describe, limit=MAX_WAITING, at_once=FILTER_VALUES, patience=PATIENCE)
