"""DINOv3 recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.dinov3 import DINOv3
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits
from eyespot.pretrain.recipes.gate import Gate


def dinov3_vitl16_in1k() -> Run:
    """ViT-L/16 with RoPE on ImageNet-1k, 100 epochs of 1,250 steps of 2,048, without Gram stage: vitl_im1k_lin834.yaml.

    The rate is the authors' 1e-3 for 1,024 images, which they let grow with the root of the batch. timm's encoder has 4
    registers, theirs none here; the rate of their patch embedding is a fifth.
    """
    view = RandomView(scale=(0.32, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2, blur=1.0)
    config = DINOv3.Config(
        momentum=0.992,
        final_momentum=1.0,
        warmup=30 / 100,
        frozen=1 / 100,
        box=1.0,
        gram_from=1.0,
        first=view,
        second=RandomView(scale=view.scale, jitter=view.jitter, grayscale=0.2, blur=0.1, solarize=0.2),
        small=RandomView(size=96, scale=(0.05, 0.32), jitter=view.jitter, grayscale=0.2, blur=0.5),
    )
    return Run(
        objective=config,
        encoder=EncoderConfig(name="vit_large_patch16_dinov3_qkvb", image_size=224, drop_path=0.3),
        data=DataConfig(batch_size=2048),
        optim=OptimConfig(
            lr=1e-3 * (2048 / 1024) ** 0.5 / (2048 / 256),
            min_lr=1e-6 / (2048 / 256),
            warmup_steps=12_500,
            weight_decay=0.04,
            final_weight_decay=0.4,
            betas=(0.9, 0.999),
            layer_decay=0.9,
            clip=3.0,
        ),
        steps=125_000,
        log_every=50,
        save_every=3_750,
        picture_every=12_500,
    )


def dinov3_vitl16_gram() -> Run:
    """ViT-L/16 by the schedules of ViT-7B: 1,000,000 constant steps of 4,096, then 200,000 with Gram anchoring.

    dinov3_vit7b16_gram_anchor.yaml, on images of your own; the Gram teacher is the slow teacher of step 200,000 and
    sees views of 512 pixels. ViT-7B itself: --encoder.name vit_7b_patch16_dinov3 --engine fsdp. The high-resolution
    stage is a run that goes on with this one's checkpoint: docs/coming_from.md.
    """
    scale = (4096 / 1024) ** 0.5 / (4096 / 256)
    return Run(
        objective=DINOv3.Config(),
        encoder=EncoderConfig(name="vit_large_patch16_dinov3", image_size=256, drop_path=0.4),
        data=DataConfig(batch_size=4096),
        optim=OptimConfig(
            lr=3e-5 * scale,
            min_lr=3e-5 * scale,
            warmup_steps=100_000,
            weight_decay=0.04,
            betas=(0.9, 0.99),
            layer_decay=0.98,
            clip=30.0,
        ),
        steps=1_200_000,
        log_every=50,
        save_every=5_000,
        picture_every=50_000,
    )


def dinov3_vitt_cifar10() -> Run:
    """ViT-Ti with RoPE and 4-pixel patches on CIFAR-10, 200 epochs, views 2x32 + 4x16, no blur.

    Gram anchoring in the last fifth; the Gram teacher is the slow teacher of the 60th epoch, and sees what the student
    sees. The paper has no CIFAR-10.
    """
    jitter = (0.4, 0.4, 0.2, 0.1)
    config = DINOv3.Config(
        num_small=4,
        hidden_dim=512,
        bottleneck_dim=256,
        out_dim=1024,
        momentum=0.99,
        final_momentum=0.99,
        teacher_temperature=(0.04, 0.04),
        frozen=1 / 200,
        gram_taken=0.3,
        gram_from=0.8,
        gram_refreshes=0,
        gram_scale=1.0,
        first=RandomView(scale=(0.3, 1.0), jitter=jitter, grayscale=0.2),
        second=RandomView(scale=(0.3, 1.0), jitter=jitter, grayscale=0.2, solarize=0.2),
        small=RandomView(size=16, scale=(0.08, 0.3), jitter=jitter, grayscale=0.2),
    )
    return on_cifar10(
        config,
        encoder=EncoderConfig(name="vit_tiny_patch16_dinov3_qkvb", image_size=32, patch_size=4),
        lr=5e-4,
        min_lr=5e-4,
        weight_decay=0.04,
        betas=(0.9, 0.999),
        clip=3.0,
    )


def dinov3_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits, 2 large and 2 small views: minutes.

    Its positions are learned, so no box is drawn; Gram anchoring from a fifth on, to larger views.
    """
    large = RandomView(scale=(0.6, 1.0), flip=0.0)
    config = DINOv3.Config(
        num_small=2,
        hidden_dim=64,
        bottleneck_dim=32,
        out_dim=64,
        momentum=0.95,
        final_momentum=0.95,
        teacher_temperature=(0.04, 0.04),
        frozen=0.02,
        box=1.0,
        gram_taken=0.1,
        gram_from=0.2,
        gram_every=0.1,
        gram_refreshes=1,
        first=large,
        second=large,
        small=RandomView(size=8, scale=(0.3, 0.6), flip=0.0),
    )
    return on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4), clip=3.0)


GATE = Gate(
    dinov3_vitt_cifar10,
    "--encoder.name test_vit --encoder.patch-size 8 --objective.box 1",
    steps=300,
    batch_size=128,
    changes="--optim.lr 2e-3 --optim.min-lr 0 --objective.num-small 2 --objective.out-dim 256"
    " --objective.momentum 0.95 --objective.final-momentum 1 --objective.frozen 0.01",
)
