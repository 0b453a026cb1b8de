"""Attentive probes: learned queries look at all tokens of a frozen encoder. Base learning rates are per 256 images.

``eyespot eval attentive MODEL SHARDS`` puts MODEL's encoder in the place of the recipe's, and the number of images in
that of ImageNet's.
"""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.classify import Classify
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import DIGITS_IMAGES, IMAGENET_IMAGES, steps


def attentive_vitb16_in1k(images: int = IMAGENET_IMAGES) -> Run:
    """ViT-B/16 on ImageNet-1k, 50 epochs of AdamW at batch 1024 with crops and flips.

    The head is AIM's (El-Nouby et al. 2024); rates and lengths differ among papers. The rate here, 2.5e-4 per
    256 images, is ours and chosen once for all encoders.
    """
    return Run(
        objective=Classify.Config(head="attentive", frozen=True, view=RandomView(scale=(0.3, 1.0))),
        encoder=EncoderConfig(name="vit_base_patch16_224"),
        data=DataConfig(batch_size=1024),
        optim=OptimConfig(lr=2.5e-4, weight_decay=0.05, betas=(0.9, 0.999), warmup_steps=steps(5, images, 1024)),
        steps=steps(50, images, 1024),
        log_every=50,
        save_every=max(1, steps(5, images, 1024)),
        picture_every=0,
    )


def attentive_tiny(images: int = DIGITS_IMAGES) -> Run:
    """mae_tiny's ViT on the built-in digits, 10 epochs: seconds on two cores."""
    return Run(
        objective=Classify.Config(
            num_classes=10, head="attentive", frozen=True, view=RandomView(scale=(0.6, 1.0), flip=0.0)
        ),
        encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4),
        data=DataConfig(batch_size=64, normalize="dataset"),
        optim=OptimConfig(lr=8e-3, betas=(0.9, 0.999), warmup_steps=steps(1, images, 64)),
        steps=steps(10, images, 64),
        precision="fp32",
        save_every=100,
        picture_every=0,
    )
