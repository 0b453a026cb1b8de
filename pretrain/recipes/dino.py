"""DINO recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.dino import DINO
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import LARGER_RESNET, Gate


def dino_vits16_in1k() -> Run:
    """ViT-S/16 on ImageNet-1k, 800 epochs, views 2x224 + 10x96: the paper's setting."""
    run = on_imagenet(
        DINO.Config(),
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


def dino_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs, views 2x32 + 4x16, no blur. The paper has no CIFAR-10.

    A teacher as sharp and as quick as here tells images apart within a few hundred steps; the paper's takes thousands.
    """
    jitter = (0.4, 0.4, 0.2, 0.1)
    config = DINO.Config(
        num_small=4,
        hidden_dim=512,
        out_dim=1024,
        momentum=0.99,
        teacher_temperature=(0.04, 0.04),
        frozen=1 / 200,
        first=RandomView(scale=(0.3, 1.0), jitter=jitter, grayscale=0.2),
        second=RandomView(scale=(0.3, 1.0), jitter=jitter, grayscale=0.2, solarize=0.2),
        small=RandomView(size=16, scale=(0.08, 0.3), jitter=jitter, grayscale=0.2),
    )
    return on_cifar10(config, lr=5e-4, weight_decay=0.04, betas=(0.9, 0.999), clip=3.0)


def dino_tiny() -> Run:
    """A very small ResNet on the built-in digits, 2 large and 2 small views: a minute or two on two cores."""
    large = RandomView(scale=(0.6, 1.0), flip=0.0)
    config = DINO.Config(
        num_small=2,
        hidden_dim=64,
        out_dim=64,
        momentum=0.95,
        centre_momentum=0.95,
        teacher_temperature=(0.04, 0.04),
        frozen=0.02,
        first=large,
        second=large,
        small=RandomView(size=24, scale=(0.3, 0.6), flip=0.0),
    )
    return on_digits(config)


GATE = Gate(
    dino_r18_cifar10,
    LARGER_RESNET,
    steps=350,
    batch_size=128,
    changes="--optim.lr 2e-3 --optim.warmup-steps 20"
    " --objective.num-small 2 --objective.out-dim 256 --objective.momentum 0.95 --objective.frozen 0.01",
)
