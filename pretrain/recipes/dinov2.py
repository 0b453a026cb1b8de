"""DINOv2 recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.dinov2 import DINOv2
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def dinov2_vitl14_in22k() -> Run:
    """ViT-L/14 with 4 registers on ImageNet-22k, 625,000 steps of 3,072, views 2x224 + 8x98: the authors' vitl14.yaml.

    Registers are those of Darcet et al. 2023 (arXiv:2309.16588). The rate is the authors' 2e-4 for 1,024 images, which
    they let grow with the root of the batch; feed-forward layers are timm's, theirs SwiGLU.
    """
    config = DINOv2.Config()
    config.small = RandomView(size=98, scale=(0.05, 0.32), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2, blur=0.5)
    return Run(
        objective=config,
        encoder=EncoderConfig(name="vit_large_patch14_reg4_dinov2", image_size=224, drop_path=0.4),
        data=DataConfig(batch_size=3072),
        optim=OptimConfig(
            lr=2e-4 * (3072 / 1024) ** 0.5 / (3072 / 256),
            min_lr=1e-6 / (3072 / 256),
            warmup_steps=100_000,
            weight_decay=0.04,
            final_weight_decay=0.2,
            betas=(0.9, 0.999),
            clip=3.0,
        ),
        steps=625_000,
        log_every=50,
        save_every=5_000,
        picture_every=25_000,
    )


def dinov2_vitt_cifar10() -> Run:
    """ViT-Ti with 4-pixel patches on CIFAR-10, 200 epochs, views 2x32 + 4x16, no blur. The paper has no CIFAR-10.

    As quick a teacher as that of dino_r18_cifar10.
    """
    jitter = (0.4, 0.4, 0.2, 0.1)
    config = DINOv2.Config(
        num_small=4,
        hidden_dim=512,
        bottleneck_dim=256,
        out_dim=1024,
        momentum=0.99,
        teacher_temperature=(0.04, 0.04),
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


def dinov2_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits, 2 large and 2 small views: minutes."""
    large = RandomView(scale=(0.6, 1.0), flip=0.0)
    config = DINOv2.Config(
        num_small=2,
        hidden_dim=64,
        bottleneck_dim=32,
        out_dim=64,
        momentum=0.95,
        teacher_temperature=(0.04, 0.04),
        frozen=0.02,
        first=large,
        second=large,
        small=RandomView(size=8, scale=(0.3, 0.6), flip=0.0),
    )
    return on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4), clip=3.0)


GATE = Gate(
    dinov2_vitt_cifar10,
    SMALL_VIT,
    steps=300,
    batch_size=128,
    changes="--encoder.patch-size 8 --optim.lr 2e-3 --objective.num-small 2 --objective.out-dim 256"
    " --objective.momentum 0.95 --objective.frozen 0.01",
)
