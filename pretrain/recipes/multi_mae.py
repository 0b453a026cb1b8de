"""MultiMAE's recipes. They need shards with depth maps (docs/data.md). Base learning rates are per 256 images."""

from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.multi_mae import MultiMAE
from eyespot.pretrain.recipes.datasets import on_digits, on_imagenet


def multi_mae_vitb16_in1k() -> Run:
    """ViT-B/16 on ImageNet-1k with pseudo depth, 1600 epochs: the paper's (base rate 1e-4, batch 2048; from memory)."""
    return on_imagenet(
        MultiMAE.Config(), encoder="vit_base_patch16_224", epochs=1600, batch_size=2048, warmup_epochs=40, lr=1e-4
    )


def multi_mae_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks), for small images with depth maps: minutes on two cores."""
    config = MultiMAE.Config(decoder_dim=32, decoder_depth=1, decoder_heads=2, crop_scale=(0.6, 1.0), flip=0.0)
    run = on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4), warmup_steps=100)
    run.steps, run.save_every, run.picture_every = 1000, 250, 250
    return run
