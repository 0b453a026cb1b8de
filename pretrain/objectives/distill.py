"""Distillation: small encoders that see as a large, fixed one does (Ranzinger et al. 2023, arXiv:2312.06709).

DINOv2 (Oquab et al. 2023, arXiv:2304.07193, section 5) trains its smaller models by the frozen largest one, and they
become better than trained alone, by the heads that this one was trained with. Here the teacher can be any encoder, and
has none: so its features are matched, as in AM-RADIO (section 3). Teacher and students see the same view of an image.
With c the teacher's class token (the mean of its patches, where it has none) and p_i its patch tokens, each channel
standardised (``networks.fixed.standardized``), and f(x), g(x_i) what linear layers make of the student's,

    L = sum over students of w_c (1 - cos(f(x), c)) + w_p mean over i of
        (0.9 (1 - cos(g(x_i), p_i)) + 0.1 smooth-L1(g(x_i) - p_i)).

Where a student's patches lie on another grid, the teacher's are resampled to it (bilinear, smoothed where they become
fewer). The loss is a mean over samples, so neither ranks nor micro-batches change it. Each further student begins, and
learns, as it would alone: nothing of one enters another, as long as gradients are not clipped.

What differs from AM-RADIO: one teacher, linear layers in place of its adaptors of two, and the standardised channels.
From DINOv2: no head with outputs stands between features and loss, there are no small views, and no average of the
student's weights is kept.

Short runs want views of nearly whole images and a high rate (benchmarks/results/distill.md).

To expect: by DINOv2's own losses, its ViT-L/14 distilled from its ViT-g/14 on 142 million images: 86.3 % linear probe
on ImageNet-1k.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.losses.self_distillation import feature_distances
from eyespot.pretrain.networks.encoders import EncoderConfig, Tokens, last_tokens, make_encoder
from eyespot.pretrain.networks.eval_mode import at_rest
from eyespot.pretrain.networks.fixed.fixed_teacher import FixedTeacher, TeacherConfig
from eyespot.pretrain.networks.fixed.standardized import Standardized
from eyespot.pretrain.objective import About, Objective, one_sized, require_still, still
from eyespot.pretrain.optim.unread_parameters import freeze_unread
from eyespot.pretrain.skipped_step import Taken

_FLAGS = ("small_stem", "checkpointing")
_NUMBERS: dict[str, type] = {"patch_size": int, "drop_path": float}
"""Both of a further student, in the words of ``objective.students``."""


class Distill(Objective):
    """Gives class and patch tokens as a fixed teacher does, after a linear layer; one student or several."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """AM-RADIO's weights; views are whole images, mostly."""

        about: ClassVar = About(
            family="joint embedding",
            task="the features of a fixed, larger teacher",
            paper="Ranzinger et al.",
            year=2023,
            link="arXiv:2312.06709",
            needs="a trained encoder as teacher",
            expected="DINOv2, by its own losses: ViT-L/14 from ViT-g/14, 142 million images, linear: 86.3 %",
        )

        teacher: TeacherConfig = field(default_factory=TeacherConfig)
        """Who teaches."""
        students: tuple[str, ...] = ()
        """Further students beside the run's encoder, each NAME=ARCHITECTURE, and what differs from timm's:
        conv=resnet18,small_stem or tiny=vit_tiny_patch16_224,patch_size=4. All learn from one look of the teacher."""
        class_weight: Annotated[float, Ge(0)] = 1.0
        """What the class token counts; 0 = it is not asked."""
        patch_weight: Annotated[float, Ge(0)] = 1.0
        """What the patch tokens count; 0 = they are not asked, which costs less."""
        smooth_share: Annotated[float, Ge(0), Le(1)] = 0.1
        """Share of the smooth L1 distance in what patches count; the rest is their cosine."""
        view: RandomView = RandomView(scale=(0.4, 1.0))  # noqa: RUF009 - frozen
        """How the view is made that teacher and students see."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            if not self.class_weight and not self.patch_weight:
                raise UserError("objective.class_weight 0.0: nothing is learned, for patch_weight is 0, too; raise one")
            self.further_encoders(1)

        def further_encoders(self, image_size: int) -> dict[str, EncoderConfig]:
            """The further students by name."""
            found: dict[str, EncoderConfig] = {}
            for text in self.students:
                name, encoder = _student(text, image_size)
                if name in found:
                    raise UserError(f"objective.students {text!r}: another student is called {name}; rename one")
                found[name] = encoder
            return found

        def build(self, encoder: nn.Module, image_size: int) -> "Distill":
            """The students, ``encoder`` first, and their teacher; any encoder that hands out its feature map."""
            return Distill(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        require_still(config.view)
        self.config, self.encoder, self.image_size = config, encoder, image_size
        with _drawn_apart(offset=1):  # a random one of the student's kind is another one
            self.teacher = FixedTeacher(config.teacher, image_size)
        with at_rest(self.teacher):
            width = _look(self.teacher.encoder, image_size).patches.shape[1]
        self.of_classes, self.of_patches = Standardized(width), Standardized(width)
        self.head = Projections(config, _width(encoder, image_size), width)
        self.students, self.student_heads = nn.ModuleDict(), nn.ModuleDict()
        for name, student in config.further_encoders(image_size).items():
            with _drawn_apart():
                try:
                    self.students[name] = further = make_encoder(student)
                except UserError as error:
                    raise UserError(f"objective.students, {name}: {error}") from error
                self.student_heads[name] = Projections(config, _width(further, image_size), width)
            freeze_unread(further, self.read, image_size)

    def views(self) -> ViewSpec:
        """One view, for all."""
        return one_sized(self.config.view, self.image_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: 0 where all say what the teacher says; at first about w_c + 0.9 w_p or more for each student.

        Returns:
            "class_loss", "patch_loss" of the run's encoder, unweighted; and NAME/class_loss, NAME/patch_loss of others;
            none of what has no weight.
        """
        view, scalars, losses = still(batch.views[0]), dict[str, Tensor](), list[Tensor]()
        classes_asked, maps_asked = self.goals(view)
        for prefix, student, head in self._students():
            classes, patches = head(last_tokens(student, view)[-1])
            if classes is not None:
                distances = feature_distances(classes, classes_asked)
                losses.append(self.config.class_weight * distances)
                scalars[f"{prefix}class_loss"] = distances.detach().mean()
            if patches is not None:
                maps = resampled(maps_asked, patches.shape[1:3])
                distances = feature_distances(patches, maps, self.config.smooth_share)
                losses.append(self.config.patch_weight * distances)
                scalars[f"{prefix}patch_loss"] = distances.detach().mean()
        of_samples = torch.stack(losses).sum(0)
        self.note_losses(lambda: of_samples)
        return {"loss": of_samples.mean(), **scalars}

    def goals(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d g k"]]:
        """The teacher's class tokens and patches, standardised; as they are where they have no weight."""
        tokens = self.teacher.tokens(images)
        classes, patches = summary(tokens), tokens.patches
        if self.config.class_weight:
            classes = self.of_classes(classes, noted=self.in_step)
        if self.config.patch_weight:
            patches = self.of_patches(patches.movedim(1, -1), noted=self.in_step).movedim(-1, 1)
        return classes, patches

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """What is known of the teacher's channels grows."""
        self.of_classes.after_step(taken)
        self.of_patches.after_step(taken)

    def after_skip(self) -> None:
        """What was seen in a step that was not taken is forgotten."""
        self.of_classes.after_skip()
        self.of_patches.after_skip()

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """Class token and patches, those that have a weight."""
        tokens, config = last_tokens(encoder, images)[-1], self.config
        asked = [(summary(tokens), config.class_weight), (tokens.patches.flatten(1), config.patch_weight)]
        return torch.cat([each for each, weight in asked if weight], 1)

    def _students(self) -> Iterator[tuple[str, nn.Module, nn.Module]]:
        """Prefix of its metrics, encoder and head of each."""
        yield "", self.encoder, self.head
        for name, encoder in self.students.items():
            yield f"{name}/", encoder, self.student_heads[name]


class Projections(nn.Module):
    """From a student's tokens to vectors of the teacher's width, a linear layer each for class token and patches.

    Args:
        config: which of them has a weight.
        width: of the student.
        teacher_width: of the teacher.
    """

    def __init__(self, config: Distill.Config, width: int, teacher_width: int) -> None:
        super().__init__()
        self.classes = nn.Linear(width, teacher_width) if config.class_weight else None
        self.patches = nn.Linear(width, teacher_width) if config.patch_weight else None

    def forward(self, tokens: Tokens) -> tuple[Float[Tensor, "b d"] | None, Float[Tensor, "b h w d"] | None]:
        """Of the class token (the mean of the patches, where there is none), and of the patches at their places."""
        classes = None if self.classes is None else self.classes(summary(tokens))
        return classes, None if self.patches is None else self.patches(tokens.patches.permute(0, 2, 3, 1))


def summary(tokens: Tokens) -> Float[Tensor, "b d"]:
    """The class token, or the mean of the patches where there is none."""
    return tokens.patches.mean((2, 3)) if tokens.cls is None else tokens.cls


def resampled(maps: Float[Tensor, "b d h w"], grid: tuple[int, ...]) -> Float[Tensor, "b g k d"]:
    """A teacher's patch tokens on a student's grid: bilinear, smoothed where they become fewer; in float32 at least.

    Two products with small matrices: torch's own (2.14, antialias) repeats the first row where one column is left.
    """
    if maps.shape[2:] == tuple(grid):
        return maps.permute(0, 2, 3, 1)
    with torch.autocast(maps.device.type, enabled=False):
        wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
        down, across = (_triangles(*sides, wide) for sides in zip(maps.shape[2:], grid, strict=True))
        return torch.einsum("gi,kj,bdij->bgkd", down, across, wide)


def _triangles(source: int, target: int, like: Tensor) -> Float[Tensor, "t s"]:
    """Shares of ``source`` places in each of ``target``: as wide as two places of the coarser of both grids."""
    scale = source / target
    places, middles = (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5 for n in (source, target))
    shares = (1 - (places - scale * middles[:, None]).abs() / max(scale, 1.0)).clamp_min(0)
    return shares / shares.sum(1, keepdim=True)


@contextmanager
def _drawn_apart(offset: int = 0) -> Iterator[None]:
    """As where a run begins: what is drawn here takes nothing from what follows, and hangs on nothing before it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch.initial_seed() + offset)
        yield


def _look(encoder: nn.Module, image_size: int) -> Tokens:
    return last_tokens(encoder, next(encoder.parameters()).new_zeros(1, 3, image_size, image_size))[-1]


def _width(encoder: nn.Module, image_size: int) -> int:
    with at_rest(encoder):
        return _look(encoder, image_size).patches.shape[1]


def _student(text: str, image_size: int) -> tuple[str, EncoderConfig]:
    """Name and encoder out of "conv=resnet18,small_stem"."""
    what, (name, _, rest) = f"objective.students {text!r}", text.partition("=")
    architecture, *settings = rest.split(",")
    if not (name.isidentifier() and name.islower() and architecture):
        raise UserError(f"{what}: write NAME=ARCHITECTURE, the name in small letters: conv=resnet18,small_stem")
    if hasattr(nn.ModuleDict, name):
        raise UserError(f"{what}: {name} means something else to torch; choose another name")
    if name == "ema":
        raise UserError(f"{what}: RUN@ema is the average of the encoder's weights (--optim.ema); choose another name")
    asked: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if setting in _FLAGS:
            asked[key] = True
        elif key not in _NUMBERS:
            raise UserError(f"{what}: knows no {setting!r}; there are {', '.join([*_FLAGS, *_NUMBERS])}")
        else:
            try:
                asked[key] = _NUMBERS[key](value)
            except ValueError as error:
                raise UserError(f"{what}: {key} {value!r} is no number; write {key}=4, say") from error
    try:
        return name, EncoderConfig(name=architecture, image_size=image_size, **asked)
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
