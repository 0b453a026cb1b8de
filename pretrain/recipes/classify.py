"""Supervised training from random weights. Fine-tuning and probes of trained encoders are recipes of their own."""

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.objectives.classify import Classify
from eyespot.pretrain.recipes.datasets import on_digits


def classify_tiny() -> Run:
    """A very small ViT (64 channels, 6 blocks) on the built-in digits: a minute on two cores."""
    config = Classify.Config(num_classes=10, view=RandomView(scale=(0.6, 1.0), flip=0.0))
    run = on_digits(config, encoder=EncoderConfig(name="test_vit", image_size=16, patch_size=4))
    run.picture_every = 0
    return run
