"""Linear probing as papers report it: a linear layer on a frozen encoder, trained with augmentation for many epochs.

``eyespot eval linear-paper MODEL SHARDS --preset mae`` puts MODEL's encoder in the place of the recipe's, and the
number of images in that of ImageNet's. Base learning rates are per 256 images.
"""

from typing import Literal

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.classify import Classify
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import DIGITS_IMAGES, IMAGENET_IMAGES, steps

_VIEW = RandomView(scale=(0.08, 1.0))


def linear_paper_mae(images: int = IMAGENET_IMAGES) -> Run:
    """MAE's, 90 epochs: LARS, batch norm without scale and shift, batch 16384 (table 10 and FINETUNE.md)."""
    return _probe(
        EncoderConfig(name="vit_base_patch16_224"),
        OptimConfig(name="lars", lr=0.1, weight_decay=0.0, warmup_steps=steps(10, images, 16384)),
        batch_size=16384,
        num_steps=steps(90, images, 16384),
        head="batchnorm",
    )


def linear_paper_moco(images: int = IMAGENET_IMAGES) -> Run:
    """MoCo's, 100 epochs: SGD at rate 30, batch 256, a tenth after 60 and 80 epochs (first paper, section 4.1)."""
    return _probe(
        EncoderConfig(name="resnet50"),
        OptimConfig(name="sgd", lr=30.0, weight_decay=0.0, decay_at=(0.6, 0.8)),
        batch_size=256,
        num_steps=steps(100, images, 256),
    )


def linear_paper_simclr(images: int = IMAGENET_IMAGES) -> Run:
    """SimCLR's, 90 epochs: Nesterov's momentum at base rate 0.1, batch 4096, no decay, no warm-up (appendix B.6)."""
    return _probe(
        EncoderConfig(name="resnet50"),
        OptimConfig(name="sgd", nesterov=True, lr=0.1, weight_decay=0.0),
        batch_size=4096,
        num_steps=steps(90, images, 4096),
    )


def linear_paper_tiny(images: int = DIGITS_IMAGES) -> Run:
    """MAE's way for mae_tiny's ViT on the built-in digits, 10 epochs at batch 128: seconds on two cores."""
    run = _probe(
        EncoderConfig(name="test_vit", image_size=16, patch_size=4),
        OptimConfig(name="lars", lr=2.0, weight_decay=0.0, trust=0.02, warmup_steps=steps(1, images, 128)),
        batch_size=128,
        num_steps=steps(10, images, 128),
        head="batchnorm",
        view=RandomView(scale=(0.6, 1.0), flip=0.0),
    )
    run.data.normalize, run.precision = "dataset", "fp32"
    return run


def _probe(
    encoder: EncoderConfig,
    optim: OptimConfig,
    *,
    batch_size: int,
    num_steps: int,
    head: Literal["linear", "batchnorm"] = "linear",
    view: RandomView = _VIEW,
) -> Run:
    return Run(
        objective=Classify.Config(head=head, frozen=True, view=view),
        encoder=encoder,
        data=DataConfig(batch_size=batch_size),
        optim=optim,
        steps=num_steps,
        save_every=max(1, num_steps // 10),
        picture_every=0,
    )
