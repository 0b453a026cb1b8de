"""UDA recipes. Base learning rates are per 256 images. Labels are those in the shards, or --data.labeled-ids."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.uda import UDA
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import LARGER_RESNET, TENTH, Gate


def uda_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 40,000 steps of 15,360 images, for a tenth of the labels (appendix, from memory)."""
    weak, strong = RandomView(scale=(0.2, 1.0)), RandomView(scale=(0.2, 1.0), rand_augment=9.0)
    config = UDA.Config(weight=20.0, threshold=0.5, weak=weak, strong=strong)
    return on_imagenet(config, epochs=480, batch_size=15360, warmup_epochs=60, name="sgd", lr=0.15, weight_decay=1e-4)


def uda_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 400 epochs; the paper's 4,000 labels are a list for --data.labeled-ids."""
    return on_cifar10(
        UDA.Config(num_classes=10), epochs=400, batch_size=512, name="sgd", lr=0.03, nesterov=True, weight_decay=5e-4
    )


def uda_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    weak, strong = RandomView(scale=(0.8, 1.0), flip=0.0), RandomView(scale=(0.6, 1.0), flip=0.0, rand_augment=5.0)
    return on_digits(UDA.Config(num_classes=10, weak=weak, strong=strong))


GATE = Gate(
    uda_r18_cifar10,
    LARGER_RESNET,
    steps=160,
    batch_size=256,
    changes=f"--optim.warmup-steps 20 --optim.no-nesterov --data.labeled-ids {TENTH}",
)
