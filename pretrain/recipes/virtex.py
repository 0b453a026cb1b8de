"""VirTex's recipes. They need shards with captions (docs/data.md). Base learning rates are per 256 images."""

from dataclasses import replace

from eyespot.data_pipeline.augment.views import TextView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.virtex import VirTex
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.recipes.datasets import on_digits


def virtex_r50_coco() -> Run:
    """ResNet-50, 500,000 steps of 256 images of COCO: the paper's length, batch, warm-up, clipping and decay.

    The authors train the encoder with SGD at 0.2 and the decoders at 1e-3, inside Lookahead. Here one AdamW trains
    both, at a rate that nobody has tried for so long.
    """
    return Run(
        objective=VirTex.Config(),
        encoder=EncoderConfig(name="resnet50"),
        data=DataConfig(batch_size=256),
        optim=OptimConfig(lr=2e-4, warmup_steps=10_000, weight_decay=1e-4, clip=10.0),
        steps=500_000,
        log_every=50,
        save_every=5000,
        picture_every=25_000,
    )


def virtex_tiny() -> Run:
    """A very small ResNet and decoders of one block, for small images with captions: minutes on two cores.

    Batches are small because a step takes a number for each of 49,408 tokens at each word.
    """
    config = VirTex.Config(text_width=32, text_heads=2, text=TextView(context=10))
    config.view = replace(config.view, scale=(0.6, 1.0))
    run = on_digits(config, lr=2e-2)
    run.data.batch_size = 32
    return run
