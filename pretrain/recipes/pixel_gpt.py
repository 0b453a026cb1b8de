"""iGPT recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.pixel_gpt import PixelGPT
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import Gate


def pixel_gpt_small_in1k() -> Run:
    """iGPT-S on ImageNet-1k at 32 pixels: 1,000,000 steps of 128 at a rate of 0.003 (from memory; the appendix)."""
    run = on_imagenet(
        PixelGPT.Config(),
        encoder="pixel_transformer_small",
        epochs=100,
        batch_size=128,
        warmup_epochs=1,
        lr=6e-3,
        weight_decay=0.0,
    )
    run.encoder.image_size, run.steps = 32, 1_000_000
    return run


def pixel_gpt_tiny_cifar10() -> Run:
    """A small pixel transformer on CIFAR-10 halved to 16 pixels, 100 epochs. The paper's are five times as wide."""
    encoder = EncoderConfig(name="pixel_transformer_tiny", image_size=32, patch_size=2)
    config = PixelGPT.Config(view=RandomView(scale=(0.5, 1.0)))
    run = on_cifar10(config, encoder=encoder, epochs=100, batch_size=128, warmup_epochs=1, lr=4e-3, weight_decay=0.01)
    run.data.normalize = "imagenet"
    return run


def pixel_gpt_tiny() -> Run:
    """A very small pixel transformer on the built-in digits at 8 pixels: a minute or two on two cores."""
    encoder = EncoderConfig(name="test_pixel_transformer", image_size=16, patch_size=2)
    run = on_digits(PixelGPT.Config(view=RandomView(scale=(0.6, 1.0), flip=0.0)), encoder=encoder)
    run.data.normalize = "imagenet"
    return run


GATE = Gate(
    pixel_gpt_tiny_cifar10,
    "--encoder.patch-size 4",
    steps=700,
    batch_size=64,
    changes="--optim.lr 6e-3 --optim.weight-decay 0.01",
)
