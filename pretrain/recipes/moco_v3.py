"""MoCo v3 recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from dataclasses import replace

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.moco_v3 import MoCoV3
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def moco_v3_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 300 epochs with LARS: the authors' setting (CONFIG.md of their repository)."""
    views = MoCoV3.Config()
    config = MoCoV3.Config(
        projector_layers=2,
        predictor_norm=False,
        freeze_patches=False,
        temperature=1.0,
        first=replace(views.first, scale=(0.2, 1.0)),
        second=replace(views.second, scale=(0.2, 1.0)),
    )
    return on_imagenet(config, epochs=300, batch_size=4096, name="lars", lr=0.3, momentum=0.9, weight_decay=1e-6)


def moco_v3_vits16_in1k() -> Run:
    """ViT-S/16 on ImageNet-1k, 300 epochs: the paper's setting (section 5), with timm's 6 attention heads."""
    return _vit_imagenet("vit_small_patch16_224")


def moco_v3_vitb16_in1k() -> Run:
    """ViT-B/16 on ImageNet-1k, 300 epochs: the paper's setting (section 5)."""
    return _vit_imagenet("vit_base_patch16_224")


def moco_v3_vitt_cifar10() -> Run:
    """ViT-Ti with 4-pixel patches on CIFAR-10, 200 epochs: the paper's method, heads as wide as the small encoder."""
    view = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_probability=0.8, grayscale=0.2)
    return on_cifar10(
        MoCoV3.Config(hidden_dim=1024, out_dim=256, first=view, second=replace(view, solarize=0.2)),
        encoder=EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=4),
        warmup_epochs=20,
        lr=5e-4,
        weight_decay=0.1,
        decay_vectors=True,
        betas=(0.9, 0.999),
    )


def moco_v3_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    config = MoCoV3.Config(hidden_dim=128, out_dim=64, first=view, second=view)
    return on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4), warmup_steps=30)


def _vit_imagenet(encoder: str) -> Run:
    """AdamW, rate 1.5e-4 per 256, batch 4096, decay 0.1 of all parameters, 40 epochs of warm-up (section 5)."""
    return on_imagenet(
        MoCoV3.Config(),
        encoder=encoder,
        epochs=300,
        batch_size=4096,
        warmup_epochs=40,
        lr=1.5e-4,
        weight_decay=0.1,
        decay_vectors=True,
        betas=(0.9, 0.999),
    )


GATE = Gate(
    moco_v3_vitt_cifar10, SMALL_VIT, steps=300, batch_size=256, changes="--encoder.patch-size 8 --optim.lr 2e-3"
)
