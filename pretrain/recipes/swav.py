"""SwAV recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.swav import SwAV
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import RESNET, Gate


def swav_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 800 epochs at batch 4096, views 2x224 + 6x96: the paper's appendix A."""
    return on_imagenet(
        SwAV.Config(), epochs=800, batch_size=4096, name="lars", lr=0.3, min_lr=0.0003, weight_decay=1e-6
    )


def swav_queue_r50_in1k() -> Run:
    """ResNet-50 on ImageNet-1k, 400 epochs at batch 256 with a queue: the authors' setting for small batches."""
    config = SwAV.Config(epsilon=0.03, frozen=1 / 400, queue_size=3840, queue_from=15 / 400)
    return on_imagenet(
        config, epochs=400, batch_size=256, warmup_epochs=0, name="lars", lr=0.6, min_lr=0.0006, weight_decay=1e-6
    )


def swav_r18_cifar10() -> Run:
    """ResNet-18 on CIFAR-10, 200 epochs, views 2x32 + 4x16, 512 prototypes, no blur. The paper has no CIFAR-10."""
    large = RandomView(scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2)
    small = RandomView(size=16, scale=(0.08, 0.3), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2)
    config = SwAV.Config(num_small=4, hidden_dim=512, num_prototypes=512, frozen=1 / 200, large=large, small=small)
    return on_cifar10(config, lr=5e-4, weight_decay=1e-6)


def swav_tiny() -> Run:
    """A very small ViT on the built-in digits, views 2x16 + 2x8, with a queue: a minute or two on two cores."""
    config = SwAV.Config(
        num_small=2,
        hidden_dim=64,
        out_dim=32,
        num_prototypes=32,
        frozen=0.02,
        queue_size=512,
        queue_from=0.1,
        large=RandomView(scale=(0.6, 1.0), flip=0.0),
        small=RandomView(size=8, scale=(0.3, 0.6), flip=0.0),
    )
    return on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4))


GATE = Gate(
    swav_r18_cifar10,
    RESNET,
    steps=300,
    batch_size=256,
    changes="--optim.lr 2e-3 --optim.warmup-steps 30"
    " --objective.num-small 2 --objective.num-prototypes 64 --objective.frozen 0.02",
)
