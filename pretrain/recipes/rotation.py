"""RotNet recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.rotation import Rotation
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import LARGER_RESNET, Gate


def rotation_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 35 epochs: the recipe of Kolesnikov et al. 2019 (arXiv:1901.09005), section 3.2."""
    run = on_imagenet(
        Rotation.Config(), epochs=35, batch_size=256, warmup_epochs=5, name="sgd", lr=0.1, weight_decay=1e-4
    )
    run.optim.decay_at = (15 / 35, 25 / 35)
    return run


def rotation_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 100 epochs at the paper's batch size (128) and rate (0.1, its section 4.1)."""
    view = RandomView(scale=(0.5, 1.0))
    return on_cifar10(
        Rotation.Config(view=view), epochs=100, batch_size=128, warmup_epochs=1, name="sgd", lr=0.2, weight_decay=5e-4
    )


def rotation_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    return on_digits(Rotation.Config(view=RandomView(scale=(0.6, 1.0), flip=0.0)))


GATE = Gate(rotation_r18_cifar10, LARGER_RESNET, steps=400, batch_size=128, changes="--optim.warmup-steps 100")
