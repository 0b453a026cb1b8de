"""l-DAE recipes. Base learning rates are per 256 images."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.l_dae import LDAE
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def l_dae_vitl16_in1k() -> Run:
    """ViT-L/16 on ImageNet-1k, 400 epochs, 16 latents a patch, batch and rates as in the paper's appendix A."""
    return on_imagenet(
        LDAE.Config(),
        encoder="vit_large_patch16_224",
        epochs=400,
        batch_size=2048,
        warmup_epochs=100,
        lr=1e-4,
        weight_decay=0.0,
    )


def l_dae_vitt_cifar10() -> Run:
    """ViT-Ti with 4-pixel patches on CIFAR-10, 200 epochs. The paper has no CIFAR-10."""
    config = LDAE.Config(decoder_dim=96, decoder_depth=2, decoder_heads=3, view=RandomView(scale=(0.2, 1.0)))
    encoder = EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=4)
    return on_cifar10(config, encoder=encoder, lr=7.5e-4)


def l_dae_tiny() -> Run:
    """A very small ViT on the built-in digits, 8 latents a patch: a minute or two on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    config = LDAE.Config(decoder_dim=64, decoder_depth=2, decoder_heads=2, latent_dim=8, basis_images=512, view=view)
    return on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4), warmup_steps=100)


GATE = Gate(l_dae_vitt_cifar10, SMALL_VIT, steps=600, batch_size=128, changes="--optim.lr 2e-3")
