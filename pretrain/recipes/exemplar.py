"""Exemplar-CNN recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.exemplar import Exemplar
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits
from eyespot.pretrain.recipes.gate import RESNET, TENTH, Gate


def exemplar_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, every image a class, 200 epochs. The paper learns from patches of STL-10."""
    return on_cifar10(Exemplar.Config(), batch_size=256, warmup_epochs=5, name="sgd", lr=0.05, weight_decay=1e-4)


def exemplar_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    return on_digits(Exemplar.Config(view=RandomView(scale=(0.6, 1.0), flip=0.0)))


GATE = Gate(
    exemplar_r18_cifar10,
    RESNET,
    steps=500,
    batch_size=256,
    changes=f"--optim.lr 2e-3 --objective.num-views 1 --data.ids {TENTH}",
)
