"""CAPI: cluster and predict latent patches for improved masked image modeling (Darcet et al. 2025, arXiv:2502.08769).

A slow teacher sees an image whole; its patch tokens are clustered as training goes, online, and a student that sees few
patches has to say to which cluster some of the others belong. With l_p the K logits that a linear layer makes of the
teacher's token of patch p, at unit length, q_p the assignments that give each cluster an equal share of all tokens at
that place (Sinkhorn-Knopp on l_p / T', place by place, over the images of the step, so that no cluster can stand for a
place), and s_p the predictor's cosines for the hidden patch p (section 3),

    L = mean over images and asked p of  - sum_k q_pk log softmax(s_p / T)_k
        + mean over images and all p of  - sum_k q_pk log softmax(l_p / T)_k.

The first term moves student, predictor and its scores, the second the linear layer only: no gradient goes through q or
the teacher. The predictor's queries stand at hidden places and attend to the student's tokens alone, not to each other;
so it costs nothing but their answers to ask about some hidden patches only. Attention turns queries and keys by where
they are (RoPE). The images of a step are those of all ranks and micro-batches.

What differs from the authors' code: the weights of the layer that clusters do not decay, there by 0.01; the predictor's
width is the encoder's, which has timm's positions and norms; a pair of channels is turned by one angle, there each of
the two by its own.

To expect: ViT-L/14 on ImageNet-1k: 82.9 % with an attentive probe (the authors' model card).
"""

import math
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
from eyespot.pretrain.images.patch_masks import random_order, rolled_block_order
from eyespot.pretrain.images.patchify import patchify, take, unpatchify
from eyespot.pretrain.networks.ema_teacher import follow, make_steady_teacher
from eyespot.pretrain.networks.encoders import encode_visible, mean_features, require_vit
from eyespot.pretrain.networks.positions import axial_angles, turned
from eyespot.pretrain.networks.prototypes import Prototypes, balanced_scores
from eyespot.pretrain.objective import About
from eyespot.pretrain.skipped_step import Taken

NUM_ROUNDS = 3
"""Of balancing."""
CUT = 0.8
"""Where the authors cut the cosine off along which the teacher slows down."""


class CAPI(Contrastive):
    """Says, from few patches of an image, in which cluster of a slow teacher's tokens each of the others lies."""

    picture_rows = ("image", "what the student sees")
    only_encodes = False
    undecayed = ("clusters.weight",)
    slower: ClassVar[dict[str, float]] = {"clusters": 0.5, "student.patch_embed": 0.2}

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The authors' numbers for ViT-L/14 (default_pretrain_config.yaml)."""

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
        asked_ratio: Annotated[float, Gt(0), Le(1)] = 0.05
        """Share of the hidden patches that it is asked about: at least one."""
        teacher_temperature: Annotated[float, Gt(0)] = 0.06
        """What logits are divided by before they are balanced: the smaller, the harder the clusters."""
        temperature: Annotated[float, Gt(0)] = 0.12
        """What scores, and the logits that learn to be like the clusters, are divided by."""
        predictor_depth: Annotated[int, Ge(1), Le(1000)] = 12
        """Blocks of the predictor."""
        predictor_heads: Annotated[int, Ge(1)] = 16
        """Attention heads of the predictor."""
        momentum: Annotated[float, Ge(0), Le(1)] = 0.999
        """The teacher's momentum once ``warmup`` is over, 0..1; from there it rises along a cosine, not quite to 1."""
        warmup: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Share of the run in which it falls from 1, linearly: a teacher that knows nothing yet stays as it is."""
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
        self.num_visible = self.num_patches - int(self.num_patches * config.mask_ratio)
        if self.num_visible == self.num_patches:
            raise UserError(
                f"objective.mask_ratio {config.mask_ratio}: nothing hidden of {self.num_patches} patches; raise it"
            )
        width, heads = self.student.embed_dim, config.predictor_heads
        if width % heads:
            raise UserError(f"objective.predictor_heads {heads}: must divide the encoder's {width} channels")
        if width // heads % 4:
            raise UserError(
                f"objective.predictor_heads {heads}: {width // heads} channels each, no multiple of 4 (RoPE)"
            )
        self.num_asked = max(1, int((self.num_patches - self.num_visible) * config.asked_ratio))
        self.encoder = make_steady_teacher(self.student)  # the teacher is the better one of both
        self.clusters = Clusters(width, config.num_prototypes)
        self.predictor = Predictor(width, self.grid, config)

    def views(self) -> ViewSpec:
        """One random resized crop, flipped or not."""
        view = RandomView(size=self.image_size, scale=self.config.crop_scale, flip=self.config.flip)
        return ViewSpec(views=(view,))

    def drawn(self, batch: Batch) -> tuple[Int[Tensor, "b v"], Int[Tensor, "b m"]]:
        """Numbers of the patches that the student sees, and of those of the others that it is asked about."""
        draws = batch.uniforms("capi/mask", 3 + 2 * self.num_patches)
        numbers, ties, choice = draws.split((3, self.num_patches, self.num_patches), dim=1)
        order = rolled_block_order(numbers, ties, self.grid, self.num_visible)
        hidden = order[:, self.num_visible :]
        chosen = random_order(choice[:, self.num_visible :])[:, : self.num_asked]
        return order[:, : self.num_visible], hidden.gather(1, chosen)

    def embed(self, batch: Batch) -> Rows:
        """Scores of the patches asked about, (B, M, K), and logits of all for the teacher's clusters, (B, N, K)."""
        visible, asked = self.drawn(batch)
        tokens = encode_visible(self.student, batch.views[0], visible)
        with torch.no_grad():
            of_all = encode_visible(require_vit(self.encoder, "CAPI"), batch.views[0])[:, -self.num_patches :]
        return {"scores": self.predictor(tokens, visible, asked), "logits": self.clusters(of_all)}

    def targets(self, batch: Batch) -> Rows:
        """Which patches are asked about, in the order of their scores."""
        return {"asked": self.drawn(batch)[1]}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: 2 log(num_prototypes) where nothing was learned; its two parts, and how the clusters are doing.

        Returns:
            "prediction", "clustering": the two terms; "mean_entropy": of the mean assignment over this rank's images
                and all places, log(num_prototypes) where all clusters are used alike; "entropy": the mean one of a
                patch's assignment, 0 where it belongs to one cluster.
        """
        logits = rows["logits"]
        by_place = balanced_scores(logits.transpose(0, 1) / self.config.teacher_temperature, NUM_ROUNDS)
        clusters = by_place.transpose(0, 1)  # (B, N, K)
        scores = (rows["scores"] / self.config.temperature).log_softmax(2)
        prediction = -(take(clusters, rows["asked"]) * scores).sum(2).mean()
        clustering = -(clusters * (logits / self.config.temperature).log_softmax(2)).sum(2).mean()
        entropies = {
            "mean_entropy": torch.special.entr(clusters.mean((0, 1))).sum(),
            "entropy": torch.special.entr(clusters).sum(2).mean(),
        }
        return {"loss": prediction + clustering, "prediction": prediction, "clustering": clustering, **entropies}

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """All tokens, after the last norm."""
        return encode_visible(require_vit(encoder, "CAPI"), images)

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The mean of the patch tokens."""
        return mean_features(self.encoder, images)

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows: not at all, then fastest, then slower and slower."""
        follow(self.encoder, self.student, self.teacher_momentum(progress), taken)

    def teacher_momentum(self, progress: float) -> float:
        """The teacher's, after the step that brings the run so far."""
        warmup = self.config.warmup
        if progress < warmup:
            speed = progress / warmup
        else:
            speed = 0.5 * (1 + math.cos(math.pi * CUT * (progress - warmup) / (1 - warmup)))
        return 1 - (1 - self.config.momentum) * speed

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "2 n 3 h w"]:
        """Two rows: images, and the patches that the student sees."""
        images = batch.views[0][:NUM_PICTURED].float()
        visible = self.drawn(batch)[0][: len(images)]
        patches = patchify(images, self.patch_size)
        shown = torch.zeros_like(patches[..., :1]).scatter(1, visible[..., None], 1.0)
        return torch.stack([images, unpatchify(patches * shown, self.patch_size, self.grid)])


