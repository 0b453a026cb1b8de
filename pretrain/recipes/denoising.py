"""Denoising autoencoders' recipes. Base learning rates are per 256 images. The paper has no large images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.denoising import Denoising
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def denoising_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs, half of the pixels masked."""
    return on_cifar10(Denoising.Config(view=RandomView(scale=(0.5, 1.0))), lr=1e-3)


def denoising_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    return on_digits(Denoising.Config(hidden_dim=32, view=RandomView(scale=(0.6, 1.0), flip=0.0)))


GATE = Gate(
    denoising_r18_cifar10,
    SMALL_VIT,
    steps=500,
    batch_size=128,
    changes="--optim.lr 4e-3 --objective.hidden-dim 64 --objective.share 0.75",
)
