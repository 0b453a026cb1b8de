"""CLIP's recipes. They need shards with captions (docs/data.md). Base learning rates are per 256 pairs."""

from dataclasses import replace

from eyespot.data_pipeline.augment.views import TextView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.clip import CLIP
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import on_digits


def clip_vitb32_wit400m() -> Run:
    """ViT-B/32, 32 epochs of 400 million pairs in batches of 32,768: the paper's (tables 18 to 20)."""
    batch_size = 32_768
    length = round(32 * 400e6 / batch_size)
    return Run(
        objective=CLIP.Config(),
        encoder=EncoderConfig(name="vit_base_patch32_clip_224"),
        data=DataConfig(batch_size=batch_size),
        optim=OptimConfig(lr=5e-4 * 256 / batch_size, warmup_steps=2000, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6),
        steps=length,
        log_every=50,
        save_every=length // 100,
        picture_every=length // 20,
    )


def clip_tiny() -> Run:
    """A very small ResNet and a text tower of two blocks, for small images with captions: minutes on two cores."""
    config = CLIP.Config(out_dim=32, text_width=32, text_layers=2, text_heads=2, text=TextView(context=16))
    config.view = replace(config.view, scale=(0.6, 1.0))
    return on_digits(config)
