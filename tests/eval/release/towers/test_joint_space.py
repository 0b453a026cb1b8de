"""Sounds and depth maps are embedded as their views say; kinds that a release has no tower for are refused."""

import pytest
import torch
from torch import nn

from eyespot.data_pipeline.augment.views import AudioView, DepthView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.sound_views import log_mel
from eyespot.eval.release.towers.joint_space import JointSpace
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.towers.tower import TimmTower


def make(kind: str, view: AudioView | DepthView, shape: tuple[int, int, int]) -> JointSpace:
    torch.manual_seed(0)
    config = TimmTower(name="test_resnet", shape=shape)
    encoder, tower = make_encoder(EncoderConfig(name="test_resnet", image_size=32)), config.build()
    width = config.out_width(tower)
    projections = nn.ModuleDict({"image": nn.Linear(width, 7), kind: nn.Linear(width, 7)})
    return JointSpace(encoder, kind, config, tower, projections, view=view).eval()


def test_sounds():
    view = AudioView(seconds=0.25, mels=40)
    space = make("sound", view, view.shape(()))
    short, long = torch.randn(1000), torch.randn(9000)
    found = space.embed_sounds([short, long])
    seen = [log_mel(wave, view) for wave in (torch.cat([short, torch.zeros(3000)]), long[:4000])]
    with torch.inference_mode():
        assert torch.equal(found, space.embed_joint("sound", torch.stack(seen)[:, None]))
    assert (found.norm(dim=1) - 1).abs().max() < 1e-6
    for embed, given in ((space.embed_texts, ["a"]), (space.embed_depths, torch.zeros(1, 1, 32, 32))):
        with pytest.raises(UserError, match="has a tower for sound beside that for images, and none for"):
            embed(given)


def test_depth_maps():
    space = make("depth", DepthView(of=0, scale=0.001), (1, 32, 32))
    maps, images = torch.rand(2, 1, 32, 32), torch.randn(3, 3, 32, 32)
    assert space.embed_depths(maps).shape == (2, 7) and space.embed_images(images).shape == (3, 7)
    assert not torch.equal(space.embed_depths(maps)[0], space.embed_depths(maps)[1])
