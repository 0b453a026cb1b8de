"""What the recipes of many methods share: the data set that a run is made for, and what follows from it.

A recipe that says ``on_cifar10(...)`` differs from the others in what it names, and in nothing else.
"""

from typing import Any

from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.optimizers import OptimConfig

CIFAR10_IMAGES = 50_000
IMAGENET_IMAGES = 1_281_167
DIGITS_IMAGES = 1_438  # that eyespot shards pack digits puts into train/
CALTECH10_IMAGES = 1_401  # that come with the package
KINETICS400_VIDEOS = 240_436  # of the training split, as VideoMAE's authors had them (from memory)


def steps(epochs: int, images: int, batch_size: int) -> int:
    """Steps of so many epochs: the sample stream drops nothing at an epoch's end."""
    return round(epochs * images / batch_size)


def on_imagenet(
    objective: Objective.Config,
    *,
    encoder: str = "resnet50",
    epochs: int,
    batch_size: int,
    warmup_epochs: int = 10,
    **optim: Any,
) -> Run:
    """A run on ImageNet-1k at 224 pixels; a checkpoint every 5 epochs, a picture every 20.

    Args:
        objective: the method.
        encoder: timm's name.
        epochs: of the whole run.
        batch_size: images per step, over all ranks.
        warmup_epochs: of the learning rate's rise.
        optim: OptimConfig's further fields; ``lr`` is per 256 images.
    """
    return Run(
        objective=objective,
        encoder=EncoderConfig(name=encoder),
        data=DataConfig(batch_size=batch_size),
        optim=OptimConfig(warmup_steps=steps(warmup_epochs, IMAGENET_IMAGES, batch_size), **optim),
        steps=steps(epochs, IMAGENET_IMAGES, batch_size),
        log_every=50,
        save_every=steps(5, IMAGENET_IMAGES, batch_size),
        picture_every=steps(20, IMAGENET_IMAGES, batch_size),
    )


def on_cifar10(
    objective: Objective.Config,
    *,
    encoder: EncoderConfig | None = None,
    epochs: int = 200,
    batch_size: int = 512,
    warmup_epochs: int = 10,
    **optim: Any,
) -> Run:
    """A run on CIFAR-10 at 32 pixels, normalised by the data set's own statistics.

    Args:
        objective: the method.
        encoder: ResNet-18 with the small stem, if nothing is named.
        epochs: of the whole run.
        batch_size: images per step, over all ranks.
        warmup_epochs: of the learning rate's rise.
        optim: OptimConfig's further fields; ``lr`` is per 256 images.
    """
    return Run(
        objective=objective,
        encoder=encoder or EncoderConfig(name="resnet18", image_size=32, small_stem=True),
        data=DataConfig(batch_size=batch_size, normalize="dataset"),
        optim=OptimConfig(warmup_steps=steps(warmup_epochs, CIFAR10_IMAGES, batch_size), **optim),
        steps=steps(epochs, CIFAR10_IMAGES, batch_size),
        save_every=500,
        picture_every=500,
    )


def on_digits(objective: Objective.Config, *, encoder: EncoderConfig | None = None, **optim: Any) -> Run:
    """A run of a minute or two on two cores: the built-in digits, 300 steps of 256.

    Args:
        objective: the method, with narrow heads.
        encoder: a ResNet of timm's for tests, if nothing is named.
        optim: OptimConfig's fields, in place of a rate of 2e-3 with 20 steps of warm-up.
    """
    return Run(
        objective=objective,
        # At 16 pixels the last stage would halve a single one, and the gradient of that convolution's weights is
        # garbage in torch 2.14 on a CPU in bf16.
        encoder=encoder or EncoderConfig(name="test_resnet", image_size=24),
        data=DataConfig(batch_size=256, normalize="dataset"),
        optim=OptimConfig(**({"lr": 2e-3, "warmup_steps": 20} | optim)),
        steps=300,
        precision="fp32",
        save_every=100,
        picture_every=100,
    )


def on_caltech10(objective: Objective.Config, *, encoder: EncoderConfig | None = None, **optim: Any) -> Run:
    """A run of minutes on two cores: the photographs that come with the package, 240 steps of 128 at 48 pixels.

    Args:
        objective: the method.
        encoder: ResNet-10-T, if nothing is named.
        optim: OptimConfig's fields, in place of a rate of 2e-3 with 24 steps of warm-up.
    """
    return Run(
        objective=objective,
        encoder=encoder or EncoderConfig(name="resnet10t", image_size=48),
        data=DataConfig(batch_size=128, normalize="dataset"),
        optim=OptimConfig(**({"lr": 2e-3, "warmup_steps": 24} | optim)),
        steps=240,
        precision="fp32",
        save_every=80,
        picture_every=80,
    )


def on_videos(
    objective: Objective.Config, *, encoder: str = "resnet50", steps: int, batch_size: int, **optim: Any
) -> Run:
    """A run on videos, frames of 224 pixels; 100 checkpoints, 20 pictures.

    Args:
        objective: the method.
        encoder: timm's name.
        steps: of the whole run.
        batch_size: videos per step, over all ranks.
        optim: OptimConfig's further fields; ``lr`` is per 256 videos.
    """
    return Run(
        objective=objective,
        encoder=EncoderConfig(name=encoder),
        data=DataConfig(batch_size=batch_size),
        optim=OptimConfig(**optim),
        steps=steps,
        log_every=50,
        save_every=steps // 100,
        picture_every=steps // 20,
    )


def on_falling_digits(objective: Objective.Config, *, encoder: EncoderConfig | None = None, **optim: Any) -> Run:
    """A run of minutes on two cores: ``eyespot shards pack falling-digits``, 400 steps of 32 clips.

    Args:
        objective: the method, with narrow heads and few frames.
        encoder: a ViT of timm's for tests, if nothing is named: it knows where things are.
        optim: OptimConfig's fields, in place of a rate of 8e-3 with 20 steps of warm-up.
    """
    return Run(
        objective=objective,
        encoder=encoder or EncoderConfig(name="test_vit", image_size=48, patch_size=8),
        data=DataConfig(batch_size=32, normalize="dataset"),
        optim=OptimConfig(**({"lr": 8e-3, "warmup_steps": 20} | optim)),
        steps=400,
        precision="fp32",
        save_every=100,
        picture_every=100,
    )
