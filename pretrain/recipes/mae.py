"""MAE recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.mae import MAE
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def mae_vitb16_in1k() -> Run:
    """ViT-B/16 on ImageNet-1k, 800 epochs: the paper's table 8 (base rate 1.5e-4, batch 4096, 40 epochs of warm-up)."""
    return _imagenet("vit_base_patch16_224")


def mae_vitl16_in1k() -> Run:
    """ViT-L/16 on ImageNet-1k, 800 epochs: the paper's default encoder and settings (table 8)."""
    return _imagenet("vit_large_patch16_224")


def mae_vitt_cifar10() -> Run:
    """ViT-Ti with 4-pixel patches on CIFAR-10's 50,000 images of 32 pixels, 200 epochs."""
    config = MAE.Config(decoder_dim=96, decoder_depth=2, decoder_heads=3)
    return on_cifar10(
        config, encoder=EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=4), lr=7.5e-4
    )


def mae_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits: minutes on two cores."""
    config = MAE.Config(decoder_dim=64, decoder_depth=2, decoder_heads=2, crop_scale=(0.6, 1.0), flip=0.0)
    run = on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4), warmup_steps=100)
    run.steps, run.save_every, run.picture_every = 1000, 250, 250
    return run


def _imagenet(encoder: str) -> Run:
    return on_imagenet(MAE.Config(), encoder=encoder, epochs=800, batch_size=4096, warmup_epochs=40, lr=1.5e-4)


GATE = Gate(mae_vitt_cifar10, SMALL_VIT, steps=600, batch_size=128, changes="--optim.lr 2e-3")
