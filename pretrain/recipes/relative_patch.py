"""Relative patch recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.relative_patch import RelativePatch
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import LARGER_RESNET, Gate


def relative_patch_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 35 epochs, patches of 96 pixels: the recipe of Kolesnikov et al. 2019, section 3.2."""
    run = on_imagenet(
        RelativePatch.Config(), epochs=35, batch_size=256, warmup_epochs=5, name="sgd", lr=0.1, weight_decay=1e-4
    )
    run.encoder.image_size = 96
    run.optim.decay_at = (15 / 35, 25 / 35)
    return run


def relative_patch_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10 enlarged, patches of 32 pixels, 100 epochs. The paper has no CIFAR-10."""
    encoder = EncoderConfig(name="resnet18", image_size=32, small_stem=True)
    config = RelativePatch.Config(gap=0.25, hidden_dim=1024)
    return on_cifar10(config, encoder=encoder, epochs=100, batch_size=256, name="sgd", lr=0.1, weight_decay=5e-4)


def relative_patch_tiny() -> Run:
    """A very small ResNet on the built-in digits: a minute or two on two cores."""
    return on_digits(RelativePatch.Config(hidden_dim=64, gap=0.25, view=RandomView(scale=(0.8, 1.0), flip=0.0)))


GATE = Gate(
    relative_patch_r18_cifar10,
    LARGER_RESNET,
    steps=1200,
    batch_size=128,
    changes="--encoder.image-size 16 --optim.lr 2e-3 --objective.no-drop-colors"
    " --objective.gap 0.12 --objective.view.scale 0.8 1.0",
    shown_at=56,
)
