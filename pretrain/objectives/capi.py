"""CAPI: cluster and predict latent patches for improved masked image modeling (Darcet et al. 2025, arXiv:2502.08769).

A slow teacher sees an image whole; its patch tokens are clustered as training goes, online, and a student that sees few
patches has to say to which cluster each of the others belongs. With cos_p the cosines of the teacher's token of patch p
with K prototypes, q_p the assignments that give each prototype an equal share of all tokens at that place
(Sinkhorn-Knopp, place by place, over the images of the step, so that no cluster can stand for a place), and s_p the
predictor's scores for the hidden patch p (section 3),

    L = mean over images and hidden p of  - sum_k q_pk log softmax(s_p / T)_k
        + mean over images and all p of   - sum_k q_pk log softmax(cos_p / T)_k.

The first term moves student, predictor and its scores, the second the prototypes only: no gradient goes through q or
the teacher. The predictor's queries stand at hidden places and attend to the student's tokens alone, not to each other.
The images of a step are those of all ranks and micro-batches.

What differs from the authors' code: their prototypes have an optimiser of their own, of half the rate; positions are
sines and cosines, theirs are rotated in (RoPE); the predictor's width is the encoder's.

To expect: ViT-L/14 on ImageNet-1k: 82.9 % with an attentive probe (the authors' model card).
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float, Int
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.families.masked_autoencoder import CropScale, check_crop
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.patch_masks import rolled_block_order
from eyespot.pretrain.images.patchify import patchify, take, unpatchify
from eyespot.pretrain.networks.ema_teacher import follow, make_steady_teacher
from eyespot.pretrain.networks.encoders import encode_visible, mean_features, require_vit
from eyespot.pretrain.networks.positions import check_sincos, sincos_positions
from eyespot.pretrain.networks.prototypes import Prototypes, balanced
from eyespot.pretrain.objective import About
from eyespot.pretrain.skipped_step import Taken

NUM_ROUNDS = 3
"""Of balancing."""


class CAPI(Contrastive):
    """Says, from few patches of an image, in which cluster of a slow teacher's tokens each of the others lies."""

    picture_rows = ("image", "what the student sees")
    only_encodes = False

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's numbers for ViT-L/14 (section 3 and appendix), as remembered."""

        about: ClassVar = About(
            family="joint embedding",
            task="in which cluster of a slow teacher's tokens each hidden patch lies",
            paper="Darcet et al.",
            year=2025,
            link="arXiv:2502.08769",
            needs="a vision transformer",
            expected="ViT-L/14, ImageNet-1k, attentive probe: 82.9 %",
        )

        num_prototypes: Annotated[int, Ge(2)] = 16384
        """How many clusters there are."""
        mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.65
        """Share of the patches that the student does not see."""
        teacher_temperature: Annotated[float, Ge(0.025), "must be 0.025 or more, or answers underflow"] = 0.06
        """What cosines are divided by before they are balanced: the smaller, the harder the clusters."""
        temperature: Annotated[float, Gt(0)] = 0.12
        """What scores, and the cosines that learn to be like the clusters, are divided by."""
        predictor_depth: Annotated[int, Ge(1), Le(1000)] = 12
        """Blocks of the predictor."""
        predictor_heads: Annotated[int, Ge(1)] = 16
        """Attention heads of the predictor."""
        momentum: Annotated[float, Ge(0), Le(1)] = 0.999
        """The teacher's momentum, 0..1."""
        crop_scale: CropScale = (0.6, 1.0)
        """Smallest and largest area of the random crop, as a share of the image."""
        flip: Annotated[float, Ge(0), Le(1)] = 0.5
        """Probability that the crop is mirrored."""

        def __post_init__(self) -> None:
            Contrastive.Config.__post_init__(self)
            check_crop(self.crop_scale)

        def build(self, encoder: nn.Module, image_size: int) -> "CAPI":
            """CAPI around ``encoder``, which must be a timm vision transformer."""
            return CAPI(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.student: VisionTransformer = require_vit(encoder, "CAPI")
        patches = self.student.patch_embed
        self.patch_size: int = patches.patch_size[0]
        self.grid: tuple[int, int] = patches.grid_size
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_visible = round(self.num_patches * (1 - config.mask_ratio))
        if not 0 < self.num_visible < self.num_patches:
            raise UserError(
                f"objective.mask_ratio {config.mask_ratio}: nothing {'hidden' if self.num_visible else 'visible'} of"
                f" {self.num_patches} patches; {'raise' if self.num_visible else 'lower'} it"
            )
        width, heads = self.student.embed_dim, config.predictor_heads
        if width % heads:
            raise UserError(f"objective.predictor_heads {heads}: must divide the encoder's {width} channels")
        check_sincos("the encoder's channels", width, heads)
        self.encoder = make_steady_teacher(self.student)  # the teacher is the better one of both
        self.prototypes = Prototypes(width, config.num_prototypes)
        self.predictor = Predictor(width, self.grid, config)

    def views(self) -> ViewSpec:
        """One random resized crop, flipped or not."""
        view = RandomView(size=self.image_size, scale=self.config.crop_scale, flip=self.config.flip)
        return ViewSpec(views=(view,))

    def mask_order(self, batch: Batch) -> Int[Tensor, "b n"]:
        """An order of each image's patches: the first ``num_visible`` are seen, the rest hidden."""
        numbers, ties = batch.uniforms("capi/mask", 3 + self.num_patches).split((3, self.num_patches), dim=1)
        return rolled_block_order(numbers, ties, self.grid, self.num_visible)

    def embed(self, batch: Batch) -> Rows:
        """Scores for the hidden patches, (B, M, K), and the teacher's cosines of all, (B, N, K), for the prototypes."""
        order = self.mask_order(batch)
        visible, hidden = order[:, : self.num_visible], order[:, self.num_visible :]
        tokens = encode_visible(self.student, batch.views[0], visible)
        with torch.no_grad():
            of_all = encode_visible(require_vit(self.encoder, "CAPI"), batch.views[0])[:, -self.num_patches :]
        return {"scores": self.predictor(tokens, hidden), "cosines": self.prototypes(of_all)}

    def targets(self, batch: Batch) -> Rows:
        """Which patches are hidden, in the order of their scores."""
        return {"hidden": self.mask_order(batch)[:, self.num_visible :]}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: 2 log(num_prototypes) where nothing was learned; its two parts, and how the clusters are doing.

        Returns:
            "prediction", "clustering": the two terms; "mean_entropy": of the mean assignment over this rank's images
                and all places, log(num_prototypes) where all clusters are used alike.
        """
        cosines, hidden = rows["cosines"], rows["hidden"]
        by_place = balanced(cosines.transpose(0, 1), self.config.teacher_temperature, NUM_ROUNDS)
        clusters = by_place.transpose(0, 1)  # (B, N, K)
        asked = take(clusters, hidden)
        scores = (rows["scores"] / self.config.temperature).log_softmax(2)
        prediction = -(asked * scores).sum(2).mean()
        clustering = -(clusters * (cosines / self.config.temperature).log_softmax(2)).sum(2).mean()
        mean_entropy = torch.special.entr(clusters.mean((0, 1))).sum()
        parts = {"prediction": prediction, "clustering": clustering, "mean_entropy": mean_entropy}
        return {"loss": prediction + clustering, **parts}

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """All tokens, after the last norm."""
        return encode_visible(require_vit(encoder, "CAPI"), images)

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The mean of the patch tokens."""
        return mean_features(self.encoder, images)

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows."""
        follow(self.encoder, self.student, self.config.momentum, taken)

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "2 n 3 h w"]:
        """Two rows: images, and the patches that the student sees."""
        images = batch.views[0][:NUM_PICTURED].float()
        visible = self.mask_order(batch)[: len(images), : self.num_visible]
        patches = patchify(images, self.patch_size)
        shown = torch.zeros_like(patches[..., :1]).scatter(1, visible[..., None], 1.0)
        return torch.stack([images, unpatchify(patches * shown, self.patch_size, self.grid)])


class Predictor(nn.Module):
    """Queries at hidden places attend to the tokens of seen ones, block by block; what they end as is scored.

    Args:
        width: channels of the encoder's tokens, and its own.
        grid: how many patches stand above and beside each other.
        config: depth, heads and the number of scores.
    """

    positions: Float[Tensor, "1 n d"]
    """Of each patch."""

    def __init__(self, width: int, grid: tuple[int, int], config: CAPI.Config) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.register_buffer("positions", sincos_positions(width, *grid).float()[None], persistent=False)
        self.blocks = nn.ModuleList(CrossBlock(width, config.predictor_heads) for _ in range(config.predictor_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.scores = Prototypes(width, config.num_prototypes)

    def forward(self, tokens: Float[Tensor, "b t d"], hidden: Int[Tensor, "b m"]) -> Float[Tensor, "b m k"]:
        """A score for each cluster, cosines in float32 at least.

        Args:
            tokens: the student's, of what it sees.
            hidden: of which patches is asked.
        """
        asked = take(self.positions.expand(len(hidden), -1, -1), hidden).to(tokens.dtype)
        queries = self.mask_token.to(tokens.dtype) + asked
        for block in self.blocks:
            queries = block(queries, tokens)
        return self.scores(self.norm(queries))


class CrossBlock(nn.Module):
    """A transformer's block whose attention looks at other tokens only, pre-norm.

    Args:
        width: channels.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.heads = heads
        self.norm1, self.norm2 = norm(width), norm(width)
        self.query, self.key_value, self.proj = (nn.Linear(width, n * width) for n in (1, 2, 1))
        self.mlp = Mlp(width, 4 * width)

    def forward(self, queries: Float[Tensor, "b m d"], tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b m d"]:
        """The queries, changed by what they find in the tokens."""
        query = self.query(self.norm1(queries))
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (query, *self.key_value(tokens).chunk(2, 2))
        )
        found = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        queries = queries + self.proj(found)
        return queries + self.mlp(self.norm2(queries))
