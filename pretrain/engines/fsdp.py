"""FSDP: parameters, gradients and optimiser state are cut over the ranks; a block's parameters meet when it runs."""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.modules.batchnorm import _BatchNorm

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.process_group import World, ensure_group
from eyespot.pretrain.engine import FSDPConfig, MakeOptimizer, Settings
from eyespot.pretrain.engines.torch_engine import TorchEngine
from eyespot.pretrain.networks.repeated_blocks import repeated_blocks
from eyespot.pretrain.objective import Objective

_POLICIES = {
    "fp32": MixedPrecisionPolicy(),
    "bf16": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32),
}


class FSDPEngine(TorchEngine):
    """torch's fully_shard on each repeated block, and on the objective for all that is in none.

    Students, teachers and decoders share the objective as their one root: a second root would go on using the weights
    that it gathered before its teacher moved. Outside of a forward or backward pass, every parameter is in its shards.
    """

    def __init__(self, objective: Objective, world: World, make_optimizer: MakeOptimizer, settings: Settings) -> None:
        blocks = _blocks(objective, settings)
        mesh = _mesh(world, settings.fsdp)
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=_POLICIES[settings.fsdp.gather])
        self._root = fully_shard(objective, mesh=mesh)
        _gather_for(objective, self._root)
        super().__init__(objective, objective, make_optimizer, settings, world.device)

    def sync_gradients(self, last: bool) -> None:
        """Gradients are summed up over ranks, and cut up, with the last micro-batch only."""
        self._root.set_requires_gradient_sync(last)


make = FSDPEngine
"""The engine of this file."""


def check(objective: Objective, world: World, settings: Settings, optimizer: str) -> None:
    """Raises a UserError where it could not be made; see ``check_engine``."""
    _blocks(objective, settings)
    if settings.fsdp.shard_over == "node":
        _ranks_per_node(world)


def _blocks(objective: Objective, settings: Settings) -> list[nn.Module]:
    """What is cut up one by one; raises a UserError where it cannot be gathered as asked."""
    blocks = repeated_blocks(objective)
    if settings.fsdp.gather == "bf16" and any(isinstance(part, _BatchNorm) for b in blocks for part in b.modules()):
        raise UserError("fsdp.gather 'bf16': this encoder's blocks hold batch norms, which need fp32; leave it out")
    return blocks


def _mesh(world: World, config: FSDPConfig) -> DeviceMesh:
    """All ranks in a row, or a row for each node."""
    ensure_group(world.device)
    if config.shard_over == "all":
        return init_device_mesh(world.device.type, (world.size,))
    per_node = _ranks_per_node(world)
    return init_device_mesh(
        world.device.type, (world.size // per_node, per_node), mesh_dim_names=("replicate", "shard")
    )


def _ranks_per_node(world: World) -> int:
    """By the launcher; raises a UserError where it does not say, or nodes differ."""
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", 1 if world.size == 1 else 0))
    if not per_node or world.size % per_node:
        told = (
            f"{per_node} ranks on this node do not divide {world.size}" if per_node else "LOCAL_WORLD_SIZE is not set"
        )
        raise UserError(f"fsdp.shard_over 'node': {told}; start as many ranks on each node with torchrun, or use 'all'")
    return per_node


def _gather_for(objective: Objective, root: FSDPModule) -> None:
    """Lets ``encode`` and ``picture`` be called by themselves: parameters are gathered, and let go afterwards.

    Where a forward pass calls them, the parameters are there; to gather them again would end the pass for FSDP as soon
    as the method returns.
    """
    running = False

    def noted(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def run(*arguments: Any, **named: Any) -> Any:
            nonlocal running
            running = True
            try:
                return method(*arguments, **named)
            finally:
                running = False

        return run

    def entrance(name: str) -> Callable[..., Any]:
        inner = getattr(objective, name)
        setattr(objective, name, noted(inner))
        register_fsdp_forward_method(objective, name)
        gathering = getattr(objective, name)

        @functools.wraps(inner)
        def enter(*arguments: Any, **named: Any) -> Any:
            if running:
                return inner(*arguments, **named)
            answer = gathering(*arguments, **named)
            root.reshard()  # it would keep the root's parameters for a backward pass, and the optimiser moves on
            return answer

        return enter

    objective.forward = noted(objective.forward)
    for name in ("encode", "picture"):
        setattr(objective, name, entrance(name))
