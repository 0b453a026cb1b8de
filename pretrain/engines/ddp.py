"""DDP: every process holds the whole objective, gradients are averaged. Also the engine of a single process."""

import contextlib

from torch.nn.parallel import DistributedDataParallel

from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import MakeOptimizer, Settings
from eyespot.pretrain.engines.torch_engine import TorchEngine
from eyespot.pretrain.objective import Objective


class DDPEngine(TorchEngine):
    """torch's DistributedDataParallel where there are several processes, the bare objective where there is one."""

    def __init__(self, objective: Objective, world: World, make_optimizer: MakeOptimizer, settings: Settings) -> None:
        objective = objective.to(world.device)
        self._wrapped = DistributedDataParallel(objective, forward_sync_buffers=False) if world.size > 1 else None
        super().__init__(objective, self._wrapped or objective, make_optimizer, settings, world.device)

    def exchange(self, last: bool) -> contextlib.AbstractContextManager:
        """Gradients cross the network with the last micro-batch only."""
        return contextlib.nullcontext() if last or self._wrapped is None else self._wrapped.no_sync()


make = DDPEngine
"""The engine of this file."""
