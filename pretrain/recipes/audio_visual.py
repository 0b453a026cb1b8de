"""Recipes of images and sound. They need shards with sound (docs/data.md). Base learning rates are per 256 pairs."""

from dataclasses import replace
from typing import Literal

from eyespot.data_pipeline.augment.views import AudioView, Clip, RandomView
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.audio_visual import AudioVisual
from eyespot.pretrain.recipes.datasets import on_digits, on_videos

FLICKR_VIDEOS = 500_000
"""Of ten seconds, of Flickr-SoundNet, that the authors learned from (from memory)."""


def audio_visual_r18_l3() -> Run:
    """L3-Net's question about Flickr-SoundNet or AudioSet, packed with --fps 25 --resize 256 --sound.

    Adam at 1e-4, a weight decay of 1e-5, batches of 256: the paper's, from memory. ResNets and 25 epochs are ours.
    """
    return _of_videos("correspondence", batch_size=256, weight_decay=1e-5)


def audio_visual_r18_ave() -> Run:
    """AVE-Net's distance; all else as in L3-Net's recipe."""
    return _of_videos("distance", batch_size=256, weight_decay=1e-5)


def audio_visual_r18_contrastive() -> Run:
    """Contrast among batches of 1,024 of the same videos; the numbers are ours."""
    return _of_videos("contrastive", batch_size=1024, weight_decay=1e-4)


def _of_videos(
    form: Literal["contrastive", "correspondence", "distance"], *, batch_size: int, weight_decay: float
) -> Run:
    config = AudioVisual.Config(form=form)
    config.view, config.sound = replace(config.view, clip=Clip(1)), replace(config.sound, of=0)
    steps = round(25 * FLICKR_VIDEOS / batch_size)
    return on_videos(config, encoder="resnet18", steps=steps, batch_size=batch_size, lr=1e-4, weight_decay=weight_decay)


def audio_visual_tiny() -> Run:
    """Two very small ResNets, for digits and somebody who says them: minutes on two cores."""
    view = RandomView(scale=(0.6, 1.0), flip=0.0)
    sound = AudioView(seconds=0.6, rate=8_000, mels=32, window=256, hop=120)
    return on_digits(AudioVisual.Config(out_dim=32, sound_encoder="test_resnet", view=view, sound=sound))
