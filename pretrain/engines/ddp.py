"""DDP: every process holds the whole objective, gradients are averaged. Also the engine of a single process."""

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

    def sync_gradients(self, last: bool) -> None:
        """Gradients cross the network with the last micro-batch only."""
        if self._wrapped is not None:
            self._wrapped.require_backward_grad_sync = last  # what no_sync() sets around both passes


make = DDPEngine
"""The engine of this file."""
