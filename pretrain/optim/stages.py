"""Staged thawing: the head learns alone, then the encoder's last blocks as well at a smaller rate, then all.

What has to wait has a rate of 0, a pure function of the step: which parameters learn is fixed for every engine, nothing
is saved or restored, and neither decay nor momentum moves them. Their gradients are computed nevertheless, and go into
the optimiser's moving averages and the norm of clipping.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.networks.repeated_blocks import repeated_blocks
from eyespot.pretrain.optim.learning_encoder import learning_encoder

FACTORS = "factors"
"""Of a parameter group: (share of the run, factor of its rate until then), in order; afterwards the factor is 1."""


def staged(
    groups: Sequence[dict[str, Any]], module: nn.Module, stages: tuple[float, ...], num_blocks: int, scale: float
) -> list[dict[str, Any]]:
    """The groups, cut where their parameters begin to learn at different times.

    Args:
        groups: of an optimiser.
        module: whose parameters they hold.
        stages: see ``check_stages``, here as below.
        num_blocks: how many last blocks.
        scale: of their rate until the second share.

    Raises:
        UserError: see ``check_stages``.
    """
    begin = check_stages(module, stages, num_blocks)
    early: Any = ((stages[-1], 0.0),)
    late: Any = ((stages[0], 0.0), *((share, scale) for share in stages[1:]))
    encoder = enumerate(learning_encoder(module).parameters())
    factors = {id(parameter): late if place >= begin else early for place, parameter in encoder}
    found: list[dict[str, Any]] = []
    for group in groups:
        for wanted in (early, late, None):
            own = [parameter for parameter in group["params"] if factors.get(id(parameter)) is wanted]
            found.append({**group, "params": own, **({FACTORS: wanted} if wanted else {})})
    return found


def check_stages(module: nn.Module, stages: tuple[float, ...], num_blocks: int) -> int:
    """At which of the encoder's parameters its last blocks begin.

    Head: all that is not of the encoder that learns. Last blocks: these, and what follows them in the encoder.

    Args:
        module: to be trained.
        stages: shares of the run, one or two: how long the head learns alone, and then the last blocks beside it.
        num_blocks: how many last blocks; with one share there is no such stage.

    Raises:
        UserError: nothing of an encoder learns beside a head, or it has no so many blocks.
    """
    encoder = learning_encoder(module) if hasattr(module, "encoder") else None
    if encoder is None or not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise UserError(f"optim.stages {stages}: nothing of an encoder learns beside a head; leave it out")
    if len(stages) == 1:
        return 0
    blocks = repeated_blocks(encoder)
    if num_blocks > len(blocks):
        raise UserError(f"optim.stage_blocks {num_blocks}: the encoder has {plural(len(blocks), 'block')}; lower it")
    first = next(iter(blocks[-num_blocks].parameters()))
    return next(place for place, parameter in enumerate(encoder.parameters()) if parameter is first)


def stage_factor(group: dict[str, Any], done: float) -> float:
    """Of a group's rate, once this share of the run lies behind."""
    return next((factor for until, factor in group.get(FACTORS, ()) if done < until), 1.0)
