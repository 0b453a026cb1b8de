"""Counting recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.counting import Counting
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def counting_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k at 112 pixels, 100 epochs; the paper trains an AlexNet at 114."""
    run = on_imagenet(Counting.Config(), epochs=100, batch_size=256, lr=1e-4, weight_decay=5e-4)
    run.encoder.image_size = 112
    return run


def counting_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, quarters of 16 pixels, 100 epochs. The paper has no CIFAR-10."""
    encoder = EncoderConfig(name="resnet18", image_size=16, small_stem=True)
    return on_cifar10(
        Counting.Config(hidden_dim=512, num_counts=256), encoder=encoder, epochs=100, batch_size=256, lr=1e-3
    )


def counting_tiny() -> Run:
    """A very small ViT on the built-in digits, quarters of 8 pixels: a minute or two on two cores."""
    config = Counting.Config(hidden_dim=64, num_counts=32, view=RandomView(scale=(0.8, 1.0), flip=0.0))
    return on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=8, patch_size=4))


GATE = Gate(counting_r18_cifar10, RESNET, steps=1200, batch_size=128, changes="--optim.lr 2e-3")
