"""The order of a round's work: who waits for whom."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from sef.store.fleet import Due, Lane

PARALLEL = 8
"""Agents of one lane that are worked on at once."""

CYCLES = 100
"""How often a round that does not end looks for more work: then the next one has its turn."""


def work_in_lanes(
    first: Sequence[Due],
    find_due: Callable[[], Sequence[Due]],
    begin_cycle: Callable[[], Callable[[str], None]],
    pause: float,
) -> int:
    """Work on each agent, those of each lane in their order; returns how many agents there were.

    The lanes do not wait for one another: EC2 may leave some calls unanswered, which takes many
    seconds each, and an agent whose calls failed is in a lane of its own kind. Nor do they wait for
    the end of the round: every `pause` seconds what has become due meanwhile is taken in.
    """
    seen: set[str] = set()
    running: dict[Future[None], str] = {}
    due = first
    with ExitStack() as stack:
        lanes = {
            lane: stack.enter_context(ThreadPoolExecutor(PARALLEL, f"sef-{lane}")) for lane in Lane
        }
        for _ in range(CYCLES):
            work = begin_cycle()
            in_hand = set(running.values())
            for item in due:
                if item.agent_id not in in_hand:
                    running[lanes[item.lane].submit(work, item.agent_id)] = item.agent_id
                    seen.add(item.agent_id)
            over, _ = wait(running, timeout=pause)
            for future in over:
                del running[future]
                future.result()
            if not running:
                break
            due = find_due()
    for future in running:
        future.result()
    return len(seen)
