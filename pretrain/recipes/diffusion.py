"""Diffusion recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.diffusion import Diffusion
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def diffusion_vitb16_in1k() -> Run:
    """ViT-B/16 on ImageNet-1k, 400 epochs at DiT's rate of 1e-4 for 256 images, without decay. DDPM has no ImageNet."""
    return on_imagenet(
        Diffusion.Config(),
        encoder="vit_base_patch16_224",
        epochs=400,
        batch_size=1024,
        warmup_epochs=5,
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.0,
    )


def diffusion_vits_cifar10() -> Run:
    """ViT-S with 2-pixel patches on CIFAR-10: the paper's 800,000 steps of 128, flipped only (appendix B).

    Adam as theirs, at a rate of 2e-4; gradients are cut to a norm of 1 as in the authors' code (from memory).
    """
    config = Diffusion.Config(
        decoder_dim=192, decoder_depth=4, decoder_heads=3, view=RandomView(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    )
    encoder = EncoderConfig(name="vit_small_patch16_224", image_size=32, patch_size=2)
    adam = {"lr": 4e-4, "betas": (0.9, 0.999), "weight_decay": 0.0, "clip": 1.0}
    run = on_cifar10(config, encoder=encoder, epochs=2048, batch_size=128, warmup_epochs=13, **adam)
    run.save_every = run.picture_every = 5000
    return run


def diffusion_vitt_cifar10() -> Run:
    """ViT-Ti with 4-pixel patches on CIFAR-10, 200 epochs."""
    config = Diffusion.Config(decoder_dim=96, decoder_depth=2, decoder_heads=3, view=RandomView(scale=(0.5, 1.0)))
    encoder = EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=4)
    return on_cifar10(config, encoder=encoder, lr=7.5e-4)


def diffusion_tiny() -> Run:
    """A very small ViT on the built-in digits: minutes on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    config = Diffusion.Config(decoder_dim=64, decoder_depth=2, decoder_heads=2, view=view)
    return on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4), warmup_steps=100)


GATE = Gate(diffusion_vitt_cifar10, SMALL_VIT, steps=600, batch_size=128, changes="--optim.lr 2e-3")
