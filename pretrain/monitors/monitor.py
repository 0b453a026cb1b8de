"""Monitors: what is measured of an encoder now and then while it trains, handed to the trainer from outside."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.run_data import RunData
from eyespot.pretrain.objective import Objective


@runtime_checkable
class Monitor(Protocol):
    """Called on every rank at the same steps, with the objective as it then is."""

    def __call__(self, objective: Objective, world: World) -> dict[str, float]:
        """Numbers for this step's line of metrics; what rank 0 returns is written.

        It leaves parameters, buffers, training mode and torch's generator as they were.
        """
        ...


MonitorOf = Callable[[RunData], Monitor]
"""How a monitor is made, of the data of the run that it watches."""
