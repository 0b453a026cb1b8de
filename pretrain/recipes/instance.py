"""NPID recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.instance import Instance
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, TENTH, Gate


def instance_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 200 epochs; the rate falls after 120 and 160 (section 4.2)."""
    run = on_imagenet(
        Instance.Config(), epochs=200, batch_size=256, warmup_epochs=0, name="sgd", lr=0.03, weight_decay=1e-4
    )
    run.optim.decay_at = (120 / 200, 160 / 200)
    return run


def instance_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs, against all rows of the bank (section 4.1)."""
    config = Instance.Config(num_negatives=0, temperature=0.1)
    return on_cifar10(config, batch_size=128, warmup_epochs=1, name="sgd", lr=0.06, weight_decay=5e-4)


def instance_tiny() -> Run:
    """A very small ResNet on the built-in digits, against the whole bank: a minute or two on two cores."""
    return on_digits(Instance.Config(out_dim=32, num_negatives=0, view=RandomView(scale=(0.6, 1.0), flip=0.0)))


GATE = Gate(instance_r18_cifar10, RESNET, steps=600, batch_size=256, changes=f"--optim.lr 2e-3 --data.ids {TENTH}")
