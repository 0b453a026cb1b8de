"""SimMIM recipes. Base learning rates are per 256 images; epochs become steps with the data set's number of images."""

from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.simmim import SimMIM
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet
from eyespot.pretrain.recipes.gate import SMALL_VIT, Gate


def simmim_swinb_in1k() -> Run:
    """Swin-B with windows of 6 on ImageNet-1k at 192 pixels, 800 epochs: the paper's main encoder."""
    run = _imagenet("swin_base_patch4_window7_224")
    run.encoder.image_size = 192
    return run


def simmim_vitb16_in1k() -> Run:
    """ViT-B/16 on ImageNet-1k at 224 pixels, 800 epochs."""
    return _imagenet("vit_base_patch16_224")


def simmim_vitt_cifar10() -> Run:
    """ViT-Ti with 4-pixel patches on CIFAR-10, squares of 8 pixels, 200 epochs. The paper has no CIFAR-10."""
    return on_cifar10(
        SimMIM.Config(mask_size=8),
        encoder=EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=4),
        lr=5e-4,
        betas=(0.9, 0.999),
    )


def simmim_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits, 4 x 4 patches: minutes on two cores."""
    config = SimMIM.Config(mask_size=4, crop_scale=(0.6, 1.0), flip=0.0)
    return on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4))


def _imagenet(encoder: str) -> Run:
    """AdamW, rate 4e-4 at a batch of 2048, a tenth of it from epoch 700 on, 10 epochs of warm-up, gradients cut at 5.

    So the configurations of the authors' repository; its warm-up begins at 5e-7.
    """
    return on_imagenet(
        SimMIM.Config(),
        encoder=encoder,
        epochs=800,
        batch_size=2048,
        warmup_epochs=10,
        lr=4e-4 / 8,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        clip=5.0,
        decay_at=(7 / 8,),
    )


GATE = Gate(simmim_vitt_cifar10, SMALL_VIT, steps=600, batch_size=128, changes="--optim.lr 2e-3")
