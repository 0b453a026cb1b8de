"""Views of several sizes: each sample's features are those of its own view, whatever goes through in one pass."""

import pytest
import torch

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.networks.encoders import EncoderConfig, features, make_encoder
from eyespot.pretrain.networks.multi_crop import accept_crops, encode_crops, pictured_crops


def make_views() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 3, size, size, generator=generator) for size in (32, 32, 16, 16, 24)]


@pytest.mark.parametrize(("name", "patch"), [("test_vit", 8), ("test_resnet", None)])
def test_features_of_each_view_in_its_place(name, patch):
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name=name, image_size=32, patch_size=patch)).eval()
    accept_crops(encoder, 3, RandomView(size=16))
    with torch.no_grad():
        found = encode_crops(encoder, make_views())
        expected = torch.stack([features(encoder, view) for view in make_views()])
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.shape == (5, 5, encoder.num_features)


def test_a_picture_has_a_row_for_each_kind_of_view():
    views = make_views()[:4]
    found = pictured_crops(views)
    assert found.shape == (3, 5, 3, 32, 32)
    assert torch.equal(found[:2], torch.stack(views[:2]))
    assert torch.equal(found[2, :, :, ::2, ::2], views[3])
    assert torch.equal(pictured_crops(views[:2])[2], views[1])


def test_wrong_sizes_name_their_field():
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=32, patch_size=8))
    with pytest.raises(UserError, match=r"objective\.small\.size 20: .*patches of 8 pixels, for instance 16$"):
        accept_crops(encoder, 1, RandomView(size=20))
    accept_crops(encoder, 0, RandomView(size=20))
