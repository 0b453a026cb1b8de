"""Motion segmentation's recipes: on shards that eyespot shards motion wrote. Base rates are per 256 frames."""

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.motion_segmentation import MotionSegmentation
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import steps

YFCC_FRAMES = 1_600_000


def motion_segmentation_r50_yfcc() -> Run:
    """ResNet-50 on 1.6 million frames of YFCC's videos, 10 epochs. The paper has an AlexNet: size and rate are ours."""
    return Run(
        objective=MotionSegmentation.Config(),
        encoder=EncoderConfig(name="resnet50"),
        data=DataConfig(batch_size=256),
        optim=OptimConfig(lr=5e-4, warmup_steps=steps(1, YFCC_FRAMES, 256)),
        steps=steps(10, YFCC_FRAMES, 256),
        log_every=50,
        save_every=steps(1, YFCC_FRAMES, 256),
        picture_every=steps(1, YFCC_FRAMES, 256),
    )


def motion_segmentation_davis() -> Run:
    """A very small ResNet on DAVIS, 96 pixels: minutes on two cores."""
    view = RandomView(scale=(0.3, 1.0), clip=Clip(1))
    return Run(
        objective=MotionSegmentation.Config(hidden_dim=64, view=view),
        encoder=EncoderConfig(name="test_resnet", image_size=96),
        data=DataConfig(batch_size=16),  # DAVIS-2016 has 50 videos
        optim=OptimConfig(lr=8e-3, weight_decay=0.01, warmup_steps=50),
        steps=600,
        precision="fp32",
        save_every=200,
        picture_every=200,
    )


def motion_segmentation_tiny() -> Run:
    """The same on falling digits with their motion masks, 48 pixels."""
    run = motion_segmentation_davis()
    run.objective = MotionSegmentation.Config(hidden_dim=32, view=RandomView(scale=(0.6, 1.0), clip=Clip(1)))
    run.encoder.image_size, run.data.batch_size = 48, 64
    run.steps, run.save_every, run.picture_every = 300, 100, 100
    return run
