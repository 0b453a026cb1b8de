"""Metric losses' recipes. Base learning rates are per 256 images; the papers have none for these data."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.metric import Metric
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits
from eyespot.pretrain.recipes.gate import RESNET, Gate


def metric_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs, semi-hard triplets of views; other losses with --objective.loss."""
    view = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2)
    return on_cifar10(Metric.Config(hidden_dim=512, view=view), lr=1e-3, weight_decay=0.05)


def metric_tiny() -> Run:
    """A very small ResNet on the built-in digits, views told from noise: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(Metric.Config(loss="nce", hidden_dim=128, out_dim=64, view=view))


GATE = Gate(metric_r18_cifar10, RESNET, steps=250, batch_size=256)
