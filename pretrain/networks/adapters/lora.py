"""LoRA: given weights stand still, and low-rank steps beside them learn (Hu et al. 2021, arXiv:2106.09685, equation 3).

A linear layer of weight W, (out, in), computes with W + B A, where A, (rank, in), is drawn and B, (out, rank), is zero:
at step 0 it is what it was, to the bit. Everything outside the objective that learns sees the sum: teachers follow it,
and what is read of a checkpoint has it, under timm's names. ``weight`` stays W, because FSDP looks for parameters by
their names; so a block that reads its layers' weights itself, as BEiT's attention does, has no step there.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints.low_rank import NAMES, is_step
from eyespot.pretrain.distributed.process_group import own_share
from eyespot.pretrain.networks.repeated_blocks import repeated_blocks


class LowRankLinear(nn.Linear):
    """A linear layer that has its low-rank step; ``adapt`` makes it of one that is there."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def forward(self, input: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """With the sum, which is formed in the parameters' precision."""
        with torch.autocast(self.lora_a.device.type, enabled=False):
            weight = self.weight + self.lora_b @ self.lora_a
        return F.linear(input, weight, self.bias)

    def own_step(self) -> Tensor:
        """This rank's share of B A, where an engine has cut both by rows."""
        whole = self.lora_a.full_tensor() if isinstance(self.lora_a, DTensor) else self.lora_a
        return own_share(self.lora_b) @ whole.detach()


def adapt(encoder: nn.Module, rank: int) -> int:
    """Freezes the encoder, and gives each linear layer of its blocks that learned a step of this rank.

    Args:
        encoder: in place; A is drawn from torch's generator.
        rank: of the steps.

    Returns:
        How many layers have one now.

    Raises:
        UserError: it has no such layer, or one that is smaller than that.
    """
    parts = (part for block in repeated_blocks(encoder) for part in block.modules())
    layers = [part for part in parts if type(part) is nn.Linear and part.weight.requires_grad]
    if not layers:
        raise UserError(f"start.lora_rank {rank}: no linear layer in this encoder's blocks learns; leave it out")
    if rank >= (least := min(min(layer.weight.shape) for layer in layers)):
        raise UserError(f"start.lora_rank {rank}: the encoder has a linear layer of {least} channels; lower it")
    encoder.requires_grad_(False)
    for layer in layers:
        made = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        steps = torch.empty(rank, layer.in_features, **made), torch.zeros(layer.out_features, rank, **made)
        nn.init.kaiming_uniform_(steps[0], a=math.sqrt(5))
        layer.__class__ = LowRankLinear
        for name, step in zip(NAMES, steps, strict=True):
            layer.register_parameter(name, nn.Parameter(step))
    return len(layers)


@torch.no_grad()
def weights_of(module: nn.Module) -> list[Tensor]:
    """This rank's share of each parameter of the plain module, in order: the steps added to what they are steps of."""
    layers = {id(part.weight): part for part in module.modules() if isinstance(part, LowRankLinear)}
    found: list[Tensor] = []
    for name, parameter in module.named_parameters():
        if not is_step(name):
            share, layer = own_share(parameter), layers.get(id(parameter))
            found.append(share if layer is None else share + layer.own_step())
    return found
