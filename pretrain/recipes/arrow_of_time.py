"""The arrow of time's recipes. Base learning rates are per 256 videos."""

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.arrow_of_time import ArrowOfTime
from eyespot.pretrain.recipes.datasets import on_falling_digits, on_videos


def arrow_of_time_r50_ucf101() -> Run:
    """ResNet-50 in VGG-16's place on UCF101, 10 frames, batches of 32 as the authors'; rate and length are ours.

    So much of every side is cut away that no crop shows black bars of an eighth of the image, which many of UCF101's
    videos have, and all frames are blurred alike: codecs make them sharp in turns. What pans or zooms stays in.
    """
    run = on_videos(
        ArrowOfTime.Config(), steps=60_000, batch_size=32, name="sgd", lr=0.08, weight_decay=5e-4, momentum=0.9
    )
    run.optim.decay_at = (0.5, 0.8)
    return run


def arrow_of_time_tiny() -> Run:
    """A very small ViT on falling digits, which have no bars and came through no codec: minutes on two cores."""
    view = RandomView(scale=(0.9, 1.0), flip=0.5, clip=Clip(6, stride=3))
    return on_falling_digits(ArrowOfTime.Config(border=0.0, frame_dim=16, hidden_dim=64, view=view))
