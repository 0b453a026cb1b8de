"""Odd-one-out networks' recipes. Base learning rates are per 256 videos."""

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.odd_one_out import OddOneOut
from eyespot.pretrain.recipes.datasets import on_falling_digits, on_videos


def odd_one_out_r50_ucf101() -> Run:
    """ResNet-50 in AlexNet's place on UCF101: the schedule of shuffle and learn, as the paper's own is not at hand."""
    run = on_videos(
        OddOneOut.Config(), steps=100_000, batch_size=128, name="sgd", lr=2e-3, weight_decay=5e-4, momentum=0.9
    )
    run.optim.decay_at = (0.8,)
    return run


def odd_one_out_tiny() -> Run:
    """A very small ViT on falling digits, sequences of three of eight frames: minutes on two cores."""
    view = RandomView(scale=(0.9, 1.0), flip=0.0, clip=Clip(8, stride=2))
    return on_falling_digits(OddOneOut.Config(length=3, channels=16, frame_dim=64, hidden_dim=128, view=view))
