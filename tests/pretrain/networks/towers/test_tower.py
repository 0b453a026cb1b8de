"""A tower that was written down in plain values and is built again takes the same weights and says the same."""

import json
from dataclasses import asdict, replace

import msgspec
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.images.standard_depth import standard_depth
from eyespot.pretrain.networks.towers.tower import TextTower, TimmTower, Tower

TEXT = TextTower(num_tokens=20, end=19, context=7, width=12, layers=2, heads=3, out_dim=5)
SOUND = TimmTower(name="test_resnet", shape=(1, 40, 64))
DEPTH = TimmTower(name="test_vit", shape=(1, 160, 160), standardized=True)


@pytest.mark.parametrize(
    ("tower", "view"),
    [(TEXT, torch.arange(14).view(2, 7)), (SOUND, torch.randn(2, 1, 40, 64)), (DEPTH, torch.randn(2, 1, 160, 160))],
    ids=["text", "sound", "depth"],
)
def test_what_is_built_by_its_written_form_takes_its_weights(tower: Tower, view: torch.Tensor):
    again = msgspec.convert(json.loads(json.dumps(asdict(tower))), type(tower))
    assert again == tower
    torch.manual_seed(1)
    one, other = tower.build().eval(), again.build().eval()
    assert not torch.equal(tower.read(one, view), again.read(other, view))
    other.load_state_dict(one.state_dict())
    assert torch.equal(tower.read(one, view), again.read(other, view))
    assert tower.read(one, view).shape == (2, tower.out_width(one))


def test_depth_is_standardised_where_the_tower_says_so():
    tower, depth = DEPTH.build().eval(), 100 * torch.rand(2, 1, 160, 160)
    assert torch.allclose(DEPTH.read(tower, depth), DEPTH.read(tower, 7 * depth), atol=1e-4)
    plain = replace(DEPTH, standardized=False)
    assert torch.equal(plain.read(tower, standard_depth(depth)[0]), DEPTH.read(tower, depth))
    assert not torch.allclose(plain.read(tower, depth), DEPTH.read(tower, depth))


def test_what_cannot_be_built_is_refused():
    with pytest.raises(UserError, match="timm has no such architecture"):
        TimmTower(name="resnet_of_tomorrow", shape=(1, 8, 8)).build()
    for wrong in ({"width": 0}, {"layers": 1 << 30}, {"end": -1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**asdict(TEXT), **wrong}, TextTower)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "resnet18", "shape": [1, 8]}, TimmTower)
