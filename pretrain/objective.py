"""Objective: what is learned from a batch. One file per method; the trainer knows nothing else of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import AudioView, Clip, Pick, RandomView, View, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.networks.ema_teacher import average, make_teacher, rising_decay
from eyespot.pretrain.networks.encoders import EncoderConfig, features
from eyespot.pretrain.networks.memory_bank import SampleIds
from eyespot.pretrain.networks.towers.tower import Tower
from eyespot.pretrain.skipped_step import Taken

Family = Literal[
    "transformation",
    "reconstruction",
    "clustering",
    "contrast",
    "joint embedding",
    "metric",
    "text",
    "sound",
    "depth",
    "some labels",
    "labels",
]

FAMILIES: tuple[str, ...] = get_args(Family)
"""In the order in which people meet them."""


@dataclass(kw_only=True, slots=True, frozen=True)
class About:
    """One method's card."""

    family: Family
    task: str
    """What the encoder has to find out, in a few words: "which of four rotations was applied"."""
    paper: str
    """Authors, as they are cited: "Gidaris et al."."""
    year: int
    link: str
    """Where the paper is: "arXiv:1803.07728"."""
    needs: str = ""
    """What it asks of data or encoder beyond images: "labels", "a vision transformer"."""
    expected: str = ""
    """The paper's own number, with encoder, data and protocol: "ResNet-50, ImageNet-1k, 200 epochs, linear: 67.5 %"."""


Labels = Literal["none", "some", "all"]


