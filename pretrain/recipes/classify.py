"""Supervised training from random weights. Fine-tuning and probes of trained encoders are recipes of their own."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.classify import Classify
from eyespot.pretrain.optim.optimizers import OptimConfig


def classify_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits: a minute on two cores."""
    return Run(
        objective=Classify.Config(num_classes=10, view=RandomView(scale=(0.6, 1.0), flip=0.0)),
        encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4),
        data=DataConfig(batch_size=256, normalize="dataset"),
        optim=OptimConfig(lr=2e-3, warmup_steps=20),
        steps=300,
        precision="fp32",
        save_every=100,
        picture_every=0,
    )
