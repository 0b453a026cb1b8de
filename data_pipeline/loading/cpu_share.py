"""How many CPU cores a process has for making views."""

import os
from functools import cache


@cache
def own_cores() -> int:
    """Cores that this process was given. Counted once: it may bind itself to those near its GPU, among which it then
    has fewer neighbours.
    """
    return len(os.sched_getaffinity(0))


def cpu_share() -> int:
    """The cores of this process, divided among the ranks that torchrun or SLURM started beside it."""
    return max(1, own_cores() // num_neighbours())


def num_neighbours() -> int:
    """The ranks that torchrun or SLURM started on this node, with this one."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
