"""Monitors: what is measured of an encoder now and then while it trains, handed to the trainer from outside."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Engine
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


@runtime_checkable
class FromTheStart(Monitor, Protocol):
    """A monitor that looks before the first step, too."""

    def begin(self, objective: Objective, world: World, step: int) -> None:
        """Called once on every rank, before any step, with how many lie behind."""
        ...


def looks_of(
    monitors: Sequence[MonitorOf], data: RunData, engine: Engine, step: int
) -> list[Callable[[], dict[str, float]]]:
    """The monitors, made and begun, as what is called at monitored steps; they see what a checkpoint would hold."""
    made = [monitor_of(data) for monitor_of in monitors]
    with engine.averaged():
        for monitor in made:
            if isinstance(monitor, FromTheStart):
                monitor.begin(engine.objective, data.world, step)
    return [partial(_look, monitor, engine, data.world) for monitor in made]


def _look(monitor: Monitor, engine: Engine, world: World) -> dict[str, float]:
    with engine.averaged():
        return monitor(engine.objective, world)
