"""Tracked patches' recipes: on shards that eyespot shards tracks wrote. Base learning rates are per 256 tracks."""

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.tracked_patches import TrackedPatches
from eyespot.pretrain.optim.optimizers import OptimConfig


def tracked_patches_r50_videos() -> Run:
    """ResNet-50 on tracks of 100,000 videos: the authors' 400,000 steps of 100. Theirs is an AlexNet."""
    return Run(
        objective=TrackedPatches.Config(),
        encoder=EncoderConfig(name="resnet50"),
        data=DataConfig(batch_size=100),
        optim=OptimConfig(name="sgd", lr=2.56e-3, weight_decay=5e-4, decay_at=(0.25, 0.5, 0.75)),  # 1e-3 for 100 tracks
        steps=400_000,
        log_every=50,
        save_every=5_000,
        picture_every=20_000,
    )


def tracked_patches_davis() -> Run:
    """A very small ResNet on tracks of DAVIS, 64 pixels: minutes on two cores."""
    view = RandomView(scale=(0.4, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), clip=Clip(2))
    return Run(
        objective=TrackedPatches.Config(hidden_dim=128, out_dim=64, view=view),
        encoder=EncoderConfig(name="test_resnet", image_size=64),
        data=DataConfig(batch_size=32),  # of 20 videos of DAVIS come 37 tracks
        optim=OptimConfig(lr=4e-3, weight_decay=0.01, warmup_steps=50),
        steps=600,
        precision="fp32",
        save_every=200,
        picture_every=200,
    )


def tracked_patches_tiny() -> Run:
    """The same on falling digits, each a track of two frames; the margin is one that a few tracks cannot all keep."""
    run = tracked_patches_davis()
    run.objective = TrackedPatches.Config(
        margin=1.5, hidden_dim=64, out_dim=32, view=RandomView(scale=(0.6, 1.0), flip=0.0, clip=Clip(2))
    )
    run.encoder.image_size, run.data.batch_size = 24, 64
    run.steps, run.save_every, run.picture_every = 300, 100, 100
    return run
