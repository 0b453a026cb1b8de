"""DINOv3 (Siméoni et al. 2025, arXiv:2508.10104).

DINOv2's objective with constant schedules, positions that are rotations (RoPE), and Gram anchoring: over long runs
class tokens get better while patch tokens of one image grow alike, wherever they lie. So a late stage holds their
similarities where an earlier teacher had them, the Gram teacher. With X and G the unit vectors of the n patches of a
large view, of the student and of the Gram teacher (equations 1 to 3),

    L = L_DINO + L_iBOT + w_K L_KoLeo + w_G L_Gram
    L_Gram = mean over large views of |X X^T - G G^T|_F^2 / n^2.

The Gram teacher is the slow teacher as it was early in the run (``gram_taken``), or somebody's weights
(``gram_weights``); it does not follow. Its loss counts from ``gram_from`` on, and every ``gram_every`` from there on it
becomes what the slow teacher is by then, ``gram_refreshes`` times. It sees the large views ``gram_scale`` times as
large, and its tokens are brought to the student's grid (bicubic): its similarities are then smoother than any that were
seen at the student's size. The other two losses are of ``families/balanced_self_distillation``, over all ranks and
micro-batches. Gram's is of each image on its own, so it is, too.

Positions: patches lie between -1 and 1, and for the student that box grows or shrinks by a factor from [1/2, 2],
log-uniform (section 3.2), so that the encoder works at many resolutions.

All of it is one run: the Gram teacher is part of each checkpoint, and stages begin at a share of the run. So that the
data pipeline need not change in its course, all large views of a run are made at the Gram teacher's size, and
shrunk (bicubic, antialiased) for student and teacher. The high-resolution stage is a second run, which goes on with all
of the first one's state: ``--resume RUN/checkpoints/step-N --run-dir OTHER --encoder.image-size 512``, and with
``sizes`` its steps see views of several sizes, which are drawn for each step.

What differs from the authors' code: boxes are drawn for each view of each sample, theirs for all of a GPU; the Gram
teacher sees the student's colours, theirs the image undistorted, and its loss begins at once, theirs rises for 1,000
steps. KoLeo's neighbours are sought among all rows, theirs among 16. Class tokens and patches have heads of the same
width, and small views no last norm of their own; small views do not count less towards the end. What else differs is
said of DINOv2 (``objectives/dinov2.py``).

To expect: ViT-L/16 on ImageNet-1k alone, 100 epochs, without Gram stage: 83.3 % linear probe, 82.2 % kNN (the authors'
vitl_im1k_lin834.yaml); ViT-7B/16, 1.7 billion images: 88.4 % (table 5).
"""

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.balanced_self_distillation import BalancedSelfDistillation
from eyespot.pretrain.families.contrastive_objective import Rows
from eyespot.pretrain.families.masked_self_distillation import ShareOfRun
from eyespot.pretrain.families.token_encoders import all_tokens, can_stretch
from eyespot.pretrain.losses.self_distillation import gram_distance, on_grid
from eyespot.pretrain.networks.ema_teacher import follow, make_teacher
from eyespot.pretrain.networks.encoders import vary_sizes
from eyespot.pretrain.networks.multi_crop import NUM_LARGE
from eyespot.pretrain.objective import About
from eyespot.pretrain.skipped_step import Taken

