"""MaskedSelfDistillation: a student that sees large views with holes and small ones, a slow teacher that sees all.

What iBOT (Zhou et al. 2021, arXiv:2111.07832), DINOv2 (Oquab et al. 2023, arXiv:2304.07193) and DINOv3 (Siméoni et al.
2025, arXiv:2508.10104) share: the views, which patches are hidden from the student, two encoders with their heads, and
how the teacher follows. A method says what is made of the teacher's scores, and what the loss is.

Of a large view patches are hidden with a probability, and then a share of them that is drawn between two ends; both are
drawn for each view of each sample from the sample's own stream, so masks are the same on any number of ranks. They lie
in blocks (``patch_masks.block_order``). Where a patch is hidden the student sees a learned token, at its place.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, cast

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.token_encoders import all_tokens, encode_with_holes, require_tokens
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.patch_masks import block_order
from eyespot.pretrain.networks.ema_teacher import cosine_momentum, follow, make_steady_teacher, make_teacher
from eyespot.pretrain.networks.multi_crop import CROP_ROWS, NUM_LARGE, accept_crops, pictured_crops
from eyespot.pretrain.networks.prototypes import PrototypeHead
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.skipped_step import Taken, if_taken

ShareOfRun = Annotated[float, Ge(0), Le(1), "is a share of the run, so it must lie in 0..1"]
Temperature = Annotated[float, Gt(0)]
MaskRatio = Annotated[float, Gt(0), Le(1)]

NUM_RECTANGLES = 10
"""That are drawn for each view; what they leave missing is hidden patch by patch."""
_VIEW = RandomView(scale=(0.32, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2)


@dataclass(kw_only=True, slots=True, frozen=True)
class Masks:
    """Which patches of each large view the student does not see."""

    places: Int[Tensor, "v b m"]
    """Numbers of those patches that may be hidden, row by row: as many as can be of any view."""
    hidden: Bool[Tensor, "v b m"]
    """Which of these are, the last ones."""

    def whole(self, num_patches: int) -> Bool[Tensor, "v b n"]:
        """Of every patch whether it is hidden."""
        shown = self.hidden.new_zeros((*self.hidden.shape[:2], num_patches))
        return shown.scatter(2, self.places, self.hidden)


@dataclass(kw_only=True, slots=True, frozen=True)
class Seen:
    """What an encoder makes of views, after its last norm."""

    classes: Float[Tensor, "v b d"]
    """Class tokens, of the large views first."""
    patches: Float[Tensor, "s b n d"]
    """Patch tokens of the large views."""


class MaskedSelfDistillation(Objective):
    """Student and slow teacher, both vision transformers with a head for class tokens and one for patches.

    Args:
        config: the method's numbers.
        encoder: a timm vision transformer with a class token.
        image_size: height and width of the large views, pixels.
        class_head: from class tokens to scores.
        patch_head: from patch tokens to scores; may be the same.

    Raises:
        UserError: the encoder is of another kind, or cannot see small views.
    """

    picture_rows: ClassVar[tuple[str, ...]] = (CROP_ROWS[0], "what the student sees of it", *CROP_ROWS[1:])
    only_encodes: ClassVar[bool] = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """What both papers have, with DINOv2's views."""

        num_small: Annotated[int, Ge(0)] = 8
        """Small views of each image, beside the two large ones."""
        mask_chance: Annotated[float, Gt(0), Le(1)] = 0.5
        """How often patches of a large view are hidden from the student."""
        mask_ratios: tuple[MaskRatio, MaskRatio] = (0.1, 0.5)
        """Least and largest share of its patches that then are."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of a head's two hidden layers."""
        student_temperature: Temperature = 0.1
        """What the student's scores are divided by."""
        warmup: ShareOfRun = 30 / 800
        """Share of the run in which the teacher's temperature changes, linearly."""
        frozen: ShareOfRun = 1 / 800
        """Share of the run for which the outputs' directions stay as they were drawn."""
        momentum: Annotated[float, Ge(0), Le(1)] = 0.996
        """The teacher's momentum at the first step, 0..1; it rises to 1."""
        first: RandomView = replace(_VIEW, blur=1.0)  # noqa: RUF009 - frozen
        """How one large view is made."""
        second: RandomView = replace(_VIEW, blur=0.1, solarize=0.2)  # noqa: RUF009 - frozen
        """How the other large view is made."""
        small: RandomView = replace(_VIEW, size=96, scale=(0.05, 0.32), blur=0.5)  # noqa: RUF009 - frozen
        """How the small views are made."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            if not self.mask_ratios[0] <= self.mask_ratios[1]:
                raise UserError(f"objective.mask_ratios {self.mask_ratios}: must have the smaller share first")

    progress: Float[Tensor, ""]
    """Share of the run that is done."""

    def __init__(
        self,
        config: Config,
        encoder: nn.Module,
        image_size: int,
        class_head: PrototypeHead,
        patch_head: PrototypeHead,
    ) -> None:
        super().__init__()
        student = require_tokens(encoder, type(self).__name__)
        accept_crops(student, config.num_small, config.small)
        self._shared, self.image_size = config, image_size
        self.student, self.encoder = student, make_steady_teacher(student)  # the teacher is the better one of both
        self.mask_token = nn.Parameter(torch.zeros(1, 1, student.embed_dim))
        self.student_head, self.head = class_head, make_teacher(class_head)
        is_shared = patch_head is class_head
        self.student_patch_head = None if is_shared else patch_head
        self.patch_head = None if is_shared else make_teacher(patch_head)
        self.register_buffer("progress", torch.zeros(()))

    def views(self) -> ViewSpec:
        """Two large views, then the small ones."""
        config = self._shared
        return sized_views(self.image_size, config.first, config.second, *[config.small] * config.num_small)

    def grid(self, batch: Batch) -> tuple[int, int]:
        """Rows and columns of patches of the large views."""
        height, width = batch.views[0].shape[-2:]
        patch = cast("tuple[int, int]", self.student.patch_embed.patch_size)
        return height // patch[0], width // patch[1]

    def masks(self, batch: Batch) -> Masks:
        """Which patches of the large views are hidden: at least one, where any is."""
        count, (least, most), grid = len(batch), self._shared.mask_ratios, self.grid(batch)
        num_patches = grid[0] * grid[1]
        most_hidden = max(1, int(num_patches * most))
        parts = (1, 1, 4 * NUM_RECTANGLES, num_patches)
        numbers = batch.uniforms("masked self-distillation/masks", NUM_LARGE * sum(parts))
        chance, share, blocks, ties = numbers.view(count * NUM_LARGE, -1).split(parts, dim=1)
        wanted = (num_patches * (least + (most - least) * share)).long().clamp(1, most_hidden)
        wanted = torch.where(chance < self._shared.mask_chance, wanted, 0)
        places = block_order(blocks, ties, grid, wanted)[:, -most_hidden:]
        hidden = torch.arange(most_hidden, device=places.device) >= most_hidden - wanted
        places, hidden = (part.view(count, NUM_LARGE, -1).transpose(0, 1) for part in (places, hidden))
        return Masks(places=places, hidden=hidden)

    @torch.no_grad()
    def seen_by_teacher(self, batch: Batch) -> Seen:
        """The large views, whole."""
        tokens = all_tokens(self.encoder, torch.cat(batch.views[:NUM_LARGE]))
        tokens = tokens.unflatten(0, (NUM_LARGE, -1))
        return Seen(classes=tokens[:, :, 0], patches=tokens[:, :, self.student.num_prefix_tokens :])

    def seen_by_student(self, batch: Batch, masks: Masks) -> Seen:
        """The large views, with holes, and the small ones, in one pass each."""
        large, small = batch.views[:NUM_LARGE], batch.views[NUM_LARGE:]
        hidden, stretches = masks.whole(math.prod(self.grid(batch))).flatten(0, 1), self.stretches(batch)
        of_large, of_small = (None, None) if stretches is None else stretches.tensor_split([NUM_LARGE])
        stretch = None if of_large is None else of_large.flatten()
        tokens = encode_with_holes(self.student, torch.cat(large), self.mask_token, hidden, stretch)
        tokens = tokens.unflatten(0, (NUM_LARGE, -1))
        classes = tokens[:, :, 0]
        if small:
            stretch = None if of_small is None else of_small.flatten()
            seen = all_tokens(self.student, torch.cat(small), stretch)[:, 0]
            classes = torch.cat([classes, seen.unflatten(0, (len(small), -1))])
        return Seen(classes=classes, patches=tokens[:, :, self.student.num_prefix_tokens :])

    def stretches(self, batch: Batch) -> Float[Tensor, "v b"] | None:
        """What the student's coordinates of each view's patches are multiplied by; None = nothing."""
        return None

    def read(self, encoder: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        """All tokens, after the last norm."""
        return all_tokens(require_tokens(encoder, type(self).__name__), images)

    def teacher_momentum(self, progress: float) -> float:
        """The teacher's, after the step that brings the run so far."""
        return cosine_momentum(self._shared.momentum, progress)

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows."""
        momentum = self.teacher_momentum(progress)
        follow(self.encoder, self.student, momentum, taken)
        follow(self.head, self.student_head, momentum, taken)
        if self.patch_head is not None and self.student_patch_head is not None:
            follow(self.patch_head, self.student_patch_head, momentum, taken)
        self.progress.copy_(if_taken(taken, torch.full_like(self.progress, progress), self.progress))

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns c h w"]:
        """The views of a few images, and what the student sees of the first: hidden patches are gray."""
        rows, grid = pictured_crops(batch.views), self.grid(batch)
        hidden = self.masks(batch).whole(math.prod(grid))[0, :NUM_PICTURED].unflatten(1, grid)[:, None]
        sides = (side // count for side, count in zip(rows.shape[-2:], grid, strict=True))
        for dim, side in zip((2, 3), sides, strict=True):
            hidden = hidden.repeat_interleave(side, dim)
        return torch.cat([rows[:1], rows[:1].masked_fill(hidden, 0), rows[1:]])


def chosen(rows: Float[Tensor, "v b n d"], places: Int[Tensor, "v b m"]) -> Float[Tensor, "v b m d"]:
    """The rows at these places."""
    return rows.gather(2, places[..., None].expand(*places.shape, rows.shape[3]))
