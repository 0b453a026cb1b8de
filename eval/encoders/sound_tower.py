"""The sound tower of a run, judged like an encoder: by its features of the middle of each sample's sound."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import AudioView, CenterView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.run_objectives import objectives_of
from eyespot.eval.encoders.subject import OneKind, RawPixels, Subject
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.networks.encoders import features
from eyespot.pretrain.objective import Objective

UNSEEN = CenterView(resize=8, size=8)
"""No loader is without images: a small one, which nobody looks at."""


class OfSound(OneKind):
    """A tower of spectrograms."""

    kind = "sound"

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: Float[Tensor, "b 1 mels columns"]) -> Float[Tensor, "b d"]:
        """Its features, which the method projects."""
        return features(self.tower, images)


class RawSpectrogram(RawPixels):
    """The tower that does nothing, but for shrinking."""

    kind = "spectrogram"

    def forward(self, images: Float[Tensor, "b 1 mels columns"]) -> Float[Tensor, "b d"]:
        """The spectrogram as one long vector."""
        return self.shrunk(images)


def sound_subjects(target: str, seed: int) -> list[Subject]:
    """What is judged in place of encoders: the run's sound tower, the same with random weights, and spectrograms.

    Args:
        target: a run folder or one of its checkpoints.
        seed: of the random weights.

    Raises:
        UserError: the target is no run of a method that hears.
    """
    own = objectives_of(target, seed, lambda objective: isinstance(getattr(objective, "sound", None), nn.Module))
    if own is None:
        raise UserError(f"--tower sound: {target} is no run of a method with a sound tower, such as audio_visual")
    tag, step = own.checkpoint.absolute().name, checkpoint.read_meta(own.checkpoint).step
    views = _views(own.trained)
    known = {"views": views, "architecture": f"sound tower {type(own.trained).__name__}"}
    names = (f"{own.recipe}, step {step:,}", f"random weights (seed {seed})")
    trained, untrained = (OfSound(objective.get_submodule("sound")) for objective in (own.trained, own.untrained))
    origin: dict[str, str | int] = {"run": str(own.run_dir), "checkpoint": tag, "step": step, "tower": "sound"}
    return [
        Subject(name=names[0], tag=f"{tag}-sound", role="encoder", encoder=trained, origin=origin, **known),
        Subject(
            name=names[1],
            tag=f"random-seed{seed}-sound",
            role="random",
            encoder=untrained,
            origin={"tower": "sound", "seed": seed},
            **known,
        ),
        Subject(
            name="spectrogram",
            tag="spectrogram",
            role="pixels",
            encoder=RawSpectrogram(),
            views=views,
            origin={"tower": "sound"},
        ),
    ]


def _views(objective: Objective) -> ViewSpec:
    sound = next(view for view in objective.views().views if isinstance(view, AudioView))
    return ViewSpec(views=(replace(sound, place="center", of=None, partner=False), UNSEEN))


def only_sounds(views: list[Tensor], spec: ViewSpec) -> list[Tensor]:
    """Of a batch's views those that are looked at: where there are sounds, these."""
    sounds = [made for made, view in zip(views, spec.views, strict=True) if isinstance(view, AudioView)]
    return sounds or views
