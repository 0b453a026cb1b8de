"""Which encoder of an objective learns: its own, or, where that is a teacher, the student that is like it (DINO)."""

import torch
from torch import nn

from eyespot.pretrain.checkpoints.low_rank import is_step


def learning_encoder(module: nn.Module) -> nn.Module:
    """The encoder whose parameters an optimiser moves; the objective's own where none is, the module where it has none.

    Args:
        module: an objective, or what holds an encoder in the same way.
    """
    encoder = getattr(module, "encoder", module)
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        return encoder
    own = _shapes(encoder)
    alike = (part for part in module.modules() if part is not encoder and _shapes(part) == own)
    return next((part for part in alike if any(p.requires_grad for p in part.parameters())), encoder)


def _shapes(encoder: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in encoder.named_parameters() if not is_step(name)}
