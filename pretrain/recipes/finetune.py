"""Fine-tuning recipes: an encoder that has learned without labels goes on with them, head and all.

``eyespot eval finetune MODEL SHARDS`` puts MODEL's encoder in the place of the recipe's, and the number of images in
that of the paper's, so that epochs stay epochs. Base learning rates are per 256 images.
"""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.images.mixup import MixConfig
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.classify import Classify
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import CIFAR10_IMAGES, DIGITS_IMAGES, IMAGENET_IMAGES, steps


def finetune_mae_vitb16_in1k(images: int = IMAGENET_IMAGES) -> Run:
    """ViT-B/16 on ImageNet-1k, 100 epochs: table 9 of the MAE paper with the rates of the authors' FINETUNE.md.

    The table has base rate 1e-3 and layer decay 0.75 for all sizes; the file, for ViT-B, 5e-4 and 0.65, and random
    erasing with probability 0.25.
    """
    return Run(
        objective=Classify.Config(
            num_classes=1000,
            pool="mean",
            mix=MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1),
            view=RandomView(scale=(0.08, 1.0), rand_augment=9.0, rand_augment_std=0.5, erase=0.25),
        ),
        encoder=EncoderConfig(name="vit_base_patch16_224", drop_path=0.1),
        data=DataConfig(batch_size=1024),
        optim=OptimConfig(
            lr=5e-4,
            weight_decay=0.05,
            betas=(0.9, 0.999),
            layer_decay=0.65,
            warmup_steps=steps(5, images, 1024),
        ),
        steps=steps(100, images, 1024),
        log_every=50,
        save_every=max(1, steps(5, images, 1024)),
        picture_every=0,
    )


def finetune_simclr_in1k(images: int = round(IMAGENET_IMAGES / 100)) -> Run:
    """ResNet-50 on 1 % of ImageNet-1k's labels, 60 epochs: SimCLR's semi-supervised learning (table 7, appendix B.5).

    For ``eyespot eval finetune MODEL SHARDS --shots 1%``; with 10% the paper has 30 epochs (--epochs 30). Nesterov's
    momentum, no decay, no warm-up; crops and flips alone (all from memory).
    """
    return Run(
        objective=Classify.Config(num_classes=1000, view=RandomView(scale=(0.08, 1.0))),
        encoder=EncoderConfig(name="resnet50"),
        data=DataConfig(batch_size=4096),
        optim=OptimConfig(name="sgd", nesterov=True, lr=0.05, weight_decay=0.0),
        steps=steps(60, images, 4096),
        save_every=50,
        picture_every=0,
    )


def finetune_cifar10(images: int = CIFAR10_IMAGES) -> Run:
    """A small encoder on CIFAR-10's images of 32 pixels, 100 epochs: milder than MAE's for ImageNet."""
    return Run(
        objective=Classify.Config(
            num_classes=10,
            pool="mean",
            mix=MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1),
            view=RandomView(scale=(0.4, 1.0), rand_augment=9.0, rand_augment_std=0.5),
        ),
        encoder=EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=4, drop_path=0.1),
        data=DataConfig(batch_size=256, normalize="dataset"),
        optim=OptimConfig(
            lr=1e-3, weight_decay=0.05, betas=(0.9, 0.999), layer_decay=0.75, warmup_steps=steps(5, images, 256)
        ),
        steps=steps(100, images, 256),
        save_every=500,
        picture_every=0,
    )


def finetune_tiny(images: int = DIGITS_IMAGES) -> Run:
    """mae_tiny's ViT on the built-in digits, 10 epochs: seconds on two cores."""
    return Run(
        objective=Classify.Config(
            num_classes=10,
            pool="mean",
            mix=MixConfig(mixup=0.2, smoothing=0.1),
            view=RandomView(scale=(0.6, 1.0), flip=0.0),
        ),
        encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4),
        data=DataConfig(batch_size=64, normalize="dataset"),
        optim=OptimConfig(lr=4e-3, betas=(0.9, 0.999), layer_decay=0.75, warmup_steps=steps(1, images, 64)),
        steps=steps(10, images, 64),
        precision="fp32",
        save_every=100,
        picture_every=0,
    )
