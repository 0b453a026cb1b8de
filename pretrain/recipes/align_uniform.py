"""Recipes of alignment and uniformity. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.align_uniform import AlignUniform
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def align_uniform_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 200 epochs: the paper's weights, powers and rates (section 5).

    There on top of MoCo v2; here there is no moving-average teacher, and no queue beside the batch.
    """
    config = AlignUniform.Config(alignment_weight=3.0, t=3.0)
    return on_imagenet(config, epochs=200, batch_size=256, warmup_epochs=0, name="sgd", lr=0.03, weight_decay=1e-4)


def align_uniform_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs of 768 at the rate of the authors' code for STL-10.

    Here it falls by a cosine. The paper has no CIFAR-10.
    """
    view = RandomView(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2)
    config = AlignUniform.Config(view=view)
    return on_cifar10(config, batch_size=768, warmup_epochs=1, name="sgd", lr=0.12, weight_decay=1e-4)


def align_uniform_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(AlignUniform.Config(hidden_dim=128, out_dim=64, view=view))


GATE = Gate(align_uniform_r18_cifar10, RESNET, steps=250, batch_size=256)
