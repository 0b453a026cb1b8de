"""DDP: every process holds the whole objective, gradients are averaged. Also the engine of a single process."""

import logging
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import MakeOptimizer, MicroBatch, ReadTensors, Settings
from eyespot.pretrain.engines.cuda_graph import GraphDoubtedError, GraphedPasses
from eyespot.pretrain.engines.torch_engine import TorchEngine
from eyespot.pretrain.networks.repeated_blocks import choose_layout
from eyespot.pretrain.objective import Objective

log = logging.getLogger("eyespot")


class DDPEngine(TorchEngine):
    """torch's DistributedDataParallel where there are several processes, the bare objective where there is one."""

    def __init__(self, objective: Objective, world: World, make_optimizer: MakeOptimizer, settings: Settings) -> None:
        objective = objective.to(world.device)
        choose_layout(objective, world.device)  # here alone: FSDP and ZeRO cut flat weights
        self._wrapped = _wrap(objective, world.device) if world.size > 1 else None
        super().__init__(objective, self._wrapped or objective, make_optimizer, settings, world.device)
        graphed = settings.cuda_graph
        self._graphed = GraphedPasses(objective, self._forward, super().backward, self._parameters) if graphed else None

    def forward(self, part: MicroBatch) -> dict[str, Any]:
        """The objective's forward pass; with ``cuda_graph`` the backward pass as well, as long as it is not doubted."""
        if self._graphed is not None:
            try:
                return self._graphed(part.batch, part.seed)
            except GraphDoubtedError as doubt:
                log.warning("cuda_graph True: %s; from here on the run goes on without", doubt)
            self._graphed = None  # and its memory
        return super().forward(part)

    def backward(self, loss: Tensor) -> None:
        """Adds its gradient, unless a graph has computed it."""
        if self._graphed is None:
            super().backward(loss)

    def load_tensors(self, read: ReadTensors) -> None:
        """Reads into the live tensors, of a run whose first steps were taken elsewhere."""
        super().load_tensors(read)
        if self._graphed is not None:
            self._graphed.on_trial = False

    def sync_gradients(self, last: bool) -> None:
        """Gradients cross the network with the last micro-batch only."""
        if self._wrapped is not None:
            self._wrapped.require_backward_grad_sync = last  # what no_sync() sets around both passes


make = DDPEngine
"""The engine of this file."""


class _FixedBuckets(DistributedDataParallel):
    """DDP whose buckets stay as they are made: the parameters from last to first.

    torch orders them anew after a process's first backward pass. Where a number lies in its bucket decides in which
    order three ranks or more add it up: a run that goes on would take its first step otherwise than one that nothing
    stopped.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.reducer = cast(Any, _NotRebuilt(self.reducer))


class _NotRebuilt:
    """A reducer that is asked in vain to order its buckets anew."""

    def __init__(self, reducer: Any) -> None:
        self._reducer = reducer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)

    def _rebuild_buckets(self) -> bool:
        return False


def _wrap(objective: Objective, device: torch.device) -> DistributedDataParallel:
    """Gradients live in the buckets that cross the network: no copy back.

    On a GPU the copies into a bucket are two kernels, not one for each tensor; its division by the number of ranks
    takes the last bit otherwise than a CPU's product with the inverse.
    """
    return _FixedBuckets(
        objective,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
        batched_grad_copy=device.type == "cuda",
    )
