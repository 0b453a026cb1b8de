"""VideoMAE's recipes. Base learning rates are per 256 videos; epochs become steps with the number of videos."""

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.video_mae import VideoMAE
from eyespot.pretrain.recipes.datasets import KINETICS400_VIDEOS, on_falling_digits, on_videos, steps


def video_mae_vitb16_k400() -> Run:
    """ViT-B/16 on Kinetics-400, 1600 epochs: the authors' script (base rate 1.5e-4, batch 2048, warm-up of 40)."""
    batch_size = 2048
    return on_videos(
        VideoMAE.Config(),
        encoder="vit_base_patch16_224",
        steps=steps(1600, KINETICS400_VIDEOS, batch_size),
        batch_size=batch_size,
        lr=1.5e-4,
        warmup_steps=steps(40, KINETICS400_VIDEOS, batch_size),
    )


def video_mae_tiny() -> Run:
    """A very small ViT on falling digits, four cubes of time and nine tenths masked: minutes on two cores."""
    view = RandomView(scale=(0.8, 1.0), flip=0.0, clip=Clip(8, stride=2))
    config = VideoMAE.Config(decoder_dim=48, decoder_depth=2, decoder_heads=3, view=view)
    return on_falling_digits(config, warmup_steps=100)