class Clusters(nn.Module):
    """Logits of clusters, linear in rows at unit length. Its weights are long, so that clusters are distinct at once.

    Args:
        width: of a row.
        count: how many clusters.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, width))
        self.bias = nn.Parameter(torch.zeros(count))

    def forward(self, rows: Float[Tensor, "*b d"]) -> Float[Tensor, "*b k"]:
        """In float32 at least."""
        wide = torch.promote_types(rows.dtype, torch.float32)
        with torch.autocast(rows.device.type, enabled=False):
            return F.linear(F.normalize(rows.to(wide), dim=-1), self.weight.to(wide), self.bias.to(wide))


class Predictor(nn.Module):
    """Queries at hidden places attend to the tokens of seen ones, block by block; what they end as is scored.

    Args:
        width: channels of the encoder's tokens, and its own.
        grid: how many patches stand above and beside each other.
        config: depth, heads and the number of scores.
    """

    angles: Float[Tensor, "n half"]
    """Of each patch: by how much pairs of a head's channels are turned."""

    def __init__(self, width: int, grid: tuple[int, int], config: CAPI.Config) -> None:
        super().__init__()
        heads = config.predictor_heads
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.register_buffer("angles", axial_angles(width // heads, *grid), persistent=False)
        self.blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(config.predictor_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.scores = Prototypes(width, config.num_prototypes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def forward(
        self, tokens: Float[Tensor, "b t d"], visible: Int[Tensor, "b v"], asked: Int[Tensor, "b m"]
    ) -> Float[Tensor, "b m k"]:
        """A score for each cluster, cosines in float32 at least.

        Args:
            tokens: the student's, of what it sees: prefix tokens, which are not turned, then patches.
            visible: of which patches they are.
            asked: of which patches is asked.
        """
        queries = self.mask_token.to(tokens.dtype).expand(*asked.shape, -1)
        num_prefix = tokens.shape[1] - visible.shape[1]
        of_keys = F.pad(self.angles[visible], (0, 0, num_prefix, 0))
        for block in self.blocks:
            queries = block(queries, tokens, self.angles[asked][:, None], of_keys[:, None])
        return self.scores(self.norm(queries))


class CrossBlock(nn.Module):
    """A transformer's block whose attention looks at other tokens only, pre-norm, without biases.

    Args:
        width: channels.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.heads = heads
        self.norm1, self.norm2 = norm(width), norm(width)
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.mlp = Mlp(width, 4 * width, bias=False)

    def forward(
        self,
        queries: Float[Tensor, "b m d"],
        tokens: Float[Tensor, "b t d"],
        of_queries: Float[Tensor, "b 1 m half"],
        of_keys: Float[Tensor, "b 1 t half"],
    ) -> Float[Tensor, "b m d"]:
        """The queries, changed by what they find in the tokens.

        Args:
            queries: of hidden patches.
            tokens: of seen ones.
            of_queries: by which angles all heads turn their queries.
            of_keys: and their keys.
        """
        parts = (self.query(self.norm1(queries)), self.key(tokens), self.value(tokens))
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        found = F.scaled_dot_product_attention(turned(query, of_queries), turned(key, of_keys), value)
        queries = queries + self.proj(found.transpose(1, 2).flatten(2))
        return queries + self.mlp(self.norm2(queries))
