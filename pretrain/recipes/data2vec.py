"""data2vec 2.0 recipes. Base learning rates are per 256 images; epochs become steps with the data set's images."""

from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.data2vec import Data2Vec
from eyespot.pretrain.recipes.datasets import IMAGENET_IMAGES, on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def data2vec_vitb16_in1k() -> Run:
    """ViT-B/16 on ImageNet-1k: 375,300 steps of 256 images with 16 masks each, as the authors' configuration says."""
    run = on_imagenet(
        Data2Vec.Config(),
        encoder="vit_base_patch16_224",
        epochs=1,  # steps are said below
        batch_size=256,
        lr=1e-3,
        weight_decay=0.05,
        clip=4.0,
    )
    run.steps, run.optim.warmup_steps = 375_300, 50_040
    run.save_every = round(5 * IMAGENET_IMAGES / 256)
    return run


def data2vec_vitt_cifar10() -> Run:
    """ViT-Ti with 4-pixel patches on CIFAR-10, 4 masks, 100 epochs. The paper has no CIFAR-10."""
    return on_cifar10(
        Data2Vec.Config(
            num_masks=4,
            top_blocks=10,
            decoder_dim=96,
            decoder_depth=4,
            block_size=2,
            class_weight=0.01,
            momentum=0.996,
            final_momentum=0.9999,
        ),
        encoder=EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=4),
        epochs=100,
        lr=5e-4,
        weight_decay=0.05,
    )


def data2vec_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits, 8 x 8 patches, 2 masks: minutes on two cores."""
    config = Data2Vec.Config(
        num_masks=2, mask_ratio=0.75, block_size=2, top_blocks=4, decoder_dim=32, decoder_depth=2, momentum=0.99,
        final_momentum=0.999, crop_scale=(0.6, 1.0), flip=0.0,
    )  # fmt: skip
    return on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=2))


GATE = Gate(
    data2vec_vitt_cifar10,
    SMALL_VIT,
    steps=400,
    batch_size=128,
    changes="--optim.lr 2e-3 --objective.top-blocks 5 --objective.momentum 0.99 --objective.final-momentum 0.998",
)
