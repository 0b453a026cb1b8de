"""CMC's recipes for images and depth, which need shards with depth maps (docs/data.md). Base rates: per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.rgbd_contrast import RGBDContrast
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import on_digits, steps

NYU_IMAGES = 1_449


def rgbd_contrast_r50_nyu() -> Run:
    """Two ResNet-50 on NYU Depth V2's 1,449 labelled images, 128 pixels, 2,000 epochs (settings from memory)."""
    batch_size = 128
    length = steps(2000, NYU_IMAGES, batch_size)
    return Run(
        objective=RGBDContrast.Config(),
        encoder=EncoderConfig(name="resnet50", image_size=128),
        data=DataConfig(batch_size=batch_size),
        optim=OptimConfig(name="sgd", lr=0.03 * 256 / batch_size, weight_decay=1e-4, warmup_steps=length // 100),
        steps=length,
        log_every=50,
        save_every=length // 100,
        picture_every=length // 20,
    )


def rgbd_contrast_tiny() -> Run:
    """Two very small ResNets, for small images with depth maps: minutes on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(RGBDContrast.Config(out_dim=32, depth_encoder="test_resnet", view=view))
