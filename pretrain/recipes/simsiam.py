"""SimSiam recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.simsiam import SimSiam
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def simsiam_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 100 epochs: the paper's setting (section 3), no warm-up."""
    return on_imagenet(
        SimSiam.Config(), epochs=100, batch_size=512, warmup_epochs=0, name="sgd", lr=0.05, weight_decay=1e-4
    )


def simsiam_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 800 epochs: the paper's setting (appendix D), a projector of two hidden layers as above.

    The paper's projector has two layers there.
    """
    view = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2)
    config = SimSiam.Config(view=view)
    return on_cifar10(config, epochs=800, warmup_epochs=0, name="sgd", lr=0.03, weight_decay=5e-4)


def simsiam_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    config = SimSiam.Config(dim=128, bottleneck=32, view=RandomView(scale=(0.6, 1.0), flip=0.0))
    return on_digits(config)


GATE = Gate(
    simsiam_r18_cifar10, RESNET, steps=300, batch_size=256, changes="--objective.dim 512 --objective.bottleneck 128"
)
