"""Time-contrastive networks' recipes. Base learning rates are per 256 videos."""

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.tcn import TCN
from eyespot.pretrain.recipes.datasets import on_falling_digits, on_videos


def tcn_r50_two_cameras() -> Run:
    """ResNet-50 in Inception's place, semi-hard triplets of two cameras: the authors' rate of 1e-4 and 32 moments.

    Four videos of eight moments a step; of no data set in particular: it needs two cameras that were on at once.
    """
    return _videos(TCN.Config())


def tcn_r50_one_camera() -> Run:
    """The same with one camera at 30 frames a second: within 6 frames alike, beyond 12 apart, as the authors' code."""
    view = RandomView(scale=(0.5, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.4, 0.1), clip=Clip(3, stride=6, pick="near_far"))
    return _videos(TCN.Config(cameras=1, view=view), videos=32)


def tcn_r50_several_frames() -> Run:
    """Dwibedi et al.'s: five frames make an embedding (from memory), n-pairs of two cameras."""
    return _videos(TCN.Config(loss="n_pair", joined=5, view=RandomView(scale=(0.5, 1.0), flip=0.0, clip=Clip(12, 6))))


def tcn_tiny() -> Run:
    """A very small ViT on falling digits, of which the other camera's are turned and inverted: minutes on two cores."""
    view = RandomView(scale=(0.9, 1.0), flip=0.0, clip=Clip(6, stride=3))
    return on_falling_digits(TCN.Config(channels=32, hidden_dim=64, out_dim=16, view=view))


def _videos(objective: TCN.Config, videos: int = 4) -> Run:
    rate = 1e-4 * 256 / videos
    return on_videos(objective, steps=100_000, batch_size=videos, lr=rate, betas=(0.9, 0.999), weight_decay=0.0)
