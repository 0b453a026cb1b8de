"""BYOL recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.byol import BYOL
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def byol_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 1000 epochs: the paper's section 3.3, views from its table 6."""
    return on_imagenet(BYOL.Config(), epochs=1000, batch_size=4096, name="lars", lr=0.2, weight_decay=1.5e-6)


def byol_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 800 epochs: the paper's views without blur.

    The paper has no CIFAR-10; rate, decay, momentum and widths are those of lightly's benchmark (91.1 % kNN).
    """
    first = RandomView(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2)
    second = RandomView(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2, solarize=0.2)
    config = BYOL.Config(momentum=0.99, hidden_dim=1024, first=first, second=second)
    return on_cifar10(config, epochs=800, name="sgd", lr=0.12, weight_decay=5e-4, decay_vectors=True)


def byol_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(BYOL.Config(momentum=0.98, hidden_dim=256, out_dim=64, first=view, second=view))


GATE = Gate(
    byol_r18_cifar10,
    RESNET,
    steps=500,
    batch_size=128,
    changes="--optim.lr 2e-3 --objective.momentum 0.95"
    " --objective.first.scale 0.2 1.0 --objective.second.scale 0.2 1.0",
)