_VIEW = RandomView(scale=(0.32, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2)


class Stage(NamedTuple):
    """Where a run is."""

    anchored: bool
    """Whether the Gram loss counts."""
    copies: int
    """How often the Gram teacher has become what the slow teacher was."""


class DINOv3(BalancedSelfDistillation):
    """Says what its slow teacher says; patches stay as similar to each other as they were to an earlier teacher."""

    only_encodes: ClassVar[bool] = False  # views are shrunk

    @dataclass(kw_only=True, slots=True)
    class Config(BalancedSelfDistillation.Config):
        """The authors' schedules (dinov3_vit7b16_gram_anchor.yaml), with the heads of vitl_im1k_lin834.yaml."""

        about: ClassVar = About(
            family="joint embedding",
            task="what a slow teacher says of other views and hidden patches, while patches stay as alike as they were",
            paper="Siméoni et al.",
            year=2025,
            link="arXiv:2508.10104",
            needs="a vision transformer, large batches",
            expected="ViT-L/16, ImageNet-1k, 100 epochs, linear: 83.3 %",
        )

        bottleneck_dim: Annotated[int, Ge(1)] = 256
        """Width of what is compared with the outputs' directions."""
        out_dim: Annotated[int, Ge(1)] = 65536
        """How many outputs each head has."""
        warmup: ShareOfRun = 100 / 1200
        """Share of the run in which the teacher's temperature changes, linearly."""
        frozen: ShareOfRun = 5 / 1200
        """Share of the run for which the outputs' directions stay as they were drawn."""
        momentum: Annotated[float, Ge(0), Le(1)] = 0.999
        """The teacher's momentum at the first step, 0..1."""
        final_momentum: Annotated[float, Ge(0), Le(1)] = 0.999
        """And at the run's end, 0..1: half a cosine between them."""
        box: Annotated[float, Ge(1), Le(1000)] = 2.0
        """Largest factor by which the student's coordinates of patches grow or shrink; 1 = they stay, as those that are
        learned must."""
        gram_from: ShareOfRun = 1000 / 1200
        """Share of the run after which the Gram loss counts; 1 = never, and there is no Gram teacher."""
        gram_weight: Annotated[float, Ge(0)] = 2.0
        """What it counts."""
        gram_taken: ShareOfRun = 200 / 1200
        """Share of the run after which the Gram teacher is what the slow teacher is then; 0 = it is what the run began
        with: start.model, say."""
        gram_weights: Path | None = None
        """The Gram teacher's weights in place of that: of a file of weights, a run, a checkpoint or a release; RUN@ema
        = the average of a run's weights."""
        gram_every: ShareOfRun = 10 / 1200
        """Share of the run from gram_from, and from one to the next time, to when it becomes the slow teacher again."""
        gram_refreshes: Annotated[int, Ge(0), Le(1000)] = 3
        """How often it does."""
        gram_scale: Annotated[float, Ge(1), Le(8)] = 2.0
        """How many times as large as the student the Gram teacher sees the large views."""
        large_sizes: tuple[int, ...] = ()
        """Sizes of the large views, pixels, one of which is drawn for each step; () = that of the encoder."""
        small_sizes: tuple[int, ...] = ()
        """Sizes of the small views, one for each of large_sizes; () = that of small."""
        first: RandomView = replace(_VIEW, blur=1.0)  # noqa: RUF009 - frozen
        """How one large view is made."""
        second: RandomView = replace(_VIEW, blur=0.1, solarize=0.2)  # noqa: RUF009 - frozen
        """How the other large view is made."""
        small: RandomView = replace(_VIEW, size=112, scale=(0.05, 0.32), blur=0.5)  # noqa: RUF009 - frozen
        """How the small views are made."""

        def __post_init__(self) -> None:
            BalancedSelfDistillation.Config.__post_init__(self)
            if self.gram_weights is None and self.gram_from < self.gram_taken:
                raise UserError(
                    f"objective.gram_taken {self.gram_taken}: must not come after gram_from {self.gram_from}, when the"
                    " Gram teacher is asked; lower it"
                )
            if self.gram_weights is not None and self.gram_from == 1:
                raise UserError(
                    f"objective.gram_weights {self.gram_weights}: at gram_from 1 nobody asks the Gram teacher; lower it"
                )
            if len(self.small_sizes) not in (0, len(self.large_sizes)):
                raise UserError(
                    f"objective.small_sizes {self.small_sizes}: must be as many as large_sizes {self.large_sizes}"
                )

        def build(self, encoder: nn.Module, image_size: int) -> "DINOv3":
            """DINOv3 around ``encoder``, a timm vision transformer with a class token, of either kind."""
            return DINOv3(self, encoder, image_size)

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__(config, encoder, image_size)
        self.config = config
        if config.box > 1 and not can_stretch(self.student):
            raise UserError(
                f"objective.box {config.box}: {type(self.student).__name__}'s positions are no coordinates that could"
                " be stretched; set it to 1, or try vit_small_patch16_dinov3"
            )
        self._patch = int(self.student.patch_embed.patch_size[0])
        self._sizes = self._pairs_of_sizes()
        self.in_stages = config.gram_from < 1 or len(self._sizes) > 1
        self.gram_teacher: nn.Module | None = None
        if config.gram_from < 1:
            self.gram_teacher = make_teacher(self.encoder)
            if config.gram_weights is not None:
                self.given = {"objective.gram_weights": (config.gram_weights, self.gram_teacher)}
        if self.views().images[0].size != image_size:
            for part in filter(None, (self.student, self.encoder, self.gram_teacher)):
                vary_sizes(part)
        self._done: float | None = None

    def _pairs_of_sizes(self) -> list[tuple[int, int]]:
        config = self.config
        for field in ("large_sizes", "small_sizes"):
            for size in getattr(config, field):
                if size < 1 or size % self._patch:
                    fits = max(1, round(size / self._patch)) * self._patch
                    raise UserError(
                        f"objective.{field} {size}: is no multiple of the encoder's patches of {self._patch} pixels;"
                        f" try {fits}"
                    )
        large = config.large_sizes or (self.image_size,)
        return list(zip(large, config.small_sizes or [config.small.size] * len(large), strict=True))

    def views(self) -> ViewSpec:
        """Two large views, as large as the Gram teacher or the largest step sees them, then the small ones."""
        spec = super().views()
        for name, view in zip(("first", "second"), spec.images, strict=False):
            if view.size != self.image_size:
                raise UserError(
                    f"objective.{name}.size {view.size}: follows from encoder.image_size or large_sizes; leave it out"
                )
        large, small = max(large for large, _ in self._sizes), max(small for _, small in self._sizes)
        sizes = [self._gram_size(large)] * NUM_LARGE + [small] * self.config.num_small
        views = (replace(view, size=size) for view, size in zip(spec.images, sizes, strict=True))
        return replace(spec, views=tuple(views))

    def _gram_size(self, large: int) -> int:
        """Of what the Gram teacher sees where the student sees so many pixels; the same where there is none."""
        if self.config.gram_from == 1:
            return large
        return round(large * self.config.gram_scale / self._patch) * self._patch

    @property
    def done(self) -> float:
        """Share of the run that is done, as the host knows it: of a run that goes on, what its checkpoint says."""
        if self._done is None:
            self._done = _rounded(float(self.progress.cpu()))
        return self._done

    def stage_at(self, done: float) -> Stage:
        """Where a run is of which so much is done."""
        config, done = self.config, _rounded(done)
        if config.gram_from == 1:
            return Stage(anchored=False, copies=0)
        times = [config.gram_from + number * config.gram_every for number in range(1, config.gram_refreshes + 1)]
        if config.gram_weights is None and config.gram_taken:
            times.append(config.gram_taken)
        return Stage(anchored=done >= _rounded(config.gram_from), copies=sum(done >= _rounded(time) for time in times))

    def shrunk(self, batch: Batch) -> Batch:
        """The batch as student and teacher see it in this step."""
        place = 0
        if len(self._sizes) > 1:  # the same on all ranks, in all micro-batches, and after a resume
            place = random.Random(f"{batch.seed}/{self.done}").randrange(len(self._sizes))
        large, small = self._sizes[place]
        sizes = [large] * NUM_LARGE + [small] * (len(batch.views) - NUM_LARGE)
        return replace(batch, views=[_sized(view, size) for view, size in zip(batch.views, sizes, strict=True)])

    def stretches(self, batch: Batch) -> Float[Tensor, "v b"] | None:
        """Log-uniform between 1 / ``box`` and ``box``, of each view of each sample."""
        if self.config.box == 1:
            return None
        numbers = batch.uniforms("dinov3/box", len(batch.views)).T
        return self.config.box ** (2 * numbers - 1)

    def embed(self, batch: Batch) -> Rows:
        """As DINOv2's; in the Gram stage "gram" (B, 2), how far the similarities of each large view's patches are."""
        smaller = self.shrunk(batch)
        masks = self.masks(smaller)
        seen = self.seen_by_student(smaller, masks)
        rows = self.rows_of(seen, masks)
        if self.stage_at(self.done).anchored:
            goals = self.gram_goals(batch, smaller)
            rows["gram"] = gram_distance(seen.patches, goals).T
        return rows

    @torch.no_grad()
    def gram_goals(self, batch: Batch, smaller: Batch) -> Float[Tensor, "v b n d"]:
        """The Gram teacher's tokens of the large views, at the places of the student's patches.

        Args:
            batch: as the data pipeline made it.
            smaller: as the student sees it.
        """
        assert self.gram_teacher is not None
        size = self._gram_size(smaller.views[0].shape[-1])
        images = torch.cat([_sized(view, size) for view in batch.views[:NUM_LARGE]])
        grid = (size // self._patch, size // self._patch)
        tokens = all_tokens(self.gram_teacher, images)[:, -grid[0] * grid[1] :]
        return on_grid(tokens, grid, self.grid(smaller)).unflatten(0, (NUM_LARGE, -1))

    @torch.no_grad()
    def targets(self, batch: Batch) -> Rows:
        """As DINOv2's."""
        return super().targets(self.shrunk(batch))

    def compare(self, rows: Rows) -> Rows:
        """As DINOv2's, and in the Gram stage "gram_loss", unweighted."""
        found = super().compare(rows)
        if "gram" not in rows:
            return found
        loss = rows["gram"].mean()
        return {**found, "loss": found["loss"] + self.config.gram_weight * loss, "gram_loss": loss.detach()}

    def teacher_momentum(self, progress: float) -> float:
        """Half a cosine from ``momentum`` to ``final_momentum``: constant, where they are the same."""
        first, last = self.config.momentum, self.config.final_momentum
        return last + (first - last) * (math.cos(math.pi * progress) + 1) / 2

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows; at some steps of a run the Gram teacher becomes what it is."""
        before, after = self.stage_at(self.done), self.stage_at(progress)
        if after != before or len(self._sizes) > 1:
            taken = taken if isinstance(taken, bool) else bool(taken.cpu())  # the host waits: what comes hangs on it
        super().after_step(progress, taken)
        if taken is False:
            return
        if self.gram_teacher is not None and after.copies > before.copies:
            follow(self.gram_teacher, self.encoder, 0.0)
        self._done = _rounded(progress)

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """The views of a few images, and what the student sees of the first: hidden patches are gray."""
        return super().picture(self.shrunk(batch))


def _rounded(share: float) -> float:
    """As ``progress``, single precision, has it: a stage begins at the same step in a run that goes on."""
    return float(np.float32(share))


def _sized(view: Float[Tensor, "b 3 _ _"], size: int) -> Float[Tensor, "b 3 h w"]:
    if view.shape[-1] == size:
        return view
    wide = torch.promote_types(view.dtype, torch.float32)
    return F.interpolate(view.to(wide), (size, size), mode="bicubic", antialias=True)
