"""TwoTowers: an objective of two towers, one for images and one for what belongs to them, that meet in one space.

What CLIP (Radford et al. 2021, arXiv:2103.00020) and its kin share: with f the encoder, g the other tower and W_x, W_y
projections, x = W_x f(image) and y = W_y g(other) are compared as unit vectors, at a scale that is learned. The other
tower is a text transformer (image_text.py), or an encoder of maps of one channel: spectrograms, depth.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import own_share
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.networks.encoders import feature_width, features
from eyespot.pretrain.networks.towers.tower import TimmTower
from eyespot.pretrain.optim.unread_parameters import freeze_unread
from eyespot.pretrain.skipped_step import Taken, if_taken


class TwoTowers(Contrastive):
    """Rows of one space: "image", what ``joint`` names beside it, and "scale", the same number in every row.

    Args:
        config: the method's numbers.
        encoder: the image tower, any encoder.
        image_size: height and width of what it sees, pixels.
        log_scale: logarithm of what cosines are multiplied by at the start.
    """

    only_encodes = True
    largest_scale: ClassVar[float] = math.inf
    """Where a step has taken what cosines are multiplied by beyond it, it is set back to it."""

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """CLIP's space and views (section 2.4)."""

        out_dim: Annotated[int, Ge(2)] = 512
        """Channels of the space that both towers end in."""
        view: RandomView = RandomView(scale=(0.9, 1.0), flip=0.0)  # noqa: RUF009 - frozen
        """How images are seen."""

        def check_batch(self, batch_size: int) -> None:
            """One image alone has nothing of another's beside it."""
            if batch_size < 2:
                raise UserError(
                    f"data.batch_size {batch_size}: this method compares images with what belongs to others, so it"
                    " needs 2 or more"
                )

    config: Any
    """A method's own."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int, log_scale: float) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.image_projection = self.make_projection(encoder)
        self.log_scale = nn.Parameter(torch.full((1,), log_scale))

    def make_projection(self, tower: nn.Module) -> nn.Module:
        """What brings an encoder's features into the space: a matrix."""
        made = nn.Linear(feature_width(tower), self.config.out_dim, bias=False)
        nn.init.normal_(made.weight, std=feature_width(tower) ** -0.5)
        return made

    @abstractmethod
    def project(self, kind: str, view: Tensor) -> Tensor:
        """Where views of one of ``joint``'s kinds lie in the space, (B, out_dim), of any length."""

    def scale(self) -> Tensor:
        """What cosines are multiplied by, (1,)."""
        return self.log_scale.exp()

    def embed_joint(self, kind: str, view: Tensor) -> Tensor:
        """As ``compare`` compares them."""
        return nn.functional.normalize(self.project(kind, view), dim=-1)

    def embed(self, batch: Batch) -> Rows:
        """What both towers end in, and the scale."""
        assert self.joint is not None
        rows = {kind: self.project(kind, view) for kind, view in zip(self.joint, batch.views, strict=True)}
        return {**rows, "scale": self.scale().expand(len(batch))}

    def targets(self, batch: Batch) -> Rows:
        """Sample ids: a sample that a batch holds twice is no other one."""
        return {"ids": batch.ids_on_device()}

    @torch.no_grad()
    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The scale is held below ``largest_scale``; cut in a forward pass it would get no gradient to come down by."""
        if self.largest_scale < math.inf:
            held = own_share(self.log_scale)
            held.copy_(if_taken(taken, held.clamp(max=math.log(self.largest_scale)), held))


class TwoEncoders(TwoTowers):
    """Both towers are encoders: the second one and its projection are called as ``joint`` names what it sees.

    Args:
        config: the method's numbers.
        encoder: the image tower, any encoder.
        image_size: height and width of what it sees, pixels.
        tower: the other one, of ``make_tower``.
        log_scale: logarithm of what cosines are multiplied by at the start.
    """

    def __init__(
        self, config: TwoTowers.Config, encoder: nn.Module, image_size: int, tower: nn.Module, log_scale: float
    ) -> None:
        super().__init__(config, encoder, image_size, log_scale)
        assert self.joint is not None
        self.add_module(self.joint[1], tower)
        self.add_module(f"{self.joint[1]}_projection", self.make_projection(tower))

    def project(self, kind: str, view: Tensor) -> Tensor:
        """Its tower's features, projected."""
        found = self.encode(view) if kind == "image" else features(self.get_submodule(kind), view)
        return self.get_submodule(f"{kind}_projection")(found)


def make_tower(name: str, shape: tuple[int, ...], field: str) -> nn.Module:
    """A timm encoder of what is no image, freshly drawn; what ``features`` does not read of it is frozen.

    How it is built stands in its attribute ``built_by``.

    Args:
        name: timm's name of the architecture.
        shape: of what it sees: channels, rows, columns.
        field: of the config, for messages.

    Raises:
        UserError: timm does not know the name, or the architecture cannot see such a thing.
    """
    channels, height, width = shape
    kind = TimmTower(name=name, shape=(channels, height, width))
    try:
        tower = kind.build()
        freeze_unread(tower, features, shape)
    except UserError as error:
        said = str(error).removeprefix(f"encoder.name {name!r}: ").removeprefix(f"encoder {name!r} ")
        raise UserError(f"{field} {name!r}: {said.replace('encoder.image_size', 'a side of')}") from error
    cast(Any, tower).built_by = kind  # what a release says of it
    return tower
