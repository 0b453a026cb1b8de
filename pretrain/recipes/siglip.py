"""SigLIP's recipes. They need shards with captions (docs/data.md). Base learning rates are per 256 pairs."""

from dataclasses import replace

from eyespot.data_pipeline.augment.views import TextView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.siglip import SigLIP
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import on_digits


def siglip_vitb16_webli() -> Run:
    """ViT-B/16, 9 billion pairs seen in batches of 32,768: the paper's batch, rate and decay (from memory).

    Their decay of 1e-4 is taken off at each step as it is, here times the rate of 1e-3: so it is 0.1. The gradient is
    clipped as in their code's examples.
    """
    batch_size = 32_768
    length = round(9e9 / batch_size)
    return Run(
        objective=SigLIP.Config(text_width=768, text_heads=12, out_dim=768, text=TextView(context=64)),
        encoder=EncoderConfig(name="vit_base_patch16_224"),
        data=DataConfig(batch_size=batch_size),
        optim=OptimConfig(
            lr=1e-3 * 256 / batch_size, warmup_steps=10_000, weight_decay=1e-4 / 1e-3, betas=(0.9, 0.95), clip=1.0
        ),
        steps=length,
        log_every=50,
        save_every=length // 100,
        picture_every=length // 20,
    )


def siglip_tiny() -> Run:
    """A very small ResNet and a text tower of two blocks, for small images with captions: minutes on two cores."""
    config = SigLIP.Config(out_dim=32, text_width=32, text_layers=2, text_heads=2, text=TextView(context=16))
    config.view = replace(config.view, scale=(0.6, 1.0))
    return on_digits(config)
