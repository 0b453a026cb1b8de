"""BYOL recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.byol import BYOL
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import CIFAR10_IMAGES, IMAGENET_IMAGES, steps
from eyespot.pretrain.recipes.gate import RESNET, Gate


def byol_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 1000 epochs: the paper's section 3.3, views from its table 6."""
    return Run(
        objective=BYOL.Config(),
        encoder=EncoderConfig(name="resnet50"),
        data=DataConfig(batch_size=4096),
        optim=OptimConfig(name="lars", lr=0.2, weight_decay=1.5e-6, warmup_steps=steps(10, IMAGENET_IMAGES, 4096)),
        steps=steps(1000, IMAGENET_IMAGES, 4096),
        log_every=50,
        save_every=steps(5, IMAGENET_IMAGES, 4096),
        picture_every=steps(20, IMAGENET_IMAGES, 4096),
    )


def byol_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 800 epochs: the paper's views without blur.

    The paper has no CIFAR-10; rate, decay, momentum and widths are those of lightly's benchmark (91.1 % kNN).
    """
    first = RandomView(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2)
    second = RandomView(scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2, solarize=0.2)
    return Run(
        objective=BYOL.Config(momentum=0.99, hidden_dim=1024, first=first, second=second),
        encoder=EncoderConfig(name="resnet18", image_size=32, small_stem=True),
        data=DataConfig(batch_size=512, normalize="dataset"),
        optim=OptimConfig(
            name="sgd",
            lr=0.12,
            weight_decay=5e-4,
            decay_vectors=True,
            warmup_steps=steps(10, CIFAR10_IMAGES, 512),
        ),
        steps=steps(800, CIFAR10_IMAGES, 512),
        save_every=500,
        picture_every=500,
    )


def byol_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    return Run(
        objective=BYOL.Config(momentum=0.98, hidden_dim=256, out_dim=64, first=view, second=view),
        encoder=EncoderConfig(name="test_resnet", image_size=24),  # at 16 its last stage would stride over one pixel
        data=DataConfig(batch_size=256, normalize="dataset"),
        optim=OptimConfig(lr=2e-3, warmup_steps=20),
        steps=300,
        precision="fp32",
        save_every=100,
        picture_every=100,
    )


GATE = Gate(
    byol_r18_cifar10,
    RESNET,
    steps=500,
    batch_size=128,
    changes="--optim.lr 2e-3 --objective.momentum 0.95"
    " --objective.first.scale 0.2 1.0 --objective.second.scale 0.2 1.0",
)
