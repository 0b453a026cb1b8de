"""Recipes of ambient sound. They need shards with sound (docs/data.md). Base learning rates are per 256 images."""

from dataclasses import replace

from eyespot.data_pipeline.augment.views import AudioView, Clip, RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.ambient_sound import AmbientSound
from eyespot.pretrain.recipes.datasets import on_digits, on_videos


def ambient_sound_r18_flickr() -> Run:
    """180,000 videos of Flickr, packed with --fps 1 --segment 10 --resize 256 --sound; 30 clusters: the paper's.

    320,000 steps of 256 images, as the paper's (from memory); ResNet-18 in CaffeNet's place, SGD at 0.01, are ours.
    """
    config = AmbientSound.Config()
    config.view, config.sound = replace(config.view, clip=Clip(1)), replace(config.sound, of=0)
    return on_videos(config, encoder="resnet18", steps=320_000, batch_size=256, name="sgd", lr=0.01, weight_decay=5e-4)


def ambient_sound_tiny() -> Run:
    """A very small ResNet, for digits and somebody who says them, 20 clusters: minutes on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    sound = AudioView(seconds=0.6, rate=8_000, mels=32, window=256, hop=120)
    return on_digits(AmbientSound.Config(num_clusters=20, view=view, sound=sound))
