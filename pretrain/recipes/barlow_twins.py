"""Barlow Twins recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.barlow_twins import BarlowTwins
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def barlow_twins_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 1000 epochs with LARS: the paper's setting (section 2.2)."""
    return on_imagenet(
        BarlowTwins.Config(), epochs=1000, batch_size=2048, name="lars", lr=0.2, momentum=0.9, weight_decay=1.5e-6
    )


def barlow_twins_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs: the paper's method with a narrower projector and no blur.

    The paper has no CIFAR-10; its weight belongs to 8,192 dimensions.
    """
    view = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2)
    config = BarlowTwins.Config(dim=2048, weight=0.005, first=view, second=view)
    return on_cifar10(config, name="sgd", lr=0.06, weight_decay=5e-4)


def barlow_twins_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(BarlowTwins.Config(dim=128, weight=0.02, first=view, second=view))


GATE = Gate(barlow_twins_r18_cifar10, RESNET, steps=250, batch_size=256, changes="--objective.dim 512")
