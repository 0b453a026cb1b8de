"""MAE recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.mae import MAE
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import CIFAR10_IMAGES, IMAGENET_IMAGES, steps
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def mae_vitb16_in1k() -> Run:
    """ViT-B/16 on ImageNet-1k, 800 epochs: the paper's table 8 (base rate 1.5e-4, batch 4096, 40 epochs of warm-up)."""
    return _imagenet("vit_base_patch16_224")


def mae_vitl16_in1k() -> Run:
    """ViT-L/16 on ImageNet-1k, 800 epochs: the paper's default encoder and settings (table 8)."""
    return _imagenet("vit_large_patch16_224")


def mae_vitt_cifar10() -> Run:
    """ViT-Ti with 4-pixel patches on CIFAR-10's 50,000 images of 32 pixels, 200 epochs."""
    return Run(
        objective=MAE.Config(decoder_dim=96, decoder_depth=2, decoder_heads=3),
        encoder=EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=4),
        data=DataConfig(batch_size=512, normalize="dataset"),
        optim=OptimConfig(lr=7.5e-4, warmup_steps=steps(10, CIFAR10_IMAGES, 512)),
        steps=steps(200, CIFAR10_IMAGES, 512),
        save_every=500,
        picture_every=500,
    )


def mae_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits: the quickstart, minutes on two cores."""
    return Run(
        objective=MAE.Config(decoder_dim=64, decoder_depth=2, decoder_heads=2, crop_scale=(0.6, 1.0), flip=0.0),
        encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4),
        data=DataConfig(batch_size=256, normalize="dataset"),
        optim=OptimConfig(lr=2e-3, warmup_steps=100),
        steps=1000,
        precision="fp32",
        save_every=250,
        picture_every=250,
    )


def _imagenet(encoder: str) -> Run:
    return Run(
        objective=MAE.Config(),
        encoder=EncoderConfig(name=encoder),
        data=DataConfig(batch_size=4096),
        optim=OptimConfig(lr=1.5e-4, warmup_steps=steps(40, IMAGENET_IMAGES, 4096)),
        steps=steps(800, IMAGENET_IMAGES, 4096),
        log_every=50,
        save_every=steps(5, IMAGENET_IMAGES, 4096),
        picture_every=steps(20, IMAGENET_IMAGES, 4096),
    )


GATE = Gate(mae_vitt_cifar10, SMALL_VIT, steps=600, batch_size=128, changes="--optim.lr 2e-3")
