"""Jigsaw recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.jigsaw import Jigsaw
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import LARGER_RESNET, Gate


def jigsaw_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 70 epochs, tiles of 64 pixels, 100 orders: the authors' 350k steps of 256."""
    run = on_imagenet(
        Jigsaw.Config(), epochs=70, batch_size=256, warmup_epochs=1, name="sgd", lr=0.01, weight_decay=5e-4
    )
    run.encoder.image_size = 64
    return run


def jigsaw_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10 enlarged, tiles of 16 pixels, 100 epochs. The paper has no CIFAR-10."""
    encoder = EncoderConfig(name="resnet18", image_size=16, small_stem=True)
    config = Jigsaw.Config(tile_dim=128, hidden_dim=1024)
    return on_cifar10(config, encoder=encoder, epochs=100, batch_size=256, name="sgd", lr=0.1, weight_decay=5e-4)


def jigsaw_tiny() -> Run:
    """A very small ViT on the built-in digits, tiles of 8 pixels, 24 orders: a minute or two on two cores."""
    encoder = EncoderConfig(name="test_vit", image_size=8, patch_size=4)
    config = Jigsaw.Config(num_permutations=24, tile_dim=32, hidden_dim=64, view=RandomView(scale=(0.8, 1.0), flip=0.0))
    return on_digits(config, encoder=encoder)


GATE = Gate(
    jigsaw_r18_cifar10,
    LARGER_RESNET,
    steps=700,
    batch_size=128,
    changes="--optim.lr 2e-3 --objective.hidden-dim 256 --objective.view.scale 0.8 1.0",
    shown_at=56,
)
