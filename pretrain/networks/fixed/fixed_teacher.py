"""FixedTeacher: an encoder that students learn from and that never changes.

It lives inside the objective, so engines move it and cut it up over their ranks as any other part. But it takes no
gradient, stays in evaluation mode whatever the objective does, and no checkpoint holds it: the run's folder has it once
(``checkpoints/stored_teacher``).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import SAID_IF_SET
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.pretrain.networks.encoders import EncoderConfig, Tokens, check_patches, last_tokens, make_encoder

RANDOM = "random"
"""Model of a teacher whose weights the run's seed draws."""


@dataclass(kw_only=True, slots=True)
class TeacherConfig:
    """Which encoder teaches."""

    model: str = ""
    """Encoder to learn from: a timm name (its published weights, or those of objective.teacher.weights), a release, a
    run or one of its checkpoints, a folder that timm saved, models:/NAME@ALIAS or hf://ORG/NAME. It sets what else is
    said of the teacher, and data.mean and data.std. random = weights drawn by the seed, to try a machine."""
    weights: Path | None = None
    """File of its weights (safetensors, or a checkpoint of torch's, or a run's checkpoint)."""
    prefix: str = field(default="", metadata=SAID_IF_SET)
    """What stands before the encoder's names in that file; empty = what is found, if one is."""
    sha256: str = ""
    """Of that file, which is refused if it has another; empty = not checked."""
    origin: str = ""
    """Where the weights come from, for the record."""
    name: str = "vit_base_patch16_224"
    """timm's name of the architecture; follows from the model."""
    patch_size: Annotated[int, Ge(1)] | None = None
    """Height and width of a patch, pixels; follows from the model. None = what the name says."""
    small_stem: bool = False
    """Whether it is a ResNet with the small stem; follows from the model."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def encoder(self, image_size: int) -> EncoderConfig:
        """How it is made for images of ``image_size`` pixels, the students'."""
        return EncoderConfig(
            name=self.name, image_size=image_size, patch_size=self.patch_size, small_stem=self.small_stem
        )


class FixedTeacher(nn.Module):
    """What a run's students learn from. It begins with weights drawn by torch's generator, until it is given others.

    Args:
        config: which encoder.
        image_size: height and width of what it sees, pixels.

    Raises:
        UserError: timm has no such encoder, or it cannot see images of that size.
    """

    def __init__(self, config: TeacherConfig, image_size: int) -> None:
        super().__init__()
        self.config = config
        try:
            asked = config.encoder(image_size)
            self.encoder = make_encoder(asked).eval().requires_grad_(False)
            check_patches(self.encoder, asked)
        except UserError as error:
            who = config.model or config.name
            raise UserError(f"objective.teacher.model {who}: as the students' teacher, {error}") from error
        self.register_load_state_dict_pre_hook(_keep_own)

    @torch.no_grad()
    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """Those of its last block, after the last norm, without gradient.

        Raises:
            UserError: timm does not hand out the tokens of this architecture.
        """
        return last_tokens(self.encoder, images)[-1]

    def train(self, mode: bool = True) -> "FixedTeacher":
        """Stays in evaluation mode."""
        return super().train(False)

    def state_dict(
        self, *_: Any, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Nothing: it is no part of what a run learns."""
        return {} if destination is None else destination


def _keep_own(teacher: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """What is loaded holds no teacher, and none is missing."""
    for name, tensor in [*teacher.named_parameters(), *teacher.named_buffers()]:
        state_dict[prefix + name] = tensor


def fixed_teacher_of(objective: nn.Module) -> FixedTeacher | None:
    """The objective's, where it has one."""
    return next((part for part in objective.modules() if isinstance(part, FixedTeacher)), None)
