"""MAE recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.encoders import EncoderConfig
from eyespot.pretrain.objectives.mae import MAE
from eyespot.pretrain.optim import OptimConfig

IMAGENET_IMAGES = 1_281_167


def mae_vitb16_in1k() -> Run:
    """ViT-B/16 on ImageNet-1k, 800 epochs: the paper's table 8 (base rate 1.5e-4, batch 4096, 40 epochs of warm-up)."""
    return _imagenet("vit_base_patch16_224")


def mae_vitl16_in1k() -> Run:
    """ViT-L/16 on ImageNet-1k, 800 epochs: the paper's default encoder and settings (table 8)."""
    return _imagenet("vit_large_patch16_224")


def mae_vitt_cifar10() -> Run:
    """ViT-Ti with 4-pixel patches on CIFAR-10's 50,000 images of 32 pixels, 200 epochs."""
    steps_per_epoch = 50_000 // 512
    return Run(
        objective=MAE.Config(decoder_dim=96, decoder_depth=2, decoder_heads=3),
        encoder=EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=4),
        data=DataConfig(batch_size=512, normalize="dataset"),
        optim=OptimConfig(lr=7.5e-4, warmup_steps=10 * steps_per_epoch),
        steps=200 * steps_per_epoch,
        save_every=500,
        picture_every=500,
    )


def mae_tiny() -> Run:
    """A very small ViT on the built-in digits: the quickstart, minutes on two cores."""
    return Run(
        objective=MAE.Config(decoder_dim=64, decoder_depth=2, decoder_heads=4, crop_scale=(0.6, 1.0)),
        encoder=EncoderConfig(name="vit_tiny_patch16_224", image_size=16, patch_size=2),
        data=DataConfig(batch_size=256, normalize="dataset"),
        optim=OptimConfig(lr=2e-3, warmup_steps=50),
        steps=600,
        save_every=200,
        picture_every=200,
    )


def _imagenet(encoder: str) -> Run:
    steps_per_epoch = IMAGENET_IMAGES // 4096
    return Run(
        objective=MAE.Config(),
        encoder=EncoderConfig(name=encoder),
        data=DataConfig(batch_size=4096),
        optim=OptimConfig(lr=1.5e-4, warmup_steps=40 * steps_per_epoch),
        steps=800 * steps_per_epoch,
        log_every=50,
        save_every=5 * steps_per_epoch,
        picture_every=20 * steps_per_epoch,
    )
