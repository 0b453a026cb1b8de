"""Context encoders' recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.inpainting import Inpainting
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def inpainting_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 20 epochs (100,000 steps), four blocks as holes, reconstruction alone."""
    config = Inpainting.Config(region="blocks", adversarial=0.0)
    return on_imagenet(config, epochs=20, batch_size=256, warmup_epochs=1, lr=1e-3)


def inpainting_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs, the centre region with the adversarial loss. The paper has no CIFAR-10."""
    return on_cifar10(Inpainting.Config(view=RandomView(scale=(0.5, 1.0))), lr=1e-3)


def inpainting_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return on_digits(Inpainting.Config(hidden_dim=32, discriminator_dim=8, view=view))


GATE = Gate(
    inpainting_r18_cifar10,
    SMALL_VIT,
    steps=300,
    batch_size=128,
    changes="--optim.lr 2e-3 --objective.hidden-dim 64 --objective.region blocks --objective.adversarial 0",
)
