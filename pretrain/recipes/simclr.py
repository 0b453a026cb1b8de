"""SimCLR recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.simclr import SimCLR
from eyespot.pretrain.recipes.datasets import on_caltech10, on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def simclr_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 100 epochs: the paper's default setting (section 2.2; views: appendix A)."""
    return on_imagenet(SimCLR.Config(), epochs=100, batch_size=4096, name="lars", lr=0.3, weight_decay=1e-6)


def simclr_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 1000 epochs, with the paper's settings for its ResNet-50 (appendix B.9): no blur."""
    view = RandomView(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2)
    config = SimCLR.Config(temperature=0.5, view=view)
    return on_cifar10(config, epochs=1000, batch_size=1024, name="lars", lr=1.0, weight_decay=1e-6)


def simclr_r10_caltech10() -> Run:
    """ResNet-10-T on the photographs that come with eyespot, at 48 pixels: the quickstart, minutes on two cores."""
    view = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2)
    return on_caltech10(SimCLR.Config(temperature=0.2, view=view))


def simclr_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(SimCLR.Config(temperature=0.2, hidden_dim=128, out_dim=64, view=view))


GATE = Gate(simclr_r18_cifar10, RESNET, steps=250, batch_size=256)
