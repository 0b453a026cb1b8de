"""Colorization recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.colorization import Colorization
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import LARGER_RESNET, Gate


def colorization_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 70 epochs. The paper's own network is a VGG-like one, so encoder and rate are ours."""
    return on_imagenet(Colorization.Config(), epochs=70, batch_size=512, lr=5e-4, weight_decay=1e-3)


def colorization_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 100 epochs. The paper has no CIFAR-10."""
    config = Colorization.Config(view=RandomView(scale=(0.5, 1.0)))
    run = on_cifar10(config, epochs=100, batch_size=256, warmup_epochs=5, lr=1e-3, weight_decay=1e-3)
    run.data.normalize = "imagenet"
    return run


def colorization_tiny() -> Run:
    """A very small ResNet on the built-in digits, all of them gray: that is soon learned, and all there is to see."""
    config = Colorization.Config(hidden_dim=32, view=RandomView(scale=(0.6, 1.0), flip=0.0))
    run = on_digits(config, encoder=EncoderConfig(name="test_resnet", image_size=24))
    run.data.normalize = "imagenet"
    return run


GATE = Gate(colorization_r18_cifar10, LARGER_RESNET, steps=600, batch_size=128, changes="--optim.lr 2e-3")
