"""Shuffle and learn's recipes. Base learning rates are per 256 videos."""

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.frame_order import FrameOrder
from eyespot.pretrain.recipes.datasets import on_falling_digits, on_videos


def frame_order_r50_ucf101() -> Run:
    """ResNet-50 in AlexNet's place on UCF101, 25 frames a second: the authors' 100k steps of 128 at a rate of 0.001.

    Windows of 30 frames with 15 and more on either side: both within the paper's tau_max 60 and tau_min 15.
    """
    run = on_videos(
        FrameOrder.Config(), steps=100_000, batch_size=128, name="sgd", lr=2e-3, weight_decay=5e-4, momentum=0.9
    )
    run.optim.decay_at = (0.8,)
    return run


def frame_order_tiny() -> Run:
    """A very small ViT on falling digits, windows of two frames to either side: minutes on two cores."""
    view = RandomView(scale=(0.9, 1.0), flip=0.0, clip=Clip(5, stride=2, pick="ordered", by_motion=True))
    return on_falling_digits(FrameOrder.Config(channels=16, frame_dim=64, hidden_dim=128, view=view))
