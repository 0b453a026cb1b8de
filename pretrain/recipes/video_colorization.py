"""Video colorization's recipes. Base learning rates are per 256 clips."""

from dataclasses import replace

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.video_colorization import VideoColorization
from eyespot.pretrain.optim.optimizers import OptimConfig


def video_colorization_r18_kinetics() -> Run:
    """ResNet-18 on Kinetics at 6 frames a second (shards pack --fps 6), 256 pixels: the paper's 400,000 steps of 32."""
    return Run(
        objective=VideoColorization.Config(),
        encoder=EncoderConfig(name="resnet18", image_size=256),
        data=DataConfig(batch_size=32),
        optim=OptimConfig(lr=8e-3, betas=(0.9, 0.999), weight_decay=0.0, decay_at=(0.15,)),  # 1e-3 for 32 clips
        steps=400_000,
        log_every=50,
        save_every=5_000,
        picture_every=20_000,
    )


def video_colorization_davis() -> Run:
    """A very small ResNet on DAVIS at 24 frames a second, frames four apart, 96 pixels: minutes on two cores."""
    view = RandomView(scale=(0.3, 1.0), clip=Clip(4, stride=4))
    return Run(
        objective=VideoColorization.Config(hidden_dim=64, layers=2, out_dim=32, view=view),
        encoder=EncoderConfig(name="test_resnet", image_size=96),
        data=DataConfig(batch_size=16),
        optim=OptimConfig(lr=3.2e-2, weight_decay=0.01, warmup_steps=50),
        steps=600,
        precision="fp32",
        save_every=200,
        picture_every=200,
    )


def video_colorization_tiny() -> Run:
    """The same on falling digits, all of them gray: that is soon learned, and all there is to see."""
    run = video_colorization_davis()
    view = RandomView(scale=(0.6, 1.0), clip=Clip(3))
    run.objective = VideoColorization.Config(hidden_dim=32, layers=2, out_dim=16, view=view)
    run.encoder = replace(run.encoder, image_size=48)
    run.steps, run.save_every, run.picture_every = 300, 100, 100
    return run
