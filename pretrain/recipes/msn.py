"""MSN recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.msn import MSN
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def msn_vits16_in1k() -> Run:
    """ViT-S/16 on ImageNet-1k, 800 epochs of 1,024 images, views 2x224 + 10x96: the authors' msn_vits16.yaml.

    Its rate begins at 2e-4. How views are made is as remembered.
    """
    return on_imagenet(
        MSN.Config(),
        encoder="vit_small_patch16_224",
        epochs=800,
        batch_size=1024,
        warmup_epochs=15,
        lr=1e-3 / 4,
        min_lr=1e-6 / 4,
        weight_decay=0.04,
        final_weight_decay=0.4,
        betas=(0.9, 0.999),
        clip=3.0,
    )


def msn_vitt_cifar10() -> Run:
    """ViT-Ti with 4-pixel patches on CIFAR-10, 200 epochs, views 2x32 + 4x16, no blur. The paper has no CIFAR-10."""
    jitter = (0.4, 0.4, 0.4, 0.1)
    config = MSN.Config(
        num_small=4,
        hidden_dim=512,
        out_dim=128,
        num_prototypes=256,
        momentum=0.99,
        large=RandomView(scale=(0.3, 1.0), jitter=jitter, grayscale=0.2),
        small=RandomView(size=16, scale=(0.08, 0.3), jitter=jitter, grayscale=0.2),
    )
    return on_cifar10(
        config,
        encoder=EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=4),
        lr=5e-4,
        weight_decay=0.05,
        betas=(0.9, 0.999),
    )


def msn_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits, views 2x16 + 2x8: minutes on two cores."""
    config = MSN.Config(
        num_small=2,
        hidden_dim=64,
        out_dim=32,
        num_prototypes=64,
        momentum=0.95,
        large=RandomView(scale=(0.5, 1.0), flip=0.0),
        small=RandomView(size=8, scale=(0.2, 0.5), flip=0.0),
    )
    return on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4))


GATE = Gate(
    msn_vitt_cifar10,
    SMALL_VIT,
    steps=300,
    batch_size=128,
    changes="--optim.lr 2e-3 --objective.num-small 2 --objective.momentum 0.95",
)
