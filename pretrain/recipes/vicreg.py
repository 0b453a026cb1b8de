"""VICReg recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.vicreg import VICReg
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def vicreg_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 1000 epochs with LARS: the paper's setting (section 4.2)."""
    return on_imagenet(
        VICReg.Config(), epochs=1000, batch_size=2048, name="lars", lr=0.2, momentum=0.9, weight_decay=1e-6
    )


def vicreg_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs: the paper's method with a narrower expander and no blur."""
    view = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2)
    return on_cifar10(VICReg.Config(dim=2048, first=view, second=view), name="sgd", lr=0.03, weight_decay=5e-4)


def vicreg_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(VICReg.Config(dim=128, first=view, second=view))


GATE = Gate(vicreg_r18_cifar10, RESNET, steps=250, batch_size=256, changes="--objective.dim 512")