class Objective(nn.Module, ABC):
    """A self-supervised method: encoder, heads, teachers and the loss, wrapped by the engine as one module.

    Randomness comes from ``batch.uniforms`` only (or from torch's generator, which the trainer seeds from the step and
    the place of the micro-batch): then a run repeats itself, on any number of ranks.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(ABC):
        """This method's numbers. Each has a docstring with its unit, and declares its range (see ``ranges``).

        ``__post_init__`` only validates; a method's own calls this one.
        """

        about: ClassVar[About]
        """Where the method comes from."""

        def __post_init__(self) -> None:
            check_ranges(self, "objective.")

        def needs_labels(self) -> Labels:
            """Of how many images the method must be told what is in them; where of some, the others' labels are -1."""
            return "none"

        @abstractmethod
        def build(self, encoder: nn.Module, image_size: int) -> "Objective":
            """The objective around a freshly made encoder that sees images of ``image_size`` pixels."""

        def further_encoders(self, image_size: int) -> dict[str, EncoderConfig]:
            """Encoders by name that it trains in ``students`` beside its own, of images of ``image_size`` pixels."""
            return {}

        def check_batch(self, batch_size: int) -> None:  # noqa: B027 - most methods can work with any
            """Whether the method can work with so many images per step, over all ranks.

            Raises:
                UserError: it cannot.
            """

    picture_rows: ClassVar[tuple[str, ...]] = ()
    """What the rows of ``picture`` show, from above: captions; empty = the views."""

    only_encodes: ClassVar[bool] = False
    """Encoders alone read the views, at most reordered or turned: under bf16 a GPU gets them so, in half the memory."""

    any_bands: ClassVar[bool] = False
    """Whether it learns from images of any number of bands: no step of it knows red, green and blue."""

    cuts_views: ClassVar[bool] = False
    """Whether the encoder sees parts of the views, not whole ones: they may then be larger than ``image_size``."""

    compiled: ClassVar[tuple[str, ...]] = ()
    """Methods that ``--compile`` compiles beside the modules: tensors in, tensors out."""

    undecayed: tuple[str, ...] = ()
    """Names of parameters that no weight decay reaches, beside vectors (see ``optimizers.parameter_groups``)."""

    slower: ClassVar[dict[str, float]] = {}
    """Of parts of it that learn at a share of the rate, that share by the part's name."""

    num_classes: int | None = None
    """How many classes it can tell apart: labels must lie below; None = any number."""

    chance: float | None = None
    """How often guessing answers its question right (see ``told``), 0..1; None = it asks none that has an answer."""

    embeds_frames: ClassVar[bool] = False
    """Whether its head says of each frame of a clip what there is to be compared (see ``embed_frames``)."""

    joint: ClassVar[tuple[str, str] | None] = None
    """The two kinds of view that its towers embed in one space, in the order of ``views()``: ("image", "text")."""

    scores_captions: ClassVar[bool] = False
    """Whether it says how likely an image's caption is (see ``caption_log_likelihood``)."""

    refresh_epochs: float | None = None
    """Epochs between two calls of ``refresh``, the first before the first step; inf = only that one; None = never."""

    refresh_samples: int | None = None
    """Of how many samples ``refresh`` is told, spread evenly over those of the run; None = of all."""

    refresh_view: View | None = None
    """What ``refresh_features`` is shown of each sample; None = the image's middle."""

    began: dict[str, str | int] | None = None
    """The file that its encoder's first weights are of, and how many tensors of it; None = they were drawn."""

    given: Mapping[str, tuple[Path, nn.Module]] = MappingProxyType({})
    """Further encoders that begin with weights of their own: by the setting that says so, the file and whose it is."""

    in_stages: bool = False
    """Whether what its passes compute changes in the course of a run: then they cannot be a CUDA graph."""

    taught: dict[str, str] | None = None
    """By whom its students are, where a fixed teacher does it: ``model``, ``origin``, ``loaded``, ``sha256``."""

    notes_losses: bool = False
    """Whether somebody wants to know the loss of each sample, the trainer of a mixture's sources."""

    sample_losses: Float[Tensor, " b"] | None = None
    """Of each sample of the last micro-batch, where that is wanted and its loss is their mean; None = it is not."""

    averages: tuple[nn.Module, float] | None = None
    """The encoder that learns and the decay of its average, the module ``averaged``; None = there is none."""

    image_size: int
    """Height and width of what the encoder sees, pixels."""

    encoder: nn.Module
    """What evaluation and release read: the EMA teacher's where the paper says so."""

    def prepare(self, ids: SampleIds) -> None:
        """Called once, before an engine takes the objective: what keeps something of each sample makes room for it.

        Args:
            ids: of all samples that the run learns from, ascending: a range where it learns from all there are, for
                they can be a billion. ``ids_tensor`` makes a tensor of either.

        Raises:
            UserError: they are too many or too few.
        """

    @abstractmethod
    def views(self) -> ViewSpec:
        """What the data pipeline must make of each sample."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of one micro-batch: {"loss": scalar, and other scalars to log}."""

    @property
    def in_step(self) -> bool:
        """Whether this forward pass is a training step's own, after which ``after_step`` or ``after_skip`` follows.

        What they need is set aside in such a pass only. A pass without gradient is somebody's look at the objective: it
        leaves nothing behind.
        """
        return torch.is_grad_enabled()

    def note_losses(self, losses: Callable[[], Float[Tensor, "b ..."]]) -> None:
        """Of a training step's forward pass, whose loss is the mean of these over samples and what each consists of.

        Args:
            losses: reckons them, where somebody wants to know.
        """
        if self.notes_losses and self.in_step:
            with torch.no_grad():
                found = losses()
                self.sample_losses = found.reshape(len(found), -1).mean(1)

    def told(self, batch: Batch) -> Float[Tensor, " b"]:
        """Of samples that the run has not seen the share of its questions, 0..1, that it answers; see ``chance``."""
        raise NotImplementedError(f"{type(self).__name__} asks nothing that has a right answer")

    def embed_frames(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t d"]:
        """What the head makes of each frame of clips; for methods that have ``embeds_frames``."""
        raise NotImplementedError(f"{type(self).__name__} embeds no frames")

    def embed_joint(self, kind: str, view: Tensor) -> Float[Tensor, "b d"]:
        """Unit vectors of views of one of ``joint``'s kinds: what is alike in that space belongs together."""
        raise NotImplementedError(f"{type(self).__name__} has one tower only")

    def towers(self) -> dict[str, Tower]:
        """What a method that has ``joint`` is beside its encoder, and how it is built: for releases, which hold it.

        Of the kind of view that is no image: the module of that name, here one of ``two_towers.make_tower``. A tower
        whose vectors are not in the space yet has a <kind>_projection of linear layers, with ReLU between them, as
        images have ``image_projection``; the unit vectors of what that gives are ``embed_joint``'s. Where the method
        learns what cosines are multiplied by, that is ``scale()``, and what is added to them is ``bias``.
        """
        if self.joint is None:
            return {}
        tower: Any = self.get_submodule(self.joint[1])
        return {self.joint[1]: tower.built_by}

    def caption_log_likelihood(self, batch: Batch) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
        """Of each caption, given its image, log p, nats; and of how many tokens that is the sum.

        For methods that have ``scores_captions``. A text's first token is given, the token that ends it is asked.
        """
        raise NotImplementedError(f"{type(self).__name__} reads no captions")

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of whole images: the class token, or the pooled features where there is none."""
        return features(self.encoder, images)

    def read(self, encoder: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """What the loss reads of a look of the student's encoder at images; all else of the encoder is not trained."""
        return features(encoder, images)

    def refresh_features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """What ``refresh`` is told of images: what ``encode`` makes of them, where a method says nothing else."""
        return self.encode(images)

    def refresh(self, features: Float[Tensor, "n d"] | None) -> None:
        """Called before a step, every ``refresh_epochs``, with the ``refresh_features`` of samples at that moment.

        It is no part of the step before, so a checkpoint of that step leads to it again. What it finds out goes into
        buffers, the same on all ranks (``collectives.take_from_first``).

        Args:
            features: of the images' middles, single precision, on the CPU; a row for each of ``prepare``'s ids, or of
                ``refresh_samples`` of them, in their order. On rank 0; None on the others.
        """

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """Called after each optimiser step: teachers follow, queues take what waited for them.

        Args:
            progress: share of the run that is done, 0..1.
            taken: True; or, where no host waits for the device, a tensor there: where it is False the step was skipped,
                and what this call leaves behind is what ``after_skip`` does (see ``skipped_step.if_taken``).
        """

    def keep_average(self, learner: nn.Module, decay: float) -> None:
        """From here on ``averaged`` is an average of the weights of ``learner``, beside whatever teacher there is."""
        self.averaged, self.averages = make_teacher(learner), (learner, decay)

    def finish_step(self, done: int, steps: int, taken: Taken = True) -> None:
        """``after_step`` of the step that makes ``done`` of ``steps``; and the average takes it in."""
        self.after_step(done / steps, taken)
        if self.averages is not None:
            learner, decay = self.averages
            average(self.averaged, learner, rising_decay(decay, done), taken)

    def after_skip(self) -> None:
        """Called instead where the host knows that the step was not taken: something was not finite, or it was cut."""

    def picture(self, batch: Batch) -> Float[Tensor, "rows columns c h w"] | None:
        """A grid of images worth looking at, in the views' normalised values, without gradient; None = nothing.

        By default the views of a few samples, where there is more than one view; of clips the frames below each other.
        """
        seen = self.views().images_among(batch.views)
        images = [view[:NUM_PICTURED].float() for view in seen]
        rows = [row for view in images for row in ([view] if view.ndim == 4 else view.unbind(1))]
        if len(rows) < 2 or len({row.shape for row in rows}) > 1:
            return None
        return torch.stack(rows)


def require_clip(view: RandomView, pick: Pick = "even", least: int = 2) -> Clip:
    """The clip of ``objective.view``, if it has the frames that a method needs.

    Args:
        view: the config's.
        pick: how they must be chosen.
        least: how many there must be.

    Raises:
        UserError: it asks for an image, or for other frames.
    """
    clip = view.clip
    if clip is None:
        raise UserError(f"objective.view.clip None: this method learns from videos; set it to Clip({least}) or more")
    if clip.pick != pick:
        raise UserError(f"objective.view.clip.pick {clip.pick!r}: this method needs {pick!r}")
    if clip.frames < least:
        raise UserError(f"objective.view.clip.frames {clip.frames}: this method needs {least} or more")
    return clip


def in_one_pass(image_size: int, **views: RandomView) -> ViewSpec:
    """Views of several kinds that go through the encoder together, so all are of one size.

    Args:
        image_size: of a view that has no size of its own, pixels.
        views: the config's, by its fields.

    Raises:
        UserError: their sizes differ.
    """
    spec = sized_views(image_size, *views.values())
    sizes = {name: view.size for name, view in zip(views, spec.images, strict=True)}
    for name, view in views.items():
        other = next((other for other, size in sizes.items() if size != sizes[name]), None)
        if view.size and other:
            raise UserError(
                f"objective.{name}.size {view.size}: goes through the encoder together with objective.{other}, whose"
                f" size is {sizes[other]}; set them alike, or leave both out"
            )
    return spec


def require_still(view: RandomView) -> None:
    """Whether ``objective.view`` shows one image: of a video one frame.

    Raises:
        UserError: it shows more.
    """
    if view.clip is not None and view.clip.frames != 1:
        raise UserError(
            f"objective.view.clip.frames {view.clip.frames}: this method sees one frame of a video; set it to 1"
        )


def require_own_sound(view: RandomView, sound: AudioView) -> None:
    """Whether ``objective.view`` shows one image, and ``objective.sound`` what is heard at that moment.

    Raises:
        UserError: it shows more; or one is another sample's, or heard at another moment.
    """
    require_still(view)
    for name, each in (("view", view), ("sound", sound)):
        if each.partner:
            raise UserError(
                f"objective.{name}.partner True: an image and its own sound are learned from; leave it out (where"
                " another's is asked for, the method asks itself)"
            )
    if view.clip is not None and sound.of is None:
        raise UserError(
            "objective.sound.of None: the sound would begin anywhere in a video, not with the frame that is seen; set"
            " it to 0"
        )


def still(view: Float[Tensor, "b *_ c h w"]) -> Float[Tensor, "b c h w"]:
    """Images as they are; of clips of one frame that frame."""
    return view.flatten(0, 1) if view.ndim == 5 else view


def one_sized(view: RandomView, size: int) -> ViewSpec:
    """``objective.view`` alone, where a method can work with one size only.

    Args:
        view: the config's.
        size: of the view, pixels, as follows from what the encoder sees.

    Raises:
        UserError: it asks for another.
    """
    if view.size not in (0, size):
        raise UserError(
            f"objective.view.size {view.size}: this method's views have {size} pixels, which follows from"
            " encoder.image_size; leave it out"
        )
    return ViewSpec(views=(replace(view, size=size),))
