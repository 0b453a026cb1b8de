"""CPC recipes. Base learning rates are per 256 images; of the papers' epochs and rates v2's are from memory."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.cpc import CPC
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import LARGER_RESNET, Gate


def cpc_r101_in1k() -> Run:
    """ResNet-v2-101 on ImageNet-1k, 7 x 7 patches of 64 pixels, Adam at 2e-4, 32 x 16 images (section 3.2).

    Without batch norm, as the paper's, which does not say what stands in its place: here BiT's norms over groups of
    channels and standardised weights. Nor does it say for how long: 100 epochs.
    """
    run = on_imagenet(
        CPC.Config(),
        encoder="resnetv2_101x1_bit",
        epochs=100,
        batch_size=512,
        warmup_epochs=0,
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.0,
    )
    run.encoder.image_size = 64
    return run


def cpc_v2_r50_in1k() -> Run:
    """CPC v2: ResNet-50 with group norm, 6 x 6 patches of 80 pixels, four directions, one channel of each patch."""
    view = RandomView(scale=(0.5, 1.0))
    config = CPC.Config(grid=6, overlap=0.55, directions=4, drop_colors=True, skipped=2, view=view)
    run = on_imagenet(
        config,
        encoder="resnet50_gn",
        epochs=200,
        batch_size=512,
        warmup_epochs=0,
        lr=2e-4,
        betas=(0.8, 0.999),
        weight_decay=0.0,
        clip=0.01,
    )
    run.encoder.image_size = 80
    return run


def cpc_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 7 x 7 patches of 8 pixels, 200 epochs. The papers have no CIFAR-10.

    With batch norm, unlike the papers', as the gate's encoder, too: there patches of an image may see each other.
    """
    encoder = EncoderConfig(name="resnet18", image_size=8, small_stem=True)
    config = CPC.Config(view=RandomView(scale=(0.5, 1.0), grayscale=0.25))
    return on_cifar10(config, encoder=encoder, epochs=200, batch_size=128, lr=4e-4, weight_decay=0.0)


def cpc_tiny() -> Run:
    """A very small ViT on the built-in digits, 4 x 4 patches of 8 pixels: a minute or two on two cores."""
    encoder = EncoderConfig(name="test_vit", image_size=8, patch_size=4)
    config = CPC.Config(
        grid=4,
        directions=2,
        context_dim=32,
        context_blocks=2,
        out_dim=32,
        view=RandomView(scale=(0.8, 1.0), flip=0.0),
    )
    return on_digits(config, encoder=encoder)


GATE = Gate(
    cpc_r18_cifar10,
    LARGER_RESNET,
    steps=500,
    batch_size=64,
    changes="--encoder.image-size 16 --objective.grid 5 --optim.lr 4e-3",
    shown_at=48,
)
