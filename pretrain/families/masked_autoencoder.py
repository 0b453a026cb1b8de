"""MaskedAutoencoder: an objective whose encoder sees few patches, and whose light decoder fills in the rest.

What MAE (He et al. 2021, arXiv:2111.06377) and its descendants share. With M the masked patches of a sample and t_p the
pixels of patch p, normalised by what the method says,

    L = mean over samples and p in M of  mean((decoder(encoder(visible patches))_p - t_p)^2).

A method says which patches there are (``patches``), which of them are masked (``mask_order``), what the encoder makes
of the visible ones (``see``) and by what pixels are normalised (``statistics``).
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, cast

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float, Int
from timm.models.eva import Eva
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.patchify import take
from eyespot.pretrain.networks.encoders import encode_visible, require_vit
from eyespot.pretrain.networks.positions import (
    check_decoder,
    encode_visible_rotated,
    fix_positions,
    require_rotated,
    sincos_positions,
    sincos_times,
)
from eyespot.pretrain.objective import Objective

CropScale = tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]]


def check_crop(scale: CropScale) -> None:
    """Whether ``objective.crop_scale`` has the smaller area first.

    Raises:
        UserError: it does not.
    """
    if not scale[0] <= scale[1]:
        raise UserError(f"objective.crop_scale {scale}: must have the smaller area first")


class MaskedAutoencoder(Objective):
    """Encoder on the visible patches, a light decoder that fills in the rest.

    Args:
        config: the method's numbers.
        encoder: a timm vision transformer.
        image_size: height and width of what it sees, pixels.
        times: how many times a clip has; 1 for images.
        frames: how many images a patch is cut from at each time.

    Raises:
        UserError: the encoder has no patches, or the mask leaves none visible or none to be found out.
    """

    takes_rotated: ClassVar[bool] = False
    """Whether its encoder may be told positions by rotations (RoPE): EVA-02, DINOv3."""

    picture_rows: ClassVar[tuple[str, ...]] = ("image", "what the encoder sees", "filled in")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """MAE's defaults (table 8)."""

        mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.75
        """Share of the patches that the encoder does not see."""
        decoder_dim: Annotated[int, Ge(1)] = 512
        """Channels of the decoder's tokens."""
        decoder_depth: Annotated[int, Ge(0), Le(1000)] = 8
        """Blocks of the decoder."""
        decoder_heads: Annotated[int, Ge(1)] = 16
        """Attention heads of the decoder."""
        normalize_targets: bool = True
        """Predict pixels normalised by their patch's mean and standard deviation."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            check_decoder(self.decoder_dim, self.decoder_heads)

    encoder: VisionTransformer  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        config: Config,
        encoder: nn.Module,
        image_size: int,
        *,
        times: int = 1,
        frames: int = 1,
    ) -> None:
        super().__init__()
        method = type(self).__name__
        self.config, self.image_size = config, image_size
        self.encoder = self._fit(encoder)  # pyright: ignore[reportIncompatibleVariableOverride]
        channels: int = self.encoder.patch_embed.proj.in_channels
        self.patch_size: int = self.encoder.patch_embed.patch_size[0]
        self.grid: tuple[int, int] = self.encoder.patch_embed.grid_size
        self.times, self.per_time = times, self.grid[0] * self.grid[1]
        self.num_patches, self.num_visible = times * self.per_time, times * self.visible_of(self.per_time)
        if not 0 < self.num_visible < self.num_patches:
            raise UserError(
                f"objective.mask_ratio {config.mask_ratio}: nothing {'masked' if self.num_visible else 'visible'} of"
                f" {self.num_patches} patches; {'raise' if self.num_visible else 'lower'} it"
            )
        dim = config.decoder_dim
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.decoder_embed = nn.Linear(self.encoder.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        positions = sincos_positions(dim, *self.grid) + sincos_times(dim, times)[:, None]
        self.register_buffer("decoder_positions", positions.flatten(0, 1).float()[None], persistent=False)
        self.decoder_blocks = nn.Sequential(
            *(
                Block(dim, config.decoder_heads, qkv_bias=True, norm_layer=norm)  # pyright: ignore[reportArgumentType]
                for _ in range(config.decoder_depth)
            )
        )
        self.decoder_norm = norm(dim)
        self.decoder_pred = nn.Linear(dim, self.patch_size**2 * channels * frames)
        initialise(self, [self.mask_token], method)

    def visible_of(self, count: int) -> int:
        """How many patches of so many the encoder sees."""
        return int(count * (1 - self.config.mask_ratio))

    @abstractmethod
    def mask_order(self, batch: Batch) -> Int[Tensor, "b n"]:
        """An order of each sample's patches: the first ``num_visible`` are seen, the rest masked."""

    @abstractmethod
    def patches(self, view: Float[Tensor, "b ..."]) -> Float[Tensor, "b n p"]:
        """The pixels of all patches."""

    @abstractmethod
    def statistics(self, patches: Float[Tensor, "b n p"]) -> tuple[Float[Tensor, "b n _"], Float[Tensor, "b n _"]]:
        """By what the pixels of patches are normalised: mean and deviation."""

    def see(self, view: Float[Tensor, "b ..."], visible: Int[Tensor, "b v"]) -> Float[Tensor, "b t d"]:
        """What the encoder makes of the visible patches: prefix tokens, then patches in the order given."""
        return _seen_by(self.encoder, view, visible)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: mean squared error on the masked patches."""
        order = self.mask_order(batch)
        predicted = self.reconstruct(batch.views[0], order)
        masked = order[:, self.num_visible :]
        target = take(self.targets(batch.views[0]), masked)
        errors = (predicted.to(target.dtype) - target).square()
        self.note_losses(lambda: errors)
        return {"loss": errors.mean()}

    def read(self, encoder: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        """All tokens, after the last norm."""
        return _seen_by(self._fit(encoder), images)

    def _fit(self, encoder: nn.Module) -> Any:
        method = type(self).__name__
        rotated = self.takes_rotated and isinstance(encoder, Eva)
        return require_rotated(encoder, method) if rotated else require_vit(encoder, method)

    def reconstruct(self, view: Float[Tensor, "b ..."], order: Int[Tensor, "b n"]) -> Float[Tensor, "b m p"]:
        """The predicted pixels of the masked patches, in the order given: (B, masked, pixels of a patch)."""
        tokens = self.decoder_embed(self.see(view, order[:, : self.num_visible]))
        num_prefix = self.encoder.num_prefix_tokens
        mask_tokens = self.mask_token.to(tokens.dtype).expand(len(order), self.num_patches - self.num_visible, -1)
        patches = torch.cat([tokens[:, num_prefix:], mask_tokens], dim=1)
        patches = patches + take(self.get_buffer("decoder_positions").expand(len(order), -1, -1), order)
        tokens = self.decoder_blocks(torch.cat([tokens[:, :num_prefix], patches], dim=1))
        return self.decoder_pred(self.decoder_norm(tokens[:, num_prefix + self.num_visible :]))

    def targets(self, view: Float[Tensor, "b ..."]) -> Float[Tensor, "b n p"]:
        """What is to be predicted, for all patches: pixels, normalised per patch where the config says so."""
        patches = self.patches(view)
        if not self.config.normalize_targets:
            return patches
        mean, deviation = self.statistics(patches)
        return (patches - mean) / deviation

    def filled_in(
        self, view: Float[Tensor, "b ..."], order: Int[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b n p"], Float[Tensor, "b n p"]]:
        """Patches as the encoder sees them, and the reconstructions with the visible patches pasted in."""
        masked = order[:, self.num_visible :]
        patches = self.patches(view)
        predicted = self.reconstruct(view, order).float()
        if self.config.normalize_targets:  # undo it with the true statistics, as the paper's figures do
            mean, deviation = self.statistics(take(patches, masked))
            predicted = predicted * deviation + mean
        index = masked[..., None].expand_as(predicted)
        return patches.scatter(1, index, torch.zeros_like(predicted)), patches.scatter(1, index, predicted)


def _seen_by(
    encoder: Any, view: Float[Tensor, "b c h w"], visible: Int[Tensor, "b v"] | None = None
) -> Float[Tensor, "b t d"]:
    look: Any = encode_visible_rotated if isinstance(encoder, Eva) else encode_visible
    return look(encoder, view, visible)


def initialise(objective: Objective, mask_tokens: Sequence[nn.Parameter], method: str) -> None:
    """MAE's authors' initialisation: Xavier-uniform matrices, tokens from N(0, 0.02), fixed positions.

    Args:
        objective: whose encoder is a vision transformer.
        mask_tokens: of its decoders.
        method: who wants it, for refusals.

    Raises:
        UserError: the encoder has no absolute position embedding.
    """
    vit = cast(Any, objective.encoder)
    for module in objective.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    projection = vit.patch_embed.proj.weight
    nn.init.xavier_uniform_(projection.view(projection.shape[0], -1))
    for token in (*mask_tokens, vit.cls_token, vit.reg_token):
        if token is not None:
            nn.init.normal_(token, std=0.02)
    fix_positions(vit, method)
