"""LeJEPA recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.lejepa import LeJEPA
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def lejepa_vitl14_in1k() -> Run:
    """ViT-L/14 on ImageNet-1k, 100 epochs, views 2x224 + 6x98: what the authors' README recommends.

    It does not say how large a batch was; here it is 512, at which the rate is theirs, 5e-4.
    """
    return on_imagenet(
        LeJEPA.Config(),
        encoder="vit_large_patch14_224",
        epochs=100,
        batch_size=512,
        lr=2.5e-4,
        min_lr=2.5e-7,
        weight_decay=0.05,
        betas=(0.9, 0.999),
    )


def lejepa_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs, four large views, no blur; weight and views as in the authors' example."""
    view = RandomView(scale=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, solarize=0.2)
    return on_cifar10(
        LeJEPA.Config(weight=0.02, num_directions=256, num_large=4, num_small=0, out_dim=64, large=view),
        lr=1e-3,
        min_lr=1e-6,
        weight_decay=5e-4,
        betas=(0.9, 0.999),
    )


def lejepa_tiny() -> Run:
    """A very small ResNet on the built-in digits, 2 large and 2 small views: a minute or two on two cores."""
    large, small = RandomView(scale=(0.6, 1.0), flip=0.0), RandomView(size=16, scale=(0.3, 0.6), flip=0.0)
    return on_digits(
        LeJEPA.Config(num_directions=128, num_small=2, hidden_dim=128, out_dim=32, large=large, small=small)
    )


GATE = Gate(
    lejepa_r18_cifar10,
    RESNET,
    steps=250,
    batch_size=256,
    changes="--optim.lr 2e-3 --objective.num-large 2 --objective.hidden-dim 512 --objective.large.scale 0.2 1.0"
    " --objective.large.jitter 0.4 0.4 0.2 0.1",
)
