"""S4L recipes. Base learning rates are per 256 images. Labels are those in the shards, or --data.labeled-ids."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.s4l import S4L
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import LARGER_RESNET, TENTH, Gate


def s4l_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 200 epochs, rotation, for a tenth of the labels (section 5, from memory)."""
    run = on_imagenet(S4L.Config(), epochs=200, batch_size=256, warmup_epochs=5, name="sgd", lr=0.1, weight_decay=3e-4)
    run.optim.decay_at = (0.7, 0.8, 0.9)
    return run


def s4l_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs, rotation. The paper has no CIFAR-10."""
    config = S4L.Config(num_classes=10, view=RandomView(scale=(0.5, 1.0)))
    return on_cifar10(config, batch_size=256, name="sgd", lr=0.1, weight_decay=5e-4)


def s4l_tiny() -> Run:
    """A very small ResNet on the built-in digits, rotation: a minute or two on two cores."""
    return on_digits(S4L.Config(num_classes=10, view=RandomView(scale=(0.6, 1.0), flip=0.0)))


GATE = Gate(
    s4l_r18_cifar10,
    LARGER_RESNET,
    steps=220,
    batch_size=128,
    changes=f"--optim.warmup-steps 20 --data.labeled-ids {TENTH}",
)
