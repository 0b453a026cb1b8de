"""iBOT recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.ibot import IBOT
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def ibot_vits16_in1k() -> Run:
    """ViT-S/16 on ImageNet-1k, 800 epochs, views 2x224 + 10x96: the paper's setting."""
    run = on_imagenet(
        IBOT.Config(),
        encoder="vit_small_patch16_224",
        epochs=800,
        batch_size=1024,
        lr=5e-4,
        min_lr=2.5e-7,
        weight_decay=0.04,
        final_weight_decay=0.4,
        betas=(0.9, 0.999),
        clip=3.0,
    )
    run.encoder.drop_path = 0.1
    return run


def ibot_vitt_cifar10() -> Run:
    """ViT-Ti with 4-pixel patches on CIFAR-10, 200 epochs, views 2x32 + 4x16, no blur. The paper has no CIFAR-10.

    As sharp and as quick a teacher as that of dino_r18_cifar10.
    """
    jitter = (0.4, 0.4, 0.2, 0.1)
    config = IBOT.Config(
        num_small=4,
        hidden_dim=512,
        out_dim=1024,
        momentum=0.99,
        teacher_temperature=(0.04, 0.04),
        patch_temperature=(0.04, 0.04),
        frozen=1 / 200,
        first=RandomView(scale=(0.3, 1.0), jitter=jitter, grayscale=0.2),
        second=RandomView(scale=(0.3, 1.0), jitter=jitter, grayscale=0.2, solarize=0.2),
        small=RandomView(size=16, scale=(0.08, 0.3), jitter=jitter, grayscale=0.2),
    )
    return on_cifar10(
        config,
        encoder=EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=4),
        lr=5e-4,
        weight_decay=0.04,
        betas=(0.9, 0.999),
        clip=3.0,
    )


def ibot_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits, 2 large and 2 small views: minutes."""
    large = RandomView(scale=(0.6, 1.0), flip=0.0)
    config = IBOT.Config(
        num_small=2,
        hidden_dim=64,
        bottleneck_dim=32,
        out_dim=64,
        momentum=0.95,
        centre_momentum=0.95,
        teacher_temperature=(0.04, 0.04),
        patch_temperature=(0.04, 0.04),
        frozen=0.02,
        first=large,
        second=large,
        small=RandomView(size=8, scale=(0.3, 0.6), flip=0.0),
    )
    return on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4), clip=3.0)


GATE = Gate(
    ibot_vitt_cifar10,
    SMALL_VIT,
    steps=300,
    batch_size=128,
    changes="--encoder.patch-size 8 --optim.lr 2e-3 --objective.num-small 2 --objective.out-dim 256"
    " --objective.momentum 0.95 --objective.frozen 0.01",
)
